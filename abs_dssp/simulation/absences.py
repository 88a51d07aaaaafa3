"""When workers die and when they return: pure models, beside those of their speed.

The n-th absence of a worker is a function of (seed, worker, n) and of the end of the
absence before it: it depends neither on the durations of computations nor on what a
policy decides, so that all policies meet the same deaths.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from abs_dssp import checks, literals
from abs_dssp.history.traces import Trace
from abs_dssp.simulation import delay_base
from abs_dssp.simulation.delay_base import Seconds

__all__ = ["Absences", "exponential", "given", "none", "parse"]
__all__ += ["recorded", "resolve", "table"]

# Worker, seconds of its death, seconds of its return; None: it never returns.
Interval = tuple[int, float, float | None] | list[Any]
Draw = Callable[
    [dict[str, Any], Any, Int[Array, ""], Float[Array, ""]],
    tuple[Float[Array, ""], Float[Array, ""]],
]


@dataclasses.dataclass(frozen=True)
class Absences:
    """A model of deaths and returns; a pytree of its parameters.

    A worker that dies loses its computation, and a push on its way does not arrive; one
    that arrives at that very time does. The policy is told by `on_leave` after
    `detection` seconds, or when the worker is back, if that is sooner. The worker
    returns by a join: it pulls the newest version and takes the clock of the slowest.

    Attributes:
      parameters: arrays with the N workers as first axis; `detection` is among them.
      draw: (parameters, key, number, after) -> seconds of death and return of a
        worker's absence `number`, where the one before ended at `after`. It sees one
        worker's parameters and key. inf: never.
      spec: the model as `absences.parse` reads it.
    """

    parameters: dict[str, Any]
    draw: Draw
    spec: str = "absences"

    @property
    def num_workers(self) -> int:
        """Number of workers N."""
        return int(self.parameters["detection"].shape[0])

    def __repr__(self) -> str:
        return f"<Absences {self.spec}>"


jax.tree_util.register_dataclass(
    Absences,
    data_fields=["parameters"],
    meta_fields=["draw"],
    drop_fields=["spec"],  # as for `Delays`
)


def none(num_workers: int | None = None) -> None:
    """Nobody ever dies: no model, and programs as if there were no such thing.

    Example:
      >>> from abs_dssp import absences
      >>> absences.parse("none()", num_workers=2) is None
      True
    """
    del num_workers


def exponential(
    mean_up: Seconds,
    mean_down: Seconds,
    detection: Seconds = 0.0,
    num_workers: int | None = None,
) -> Absences:
    """Independent exponential times between returns and deaths, and of absences.

    Args:
      mean_up: mean seconds from a return, or the start, to the next death; above 0; one
        number or one per worker. N workers have N / (mean_up + mean_down) deaths a
        second.
      mean_down: mean seconds from a death to the return; 0 is a restart at once.
      detection: seconds after a death at which the policy is told.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: for numbers out of range, or a list of the wrong length.

    Example:
      >>> from abs_dssp import absences
      >>> model = absences.exponential(600.0, 30.0, num_workers=4)
      >>> worker, dies, returns = absences.table(model, 1)[0]
      >>> worker, 0 < dies < returns
      (0, True)
    """
    delay_base.require_positive("exponential", "mean_up", mean_up)
    model = delay_base.build(  # its arguments are checked and spread in the same way
        "exponential",
        _no_block,
        num_workers,
        mean_up=mean_up,
        mean_down=mean_down,
        detection=detection,
    )
    return Absences(model.parameters, _exponential, model.spec)


def given(
    intervals: Sequence[Interval],
    detection: Seconds = 0.0,
    num_workers: int | None = None,
) -> Absences:
    """Absences at known times.

    Args:
      intervals: `(worker, dies, returns)` each, in any order; seconds since the start,
        and None for a worker that never returns. Those of a worker do not overlap.
      detection: seconds after a death at which the policy is told; one number or one
        per worker.
      num_workers: number of workers N.

    Raises:
      ValueError: for a worker that is none of 0..N-1, times that are negative or in the
        wrong order, absences that overlap, or without `num_workers`.

    Example:
      >>> from abs_dssp import absences, simulate
      >>> model = absences.given([(0, 1.5, 4.0)], num_workers=2)
      >>> trace = simulate.schedule("asp()", "constant([1, 3])", 4, absences=model)
      >>> [(e.kind, e.worker, e.seconds) for e in trace.events]
      [('leave', 0, 1.5), ('join', 0, 4.0)]
      >>> trace.time.tolist(), trace.worker.tolist()
      ([1.0, 3.0, 5.0, 6.0], [0, 1, 0, 0])
    """
    where = "absences.given"
    if num_workers is None:
        raise ValueError(f"{where}: num_workers must be given, got None.")
    count = checks.whole(where, "num_workers", num_workers, least=1)
    own: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    for interval in intervals:
        worker, dies, returns = _checked(where, interval, count)
        own[worker].append((dies, returns))
    # One more than the most: afterwards nobody dies.
    times = np.full((count, 1 + max(map(len, own)), 2), np.inf)
    for worker, mine in enumerate(own):
        mine.sort()
        for (_, returns), (dies, _) in zip(mine, mine[1:], strict=False):
            if dies < returns:
                raise ValueError(
                    f"{where}: worker {worker} dies at {dies:g} s while it is away "
                    f"until {returns:g} s; give absences that do not overlap."
                )
        times[worker, : len(mine)] = np.array(mine).reshape(-1, 2)
    spread = delay_base.build("given", _no_block, count, detection=detection)
    parameters = spread.parameters | {"times": times}
    shown = [(w, d, r if r < math.inf else None) for w, d, r in _listed(own)]
    spec = f"given({shown},detection={delay_base.shown(detection)})"
    return Absences(parameters, _given, spec)


def recorded(trace: Trace) -> Absences | None:
    """The departures and returns that a trace tells of, each noticed at once.

    Args:
      trace: of a run, real or virtual.

    Returns:
      The model, as many workers; None if nobody left.

    Example:
      >>> from abs_dssp import absences, simulate
      >>> model = "given([(0, 1.5, 4.0), (1, 5.0, None)])"
      >>> trace = simulate.schedule("asp()", "constant([1, 3])", 4, absences=model)
      >>> absences.recorded(trace).spec
      'given([(0, 1.5, 4.0), (1, 5.0, None)],detection=0.0)'
    """
    checks.kind("absences.recorded", "trace", trace, Trace, "a trace")
    intervals: list[Interval] = []
    away: dict[int, float] = {}
    for event in trace.events:
        if event.kind == "leave":
            away[event.worker] = event.seconds
        elif event.kind == "join" and event.worker in away:
            intervals.append((event.worker, away.pop(event.worker), event.seconds))
    intervals += [(worker, dies, None) for worker, dies in away.items()]
    return given(intervals, num_workers=trace.num_workers) if intervals else None


def table(absences: Absences, count: int, seed: int = 0) -> list[Interval]:
    """The first absences of every worker.

    `given(table(absences, ...))` has the same deaths as `absences`, for as long as the
    table goes, but for the last bit of their times.

    Args:
      absences: the model.
      count: absences per worker.
      seed: for the times.

    Returns:
      `(worker, dies, returns)` each, worker by worker, without those that never come.

    Example:
      >>> from abs_dssp import absences
      >>> absences.table(absences.given([(1, 5.0, None)], num_workers=2), 3)
      [(1, 5.0, None)]
    """
    checks.kind(
        "table", "absences", absences, Absences, "absences.exponential(600, 30)"
    )
    count = checks.whole("table", "count", count)

    def worker(parameters, key):
        def step(after, number):
            dies, returns = absences.draw(parameters, key, number, after)
            return returns, jnp.stack([dies, returns])

        numbers = jnp.arange(count, dtype=jnp.int32)
        return jax.lax.scan(step, jnp.zeros((), float), numbers)[1]

    with jax.enable_x64(True):
        parameters = jax.tree.map(jnp.asarray, absences.parameters)
        keys = worker_keys(seed, absences.num_workers)
        times = np.asarray(jax.jit(jax.vmap(worker))(parameters, keys))
    found = [[(d, r) for d, r in mine if d < math.inf] for mine in times.tolist()]
    return [(w, d, r if r < math.inf else None) for w, d, r in _listed(found)]


def worker_keys(seed, num_workers: int) -> Key[Array, " N"]:
    """One random key per worker, none of which is one of `delays.worker_keys`."""
    key = jax.random.fold_in(jax.random.key(seed), 0xAB5E)
    workers = jnp.arange(num_workers, dtype=jnp.uint32)
    return jax.vmap(lambda worker: jax.random.fold_in(key, worker))(workers)


_MODELS: dict[str, Callable[..., Absences | None]] = {
    "exponential": exponential,
    "given": given,
    "none": none,
}


def parse(text: str, num_workers: int) -> Absences | None:
    """The model that `text` describes, e.g. `"exponential(mean_up=600,mean_down=30)"`.

    Args:
      text: a call of `exponential`, `given` or `none` with literal arguments.
      num_workers: number of workers N.

    Raises:
      TypeError: if `text` is none.
      ValueError: for an unknown model or argument, or what the constructor refuses.

    Example:
      >>> from abs_dssp import absences
      >>> absences.parse("given([(0, 1.5, 4.0)])", num_workers=2)
      <Absences given([(0, 1.5, 4.0)])>
    """
    where = "absences.parse"
    checks.text(where, text, "'exponential(mean_up=600,mean_down=30)'")
    model = literals.build(text, where, _MODELS, num_workers=num_workers)
    return None if model is None else dataclasses.replace(model, spec=text.strip())


def resolve(
    absences: Absences | str | None, num_workers: int, where: str = "absences.resolve"
) -> Absences | None:
    """A model of deaths and returns, the one that a text describes, or none.

    Args:
      absences: what was given.
      num_workers: number of workers N.
      where: the caller's name, for messages.

    Raises:
      TypeError: if it is something else.
      ValueError: as `parse`, or if it is for another number of workers.

    Example:
      >>> from abs_dssp import absences
      >>> absences.resolve("exponential(600, 30)", num_workers=3).num_workers
      3
    """
    if isinstance(absences, str):
        absences = parse(absences, num_workers)
    if absences is None:
        return None
    example = "absences.exponential(600, 30) or the text 'exponential(600, 30)'"
    checks.kind(where, "absences", absences, Absences, example)
    checks.same_workers(where, delays=num_workers, absences=absences.num_workers)
    return absences


def _checked(where: str, interval: Any, count: int) -> tuple[int, float, float]:
    """Worker, death and return; inf for a return that never comes."""
    try:
        worker, dies, returns = interval
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: an absence is (worker, dies, returns), got {interval!r}."
        ) from None
    worker = checks.whole(where, "worker", worker)
    if worker >= count:
        raise ValueError(
            f"{where}: worker must be one of 0..{count - 1}, got {worker}."
        )
    checks.number(where, "dies", dies)
    if returns is None:
        return worker, float(dies), math.inf
    checks.number(where, "returns", returns)
    if returns < dies:
        raise ValueError(
            f"{where}: worker {worker} must not return before it dies at {dies:g} s, "
            f"got {returns:g} s."
        )
    return worker, float(dies), float(returns)


def _listed(own: Sequence[Sequence[tuple[float, float]]]):
    """`(worker, dies, returns)` of all workers, in order."""
    return [(worker, *each) for worker, mine in enumerate(own) for each in mine]


def _no_block(parameters, key, index, chain):
    raise AssertionError("absences have no durations of computations")


def _exponential(parameters, key, number, after):
    draws = jax.random.exponential(jax.random.fold_in(key, number), (2,), float)
    dies = after + parameters["mean_up"] * draws[0]
    return dies, dies + parameters["mean_down"] * draws[1]


def _given(parameters, key, number, after):
    del key, after
    times = parameters["times"]
    dies, returns = times[jnp.minimum(number, times.shape[0] - 1)]
    return dies, returns
