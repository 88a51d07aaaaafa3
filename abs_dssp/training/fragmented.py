"""Where the fragments of a model lie in its vector, and what is computed of each.

A worker has one vector of all variables, which its local steps move. A fragment's
server has a vector of its own, the fragment's parameters and behind them its
statistics; it computes what any server does (`flat.ServerFunctions`).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from abs_dssp.tasks import fragmenting
from abs_dssp.tasks.base import Task
from abs_dssp.training import flat
from abs_dssp.training.config import DTYPES, UpdateConfig
from abs_dssp.training.vectors import joined

Runs = tuple[tuple[int, int], ...]


class Place(NamedTuple):
    """Where a fragment lies in a task's vector. Static."""

    runs: Runs  # from and up to, not including; in order, parameters first
    parameters: int  # values before the statistics


class Division:
    """A task's vector, of length D, and its fragments' vectors, of length D_f.

    Attributes:
      names: of every fragment's arrays.
      sizes: D_f of every fragment.
      places: of every fragment.
      servers: what the server of every fragment computes.
    """

    def __init__(
        self, task: Task, config: UpdateConfig, names: Sequence[Sequence[str]]
    ):
        """Finds the arrays.

        Args:
          task: model.
          config: how pushes become updates.
          names: of every fragment's arrays, as `fragmenting.of_task` gives them.

        Raises:
          ValueError: unless every array is in one fragment.
        """
        whole = flat.layout(task)
        known = jax.tree_util.tree_leaves_with_path(
            jax.eval_shape(task.init, jax.random.key(0))
        )
        index = {
            jax.tree_util.keystr(path, simple=True, separator="."): number
            for number, (path, _) in enumerate(known)
        }
        if sorted(n for each in names for n in each) != sorted(index):
            raise ValueError(
                f"fragments: those of the trace must be of the arrays of {task.name}, "
                f"{', '.join(index)}, each in one of them; take the task of that run."
            )
        self.names = tuple(map(tuple, names))
        starts = [0]
        for shape in whole.shapes:
            starts.append(starts[-1] + math.prod(shape))
        self.places, self.servers = [], []
        for each in self.names:
            mine = sorted(index[name] for name in each)
            spans = [(starts[i], starts[i + 1]) for i in mine]
            count = sum(b - a for a, b in spans if a < whole.num_parameters)
            self.places.append(Place(_joined(spans), count))
            layout = _part(whole, mine, count)
            self.servers.append(flat.ServerFunctions(config, layout, task.num_workers))
        self.sizes = tuple(server.layout.size for server in self.servers)

    def part(self, vector: Any, fragment: int) -> Any:
        """A fragment of a vector of length D or more, (D_f,)."""
        return _part_of(self.places[fragment].runs, vector)

    def put(self, vector: Any, fragment: int, part: Any) -> Any:
        """The vector with a fragment in its place; its own dtype stays."""
        return _with_part(self.places[fragment].runs, vector, part)

    def carried(self, vector: Any, fragment: int, part: Any, sent: Any) -> Any:
        """The vector with a fragment that comes while the worker went on.

        What its local steps did to the fragment's parameters since they were sent stays
        on top, so that the next push has all of it; statistics are those that came.

        Args:
          vector: the worker's own variables, (D,) or longer.
          fragment: 0..F-1.
          part: the fragment that it was given, (D_f,).
          sent: the fragment as it was when it was pushed, (D_f,).
        """
        return _carried(self.places[fragment], vector, part, sent)

    def push(self, pulled: Any, vector: Any, fragment: int, dtype: str) -> Any:
        """What a worker sends of a fragment.

        Args:
          pulled: the fragment as it was pulled, (D_f,).
          vector: the worker's own variables, (D,) or longer.
          fragment: 0..F-1.
          dtype: format of pushes.

        Returns:
          How far its parameters went, from end to start, and its statistics, (D_f,).
        """
        return _push(self.places[fragment], dtype, pulled, vector)

    def join(self, parts: Sequence[Any]) -> Any:
        """The vector of all fragments, (D,) float32."""
        runs = tuple(place.runs for place in self.places)
        return _join(runs, sum(self.sizes), tuple(parts))


class PartFunctions(flat.ServerFunctions):
    """What a server of a cluster computes that has one fragment alone.

    Attributes:
      fragment: 0..F-1.
      task: of the whole model.
      wire: number formats of pushes and pulls.
      local_size: 0: the state of a local optimiser stays with its worker.
      initial: `(key) -> (D_f,)`, version 0.
      pulled: `(vector) -> vector`, a copy of a version in the format of pulls.
    """

    local_size = 0
    keeps_every_push = True  # the worker went on from it all the same
    split = None

    def __init__(self, functions: flat.Functions, parts: Division, fragment: int):
        layout = parts.servers[fragment].layout
        super().__init__(functions.config, layout, functions.task.num_workers)
        self.task, self.wire = functions.task, functions.wire
        self.fragments = len(parts.servers)
        self.pulled = functions.pulled
        self._initial, self._parts, self.fragment = functions.initial, parts, fragment

    def initial(self, key: Any) -> Any:
        """See the class."""
        return self._parts.part(self._initial(key), self.fragment)

    def evaluate(self, data: Any, vector: Any) -> dict[str, float]:
        """Nothing: of a part there is nothing to measure."""
        del data, vector
        return {}

    def placed(self, tree: Any, devices: Any = None) -> Any:
        """Arrays where a server computes: where they are."""
        del devices
        return tree


def division(task: Task, config: UpdateConfig, count: int) -> Division:
    """The fragments of a task that `fragmenting.of_task` makes.

    Example:
      >>> import optax
      >>> from abs_dssp import tasks
      >>> made = division(tasks.digits(2), UpdateConfig(optax.sgd(1.0)), 2)
      >>> made.sizes, made.part(jnp.arange(4810.0), 1)[:2].tolist()
      ((4160, 650), [4160.0, 4161.0])
    """
    return Division(task, config, fragmenting.of_task(task, count).names)


def require_displacement(where: str, config: UpdateConfig) -> None:
    """Refuses pushes of gradients, of which each would hold one fragment's alone.

    Raises:
      ValueError: unless displacements are pushed.
    """
    if config.push != "displacement":
        raise ValueError(
            f"{where}: fragments need push='displacement', which carries all that was "
            f"done since a fragment's last push, got {config.push!r}; give a local "
            "optimizer too, such as sgd(0.1) beside sgd(1.0)."
        )


def _joined(spans: Sequence[tuple[int, int]]) -> Runs:
    """Spans in order, those that touch as one."""
    runs: list[tuple[int, int]] = []
    for start, stop in spans:
        if runs and runs[-1][1] == start:
            start = runs.pop()[0]
        runs.append((start, stop))
    return tuple(runs)


def _part(whole: flat.Layout, mine: Sequence[int], count: int) -> flat.Layout:
    """The layout of some arrays: the variables' pytree, with None for the others."""
    kept = set(mine)
    leaves = [i if i in kept else None for i in range(len(whole.shapes))]
    structure = jax.tree.structure(jax.tree.unflatten(whole.structure, leaves))
    shapes = tuple(whole.shapes[i] for i in mine)
    return flat.Layout(structure, shapes, sum(map(math.prod, shapes)), count)


@functools.partial(jax.jit, static_argnums=(0,))
def _part_of(runs: Runs, vector):
    return joined([vector[start:stop] for start, stop in runs])


@functools.partial(jax.jit, static_argnums=(0,))
def _with_part(runs: Runs, vector, part):
    at = 0
    for start, stop in runs:
        piece = part[at : at + stop - start].astype(vector.dtype)
        vector = vector.at[start:stop].set(piece)
        at += stop - start
    return vector


@functools.partial(jax.jit, static_argnums=(0,))
def _carried(place: Place, vector, part, sent):
    cut = place.parameters
    since = _part_of(place.runs, vector)[:cut] - sent[:cut]
    part = part.astype(vector.dtype)
    return _with_part(place.runs, vector, part.at[:cut].add(since))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _push(place: Place, dtype: str, pulled, vector):
    own, cut = _part_of(place.runs, vector), place.parameters
    moved = pulled[:cut].astype(jnp.float32) - own[:cut]
    return joined([moved, own[cut:]]).astype(DTYPES[dtype])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _join(runs, size: int, parts):
    vector = jnp.zeros(size, jnp.float32)
    for each, part in zip(runs, parts, strict=True):
        vector = _with_part(each, vector, part)
    return vector
