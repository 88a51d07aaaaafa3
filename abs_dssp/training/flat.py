"""Pushes and commits over one contiguous buffer, each a compiled function of its own.

A cluster's workers and server call these, and so does the replay of a cluster's run:
the same executables on the same numbers give the same bits. Parameters and BatchNorm
statistics lie in one float32 vector of length D, in the order of the pytree's leaves;
a push lies in a vector of the same length, gradients where the parameters are. Where
workers keep the state of their local optimiser, what travels is longer: S more numbers
hold the bits of that state, after a version as after a push (`local_vectors`). The
formulas are those of `update` and `aggregators`; this module cuts vectors for them.
"""

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from abs_dssp import compilation
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.tasks.splitting import Split
from abs_dssp.training import local_vectors, update
from abs_dssp.training.config import DTYPES, UpdateConfig, Wire
from abs_dssp.training.config import wire as wire
from abs_dssp.training.elementwise import is_elementwise
from abs_dssp.training.vectors import joined

_ONE_THREAD = 1 << 20  # bytes of a vector; a larger one gains by several threads


class Layout(NamedTuple):
    """Where each leaf of the variables lies; static."""

    structure: Any  # treedef of Variables
    shapes: tuple[tuple[int, ...], ...]
    size: int  # values in all
    num_parameters: int  # values before the statistics

    def unflatten(self, vector: Float[Array, " D"]) -> Variables:
        """The pytree of a vector; the inverse of `flatten`."""
        leaves, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            leaves.append(vector[start:stop].reshape(shape))
            start = stop
        return jax.tree.unflatten(self.structure, leaves)


def flatten(variables: Variables) -> Float[Array, " D"]:
    """The vector of a pytree, leaf after leaf; float32 if the leaves are.

    Example:
      >>> flatten(Variables({"a": jnp.ones((2, 2))}, {"mean": jnp.zeros(1)})).tolist()
      [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    return joined([jnp.ravel(leaf) for leaf in jax.tree.leaves(variables)])


def layout(task: Task) -> Layout:
    """The layout of a task's variables, parameters first.

    Raises:
      ValueError: if a leaf is not float32.
    """
    variables = jax.eval_shape(task.init, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"{task.name}: {jax.tree_util.keystr(path)} is {leaf.dtype}; "
                "parameters and statistics must be float32 to travel in one buffer."
            )
    leaves, structure = jax.tree.flatten(variables)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    count = len(jax.tree.leaves(variables.params))
    shapes = tuple(leaf.shape for leaf in leaves)
    return Layout(structure, shapes, sum(sizes), sum(sizes[:count]))


class Plan(NamedTuple):
    """What a commit depends on besides its arrays. Static."""

    config: UpdateConfig
    layout: Layout
    elementwise: bool  # whether the optimiser may run over the vector as it is
    num_workers: int


class Travel(NamedTuple):
    """What a push depends on besides the task and its arrays. Static."""

    config: UpdateConfig
    layout: Layout
    local: local_vectors.LocalLayout | None  # None: starts anew at every pull
    dtype: str  # format of pushes
    pull: str  # of pulls


class ServerFunctions:
    """What a server computes, compiled. Stateless; shared by threads.

    Every vector has length `layout.size`. A donated argument is used up.

    Attributes:
      fragments: F, of which this is one; 1 for a server of all parameters.
      keeps_every_push: whether pushes that the policy discards matter too.
      copy: `(vector) -> vector`.
      start_optimizer: `(vector) -> state`.
      init: `(vector) -> accumulator`, see `aggregators.Aggregator`.
      accumulate: `(accumulator, arrival) -> accumulator`, donating the first. The
        arrival's `gradient`, `present` and `pulled` are whole vectors, its `stats` ().
      commit: `(vector, state, accumulator, epoch, version)`, donating the first three,
        gives the next three.
      commit_single: `(vector, state, push, numbers)`, donating the first two, gives the
        next two: the commit of a single push. Numbers are those of `packed`.
      commit_singles: `(vector, state, pushes, numbers)`: several such commits in one
        call; gives every vector as one array, (pushes, D), and the last one and state.
    """

    fragments = 1
    keeps_every_push = False

    def __init__(self, config: UpdateConfig, layout: Layout, num_workers: int):
        self.config, self.layout = config, layout
        plan = Plan(config, layout, is_elementwise(config.optimizer), num_workers)
        self.copy = _copy
        self.start_optimizer = functools.partial(_start_optimizer, plan)
        self.init = functools.partial(_init, plan)
        self.accumulate = _compiled(_accumulate, plan, 1)
        self.commit = _compiled(_commit, plan, 3)
        self.commit_single = _compiled(_commit_single, plan, 2)
        self.commit_singles = _compiled(_commit_singles, plan, 2)


class Functions(ServerFunctions):
    """The compiled functions of a task. Stateless; shared by threads.

    Pushes are computed on one device; `mesh.functions` has those for several.

    Every vector has length D, `layout.size`, but for what `push`, `begin` and `compute`
    are given and `push` and `finish` give: D + `local_size`. A donated argument is used
    up.

    Attributes:
      split: what a worker's devices have of the parameters; None for one device.
      local_size: S, numbers of a worker's local optimiser that travel; 0 if it starts
        anew at every pull.
      initial: `(key) -> vector`, version 0.
      push: `(vector, data, key, context) -> (push, loss)`, for one local step.
      begin, step, finish: the same for several, as in `update`.
      start_local: `(vector) -> (S,)`, a local optimiser at its start.
      pulled: `(vector) -> vector`, a copy of a version in the format of pulls.
      evaluate, objective: `(data, vector)`, as in the task.
    """

    split: Split | None = None

    def __init__(self, task: Task, config: UpdateConfig, formats: Wire = Wire()):  # noqa: B008
        super().__init__(config, layout(task), task.num_workers)
        functions = task._replace(data=None, constants=None)  # hashable
        self.task, self.wire = functions, formats
        kept = local_vectors.layout(task, config)
        local_vectors.require_exact(kept, formats)
        self.local_size = 0 if kept is None else kept.size
        self.keeps_every_push = self.local_size > 0
        travel = Travel(config, self.layout, kept, *formats)
        self.travel = travel
        self.initial = functools.partial(_initial, functions)
        self.push = functools.partial(_push, functions, travel)
        self.begin = functools.partial(_begin, travel)
        self.step = functools.partial(_step, functions, config)
        self.finish = functools.partial(_finish, travel)
        self._arrive = functools.partial(_arrive, travel)
        self.start_local = functools.partial(_start_local, travel)
        self.pulled = functools.partial(_pulled, formats.pull)
        self.evaluate = functools.partial(_evaluate, functions, self.layout)
        self.objective = functools.partial(_objective, functions, self.layout)

    def placed(self, tree: Any, devices: Sequence[Any] | None = None) -> Any:
        """Arrays where a worker computes: `compute` does so where its key lies.

        Args:
          tree: pytree of arrays.
          devices: of the worker; by default any, and the arrays stay where they are.
        """
        return tree if devices is None else jax.device_put(tree, devices[0])

    def programs(self, key: Any) -> Any:
        """What has `push`, `begin`, `step` and `finish` for where this key lies."""
        del key
        return self

    def compute(self, vector, data, key, worker, clock, version, epoch, pause=None):
        """One push from a pulled version.

        Args:
          vector: the pulled version as it travelled, in the format of pulls, and behind
            it the worker's local optimiser, if that is kept: (D + S,).
          data: the task's arrays, `placed` where the worker computes.
          key: of the run's seed, likewise.
          worker: 0..N-1.
          clock: 1-based, this push included.
          version: the pulled version's number.
          epoch: samples processed when it was made, in epochs.
          pause: called after every local step but the last; true cancels.

        Returns:
          Push, (D + S,) in the format of pushes, and mean loss, float32, both on the
          device; None if cancelled.
        """
        context = push_context(worker, clock, version, epoch)
        if self.config.local_steps == 1:
            return self.programs(key).push(vector, data, key, context)
        state = self._stepped(vector, data, key, context, pause)
        return None if state is None else self.programs(key).finish(state)

    def walk(self, vector, data, key, worker, clock, version, epoch, pause=None):
        """Where the local steps of a push lead; for one device of a worker.

        Args:
          vector: the worker's own variables, float32, and behind them its local
            optimiser, if that is kept: (D + S,).
          data: see `compute`, as for the rest.
          key: see `compute`.
          worker: see `compute`.
          clock: see `compute`.
          version: see `compute`.
          epoch: see `compute`.
          pause: see `compute`.

        Returns:
          The variables after the last step with the local optimiser behind them,
          (D + S,), and mean loss, float32, both on the device; None if cancelled.
        """
        context = push_context(worker, clock, version, epoch)
        state = self._stepped(vector, data, key, context, pause)
        return None if state is None else self._arrive(state)

    def _stepped(self, vector, data, key, context, pause):
        """The state after all local steps; None if it was cancelled between two."""
        programs, steps = self.programs(key), self.config.local_steps
        state = programs.begin(vector)
        for number in range(steps):
            state = programs.step(data, key, state, context, np.int32(number))
            if pause is not None and number + 1 < steps:
                jax.block_until_ready(state.losses)
                if pause():
                    return None
        return state


def push_context(worker: Any, clock: Any, version: Any, epoch: Any) -> Any:
    """The numbers of a push as `Functions.compute` gives them to its programs."""
    integers = (np.int32(worker), np.int32(clock), np.int32(version))
    return update.PushContext._make((*integers, np.float32(epoch)))


@functools.partial(jax.jit, static_argnums=(0,))
def _initial(functions, key):
    return flatten(functions.init(key))


def _variables(layout: Layout, vector) -> Variables:
    return layout.unflatten(vector.astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _push(functions, travel, vector, data, key, context):
    variables, local = _parts(travel, vector)
    config = travel.config
    push = update.compute_push(config, functions, data, key, variables, context, local)
    return _packed(travel, push)


@functools.partial(jax.jit, static_argnums=(0,))
def _begin(travel, vector):
    return update.begin(travel.config, *_parts(travel, vector))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4,))
def _step(functions, config, data, key, state, context, number):
    return update.local_step(config, functions, data, key, state, context, number)


@functools.partial(jax.jit, static_argnums=(0,))
def _finish(travel, state):
    return _packed(travel, update.finish(travel.config, state))


@functools.partial(jax.jit, static_argnums=(0,))
def _arrive(travel, state):
    vector = flatten(state.variables)
    if travel.local is not None:
        vector = joined([vector, local_vectors.flatten(state.optimizer)])
    return vector, jnp.mean(state.losses)


@functools.partial(jax.jit, static_argnums=(0,))
def _start_local(travel, vector):
    params = _variables(travel.layout, vector).params
    return local_vectors.flatten(travel.config.local.init(params))


def _parts(travel: Travel, vector):
    """A version, and the state of the local optimiser that came with it, or None."""
    variables = _variables(travel.layout, vector)
    if travel.local is None:
        return variables, None
    return variables, travel.local.unflatten(vector[travel.layout.size :])


def _packed(travel: Travel, push: update.Push):
    vector = flatten(Variables(push.gradient, push.stats))
    if travel.local is not None:
        vector = joined([vector, local_vectors.flatten(push.local)])
    return vector.astype(DTYPES[travel.dtype]), push.loss.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0,))
def _pulled(dtype, vector):
    return jnp.copy(vector).astype(DTYPES[dtype])


_copy = jax.jit(jnp.copy)


@functools.partial(jax.jit, static_argnums=(0,))
def _start_optimizer(plan, vector):
    layout, whole = plan.layout, plan.elementwise
    params = vector[: layout.num_parameters] if whole else layout.unflatten(vector)[0]
    return plan.config.optimizer.init(params)


@functools.partial(jax.jit, static_argnums=(0,))
def _init(plan, vector):
    cut = plan.layout.num_parameters
    return plan.config.aggregator.init(vector[:cut], vector[cut:], plan.num_workers)


@functools.lru_cache(maxsize=256)
def _compiled(function, plan, donated):
    """One of the functions below of a plan, with so many arguments donated."""
    small = 4 * plan.layout.size <= _ONE_THREAD
    return jax.jit(
        functools.partial(function, plan),
        donate_argnums=range(donated),
        compiler_options=compilation.on_one_thread() if small else None,
    )


def _accumulate(plan, accumulator, arrival):
    cut = plan.layout.num_parameters
    push, pulled = (v.astype(jnp.float32) for v in (arrival.gradient, arrival.pulled))
    versions = {"present": arrival.present[:cut], "pulled": pulled[:cut]}
    arrival = arrival._replace(gradient=push[:cut], stats=push[cut:], **versions)
    return plan.config.aggregator.accumulate(accumulator, arrival)


def _commit(plan, vector, state, accumulator, epoch, version):
    stats = vector[plan.layout.num_parameters :]
    gradient, stats, accumulator = plan.config.aggregator.finalize(accumulator, stats)
    vector, state = _moved(plan, vector, state, gradient, stats, epoch, version)
    return vector, state, accumulator


def packed(*commits: tuple[Any, Any, Any]) -> np.ndarray:
    """`(weight, epoch, version)` of commits in one array: a call costs less with it."""
    return np.frombuffer(b"".join(_COMMIT.pack(*commit) for commit in commits), "i4")


_COMMIT = struct.Struct("=ffi")


def _commit_single(plan, vector, state, push, numbers):
    weight, epoch = jax.lax.bitcast_convert_type(numbers[:2], jnp.float32)
    cut = plan.layout.num_parameters
    push = push.astype(jnp.float32)
    gradient = plan.config.aggregator.single(push[:cut], weight)
    return _moved(plan, vector, state, gradient, push[cut:], epoch, numbers[2])


def _commit_singles(plan, vector, state, pushes, numbers):
    vectors = []
    for push, each in zip(pushes, numbers.reshape(-1, 3), strict=True):
        vector, state = _commit_single(plan, vector, state, push, each)
        vectors.append(vector)
    return jnp.stack(vectors), vector, state


def _moved(plan, vector, state, gradient, stats, epoch, version):
    """`update.apply` on vectors; `gradient` and `stats` are the parts of one."""
    config, layout = plan.config, plan.layout
    if plan.elementwise:
        cut = layout.num_parameters
        present = Variables(vector[:cut], vector[cut:])
    else:
        present = layout.unflatten(vector)
        gradient, stats = layout.unflatten(joined([gradient, stats]))
    new, state = update.apply(config, present, state, gradient, stats, epoch, version)
    return flatten(new), state


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(functions, layout, data, vector):
    return functions.evaluate(data, _variables(layout, vector))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _objective(functions, layout, data, vector):
    return functions.objective(data, _variables(layout, vector))
