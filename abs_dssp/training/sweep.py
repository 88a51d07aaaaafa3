"""One schedule under many step sizes and seeds at once.

A policy decides by times, so its trace does not depend on the step size: runs that
differ in nothing else read the same rows and share one compiled loop, side by side
under `jax.vmap`. On small problems, where a push costs XLA's dispatch rather than
arithmetic, dozens of runs take little longer than one: on two CPU cores 72 runs take
1.8 times as long as one for 20 parameters, 21 times for 1,000.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from abs_dssp import checks, extras, literals
from abs_dssp.history import traces
from abs_dssp.history.traces import Trace
from abs_dssp.tasks.base import Task, variable_bytes
from abs_dssp.training import compiled, driver, evaluation, replayer
from abs_dssp.training.config import EvaluationConfig, Every, UpdateConfig

# Of the scalars of a setting: the server's optimizer, or the server's and the workers'.
Make = Callable[
    ...,
    optax.GradientTransformation
    | tuple[optax.GradientTransformation, optax.GradientTransformation],
]

# (version, seconds, measures (R, S) by name) -> whether that is enough
Until = Callable[[int, float, dict[str, np.ndarray]], bool]

_ROWS = 4096  # of a compiled program at least
_BYTES = 2**30  # of kept versions at a time; more settings are computed in turn


class Sweep(NamedTuple):
    """What was measured of R settings and S seeds at E evaluations."""

    version: Int[np.ndarray, " E"]
    seconds: Float[np.ndarray, " E"]
    measures: dict[str, Float[np.ndarray, "R S E"]]
    settings: dict[str, Float[np.ndarray, " R"]]  # by argument of `make`; float64
    seeds: tuple[int, ...]  # S of them

    def __repr__(self) -> str:
        counts = len(next(iter(self.settings.values()))), len(self.seeds)
        return (
            f"<Sweep of {', '.join(self.settings)}: {counts[0]} settings, {counts[1]} "
            f"seeds, {len(self.version)} evaluations of {', '.join(self.measures)}>"
        )

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of a row for every setting, seed and evaluation.

        The settings are columns under the names of the arguments of `make`.

        Raises:
          MissingExtraError: if pandas is not installed.

        Example:
          >>> from abs_dssp import optimizers, replay, simulate, tasks
          >>> trace = simulate.schedule("bsp()", "constant([1, 2])", 4)
          >>> task = tasks.quadratic(2, dim=3, noise=0.0)
          >>> made = replay.sweep(task, optimizers.sgd, [[0.5, 1.0]], trace)
          >>> made
          <Sweep of learning_rate: 2 settings, 1 seeds, 2 evaluations of \
gradient_norm_squared, loss>
          >>> made.to_pandas()[["learning_rate", "version", "loss"]].values.tolist()
          [[0.5, 0.0, 1.5], [0.5, 2.0, 0.09375], [1.0, 0.0, 1.5], [1.0, 2.0, 0.0]]
        """
        with extras.needed("a DataFrame"):
            import pandas
        rows = len(next(iter(self.settings.values())))
        shape = (rows, len(self.seeds), len(self.version))
        at = [indices.ravel() for indices in np.indices(shape)]
        columns = {name: values[at[0]] for name, values in self.settings.items()}
        columns["seed"] = np.array(self.seeds)[at[1]]
        columns |= {"version": self.version[at[2]], "seconds": self.seconds[at[2]]}
        columns |= {name: values.ravel() for name, values in self.measures.items()}
        return pandas.DataFrame(columns)


class _Kind(NamedTuple):
    """What a loop is compiled for. Static."""

    task: Task  # without its arrays
    make: Make
    local_steps: int
    aggregate: str
    push: str
    local_state: str
    accumulates: bool
    measures: tuple[str, ...] | None

    def program(self, setting: Sequence[Any]) -> compiled.Program:
        """The program of one run, whose optimizers may hold traced numbers."""
        made: Any = self.make(*setting)
        one = isinstance(made, optax.GradientTransformation)  # which is a tuple, too
        server, local = (made, None) if one else made
        kinds = (self.aggregate, self.push, self.local_state)
        config = UpdateConfig(server, local, self.local_steps, *kinds)
        return compiled.Program(self.task, config, self.accumulates)


def sweep(
    task: Task | str,
    make: Make,
    settings: Sequence[Any] | Mapping[str, Any],
    trace: Trace,
    seeds: Sequence[int] = (0,),
    *,
    aggregate: str = "mean",
    push: str = "gradients",
    local_state: str = "fresh",
    eval_every_commits: Every | None = None,
    measures: Sequence[str] | str | None = None,
    until: Until | None = None,
) -> Sweep:
    """Replays one trace for many settings of an optimizer and many seeds.

    Every run is that of `replay` but for rounding, and a run whose loss is not finite
    goes on with what it has.

    Args:
      task: model and data; must have as many workers as the trace.
      make: gives the server's optimizer for the scalars of one setting, which are
        traced, or the pair of the server's and that of the local steps. A function of
        a module: each is compiled for by itself.
      settings: the arguments of `make`, R numbers each, in order or by name.
      trace: who pushed what when.
      seeds: of the runs of every setting; S of them.
      aggregate: see `replay`.
      push: see `replay`.
      local_state: see `replay`.
      eval_every_commits: see `replay`; at the start and the end by default.
      measures: those of the task's that are wanted, which spares the others' work.
      until: asked after every evaluation, with its version, its seconds and its
        measures (R, S) by name, whether to end all runs there. Not with more settings
        than fit into memory together, which are computed in turn.

    Returns:
      A `Sweep`, of the evaluations that all runs have come to.

    Raises:
      TypeError: for an argument of another kind.
      ValueError: if task and trace do not fit, the settings differ in length, or for a
        measure that the task does not have.

    Example:
      >>> from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
      >>> task = tasks.quadratic(2, dim=3, noise=0.0)
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.0]), 4)
      >>> made = replay.sweep(task, optimizers.sgd, [[0.5, 1.0]], trace, seeds=[0, 1])
      >>> made.measures["loss"][:, :, -1].tolist()  # 3/2 and 1/4 of it twice, and 0
      [[0.09375, 0.09375], [0.0, 0.0]]
    """
    task = replayer.fitting("sweep", task, trace)
    traces.require_one_history("sweep", trace)
    seeds = checks.seeds("sweep", seeds)
    if isinstance(make, optax.GradientTransformation) or not callable(make):
        raise TypeError(
            "sweep: make must be a function that gives an optimizer for numbers, such "
            f"as optimizers.sgd, got {checks.shown(make)}."
        )
    named = _named(make, settings)
    columns = [values.astype(np.float32) for values in named.values()]
    measures = [measures] if isinstance(measures, str) else measures
    _require_measures(task, measures)
    kind = _kind(task, make, trace, (aggregate, push, local_state), measures)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    kept = _kept(trace) * variable_bytes(task) * len(seeds)
    at_once = max(1, _BYTES // kept)
    points = evaluation.points(trace, EvaluationConfig(eval_every_commits))
    pieces = [
        [c[i : i + at_once] for c in columns]
        for i in range(0, len(columns[0]), at_once)
    ]
    enough = until if len(pieces) == 1 else None
    made = [_measure(kind, task, c, keys, trace, points, enough) for c in pieces]
    found = jax.tree.map(lambda *parts: np.concatenate(parts), *made)
    points = points[: next(iter(found.values())).shape[-1]]
    versions = np.concatenate([[0], np.cumsum(trace.committed)])
    return Sweep(
        versions[[row for row, _ in points]],
        np.array([seconds for _, seconds in points]),
        found,
        named,
        tuple(seeds),
    )


def _named(make: Make, settings: Any) -> dict[str, np.ndarray]:
    """The arguments of `make` by name, in its order, float64.

    Raises:
      ValueError: for an unknown name, or lengths that differ.
    """
    names = list(inspect.signature(make).parameters)
    if isinstance(settings, Mapping):
        given = dict(settings)
        for name in given:
            if name not in names:
                near = literals.guess(name, names)
                raise ValueError(
                    f"sweep: make has no argument {name!r}{near}; known: "
                    f"{', '.join(names)}."
                )
        left = [name for name in names[: len(given)] if name not in given]
        if left:  # they are given in order to what is compiled
            raise ValueError(
                f"sweep: settings must hold {left[0]!r} too, which make has before "
                f"{list(given)[-1]!r}; give it as often as the others."
            )
        given = {name: given[name] for name in names[: len(given)]}
    else:
        given = dict(zip(names, settings, strict=False))
    try:
        columns = {name: np.asarray(values, float) for name, values in given.items()}
    except (TypeError, ValueError):
        columns = {}
    shapes = {values.shape for values in columns.values()}
    if len(shapes) != 1 or len(*shapes) != 1 or len(columns) < len(settings):
        raise ValueError(
            "sweep: settings must be arrays of one length, of shape (R,), one for each "
            f"argument of make, such as {{{names[0]!r}: [0.1, 0.2]}}, got "
            f"{checks.shown(settings)}."
        )
    return columns


def _require_measures(task: Task, names: Sequence[str] | None) -> None:
    made = jax.eval_shape(task.evaluate, task.data, _variables(task))
    unknown = [name for name in names or () if name not in made]
    if unknown:
        known = ", ".join(sorted(made))
        raise ValueError(f"sweep: unknown measure {unknown[0]!r}; known: {known}.")


def _variables(task: Task) -> Any:
    return jax.eval_shape(task.init, jax.random.key(0))


def _kind(
    task: Task, make: Make, trace: Trace, kinds: tuple[str, str, str], measures
) -> _Kind:
    config = UpdateConfig(optax.identity(), aggregate=kinds[0])
    single = config.aggregator.single is not None
    alone = single and replayer.commits_every_push(trace)
    functions = task._replace(data=None, constants=None)
    wanted = None if measures is None else tuple(measures)
    return _Kind(functions, make, trace.local_steps, *kinds, not alone, wanted)


def _kept(trace: Trace) -> int:
    """Versions to keep."""
    return _power_of_four(int(trace.staleness.max(initial=0)) + 1)


def _power_of_four(count: int) -> int:
    """At least `count`: sizes so far apart that most traces share a compiled program,
    which takes longer to compile than a small problem to run."""
    power = compiled.power_of_two(count)
    return power if power.bit_length() % 2 else 2 * power


def _measure(kind, task: Task, settings, keys, trace: Trace, points, until):
    """Measures (R, S, E) by name."""
    kept, capacity = _kept(trace), _power_of_four(max(len(trace), _ROWS))
    config = kind.program([float(column[0]) for column in settings]).config
    rows = compiled.rows(driver.columns(trace), task, config, capacity)
    servers = _begin(kind, kept, capacity, settings, keys)
    versions = np.concatenate([[0], np.cumsum(trace.committed)])
    done, found = 0, []
    for row, seconds in points:
        servers = _follow(kind, task.data, settings, keys, rows, servers, done, row)
        version = int(versions[row])
        measures = _evaluate(kind, task.data, servers.ring, version % kept)
        found.append(measures)
        done = row
        if until is not None and until(version, seconds, jax.device_get(measures)):
            break
    return jax.tree.map(lambda *parts: np.stack(parts, axis=-1), *found)


def _each(one, settings, keys, *servers):
    """`one(setting, key, *server)` for every setting (R,) and key (S,).

    The keys are mapped inside, so that what depends on a row alone is not.
    """

    def of_setting(setting, *servers):
        return jax.vmap(functools.partial(one, setting))(keys, *servers)

    return jax.vmap(of_setting)(settings, *servers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(kind: _Kind, kept: int, capacity: int, settings, keys) -> compiled.Server:
    def one(setting, key):
        return compiled.begin(kind.program(setting), kept, capacity, key)

    return _each(one, settings, keys)


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(5,))
def _follow(kind, data, settings, keys, rows, servers, start, stop) -> compiled.Server:
    def one(setting, key, server):
        program = kind.program(setting)
        return compiled.follow(program, data, key, rows, server, start, stop)

    return _each(one, settings, keys, servers)


@functools.partial(jax.jit, static_argnums=(0,))
def _evaluate(kind, data, ring, index):
    def one(ring):
        found = kind.task.evaluate(data, compiled.version_at(ring, index))
        return {name: found[name] for name in kind.measures or found}

    return jax.vmap(jax.vmap(one))(ring)
