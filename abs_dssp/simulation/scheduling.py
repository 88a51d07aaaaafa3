"""Virtual time: runs a policy over a model of worker speed and gives a trace."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import checks, compilation, policies
from abs_dssp.history import builder, traces
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy
from abs_dssp.simulation import absences as absences_lib
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delays as delays_lib
from abs_dssp.simulation import event_loop, event_rows, fragment_schedule
from abs_dssp.simulation import presence as presence_lib
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import BLOCK, Delays
from abs_dssp.simulation.event_rows import PUSH, DeadlockError

__all__ = ["DeadlockError", "schedule", "sweep"]

_MOST_OTHERS = 1 << 16  # events in a row, before it is thought that no push comes


def schedule(
    policy: Policy | str,
    delays: Delays | str,
    num_pushes: int,
    seed: int = 0,
    *,
    communication: Communication | str | None = None,
    absences: Absences | str | None = None,
    local_steps: int = 1,
    task: str = "",
    fragments: int = 1,
) -> Trace:
    """Runs a policy in virtual time.

    Args:
      policy: the rule, or its text, such as `"ssp(s=3)"`; jit compiles it once per
        policy object.
      delays: durations of the computations, or their text; fixes the number of workers
        N, for which a text needs one number per worker: `"constant([1, 2.7])"`. Times
        may be 0: no time passes then between two pushes.
      num_pushes: rows of the trace; at least 1.
      seed: for the durations; at least 0.
      communication: time of a push on its way, or its text; none by default.
      absences: when workers die and return, or its text; nobody dies by default.
      local_steps: U, written into the trace; a duration is that of all U steps.
      task: name of the task, written into the trace.
      fragments: F, parts of the parameters that are pushed in turn, each with a history
        of its own; see `traces.FragmentedTrace`. The time of a push on its way is then
        that of one fragment.

    Returns:
      A validated `Trace` of `num_pushes` rows; a `FragmentedTrace` for more than one
      fragment.

    Raises:
      TypeError: for an argument of another kind.
      ValueError: if `num_pushes` is not at least 1, for a number out of range, a text
        that cannot be read, a policy for another number of workers, or one that
        fragments cannot have (`fragment_schedule.require_policy`), as they cannot have
        absences.
      DeadlockError: if at some push every worker waits and nobody computes, or all
        have died and none returns.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> trace = simulate.schedule(policies.asp(2), delays.constant([1.0, 3.0]), 4)
      >>> trace.time.tolist(), trace.worker.tolist()
      ([1.0, 2.0, 3.0, 3.0], [0, 0, 0, 1])
    """
    same = (communication, absences, local_steps, task)
    if checks.whole("schedule", "fragments", fragments, least=1) > 1:
        return _of_fragments(policy, delays, num_pushes, seed, *same, fragments)
    return _schedule(policy, delays, num_pushes, [seed], *same)[0]


def sweep(
    policy: Policy | str,
    delays: Delays | str,
    num_pushes: int,
    seeds: Sequence[int],
    *,
    communication: Communication | str | None = None,
    absences: Absences | str | None = None,
    local_steps: int = 1,
    task: str = "",
) -> list[Trace]:
    """`schedule` for several seeds at once.

    They are vmapped unless the policy has `on_time` or workers die.

    Args:
      policy: see `schedule`.
      delays: see `schedule`.
      num_pushes: see `schedule`.
      seeds: one for each trace.
      communication: see `schedule`.
      absences: see `schedule`.
      local_steps: see `schedule`.
      task: see `schedule`.

    Returns:
      The traces that `schedule` gives with each seed, in order.

    Raises:
      ValueError: as `schedule`.
      DeadlockError: as `schedule`.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> model = delays.exponential(1.0, num_workers=2)
      >>> traces = simulate.sweep(policies.bsp(2), model, 10, seeds=range(3))
      >>> [trace.seed for trace in traces]
      [0, 1, 2]
    """
    same = (communication, absences, local_steps, task)
    return _schedule(policy, delays, num_pushes, seeds, *same)


class Source:
    """A simulation that is asked for more pushes until a limit is reached.

    Attributes:
      pushes: in all; None where only time ends the run.
      until: seconds; None where only the pushes end it.
      settings: what the trace's header says, seed included.
      ended: whether a limit is reached.
    """

    def __init__(
        self,
        policy: Policy,
        delays: Delays,
        communication: Communication,
        pushes: int | None,
        until: float | None,
        seed: int,
        local_steps: int,
        task: str,
        absences: Absences | None = None,
    ):
        self.policy, self.delays, self.communication = policy, delays, communication
        self.absences = absences
        self.pushes, self.until, self.seed = pushes, until, seed
        self.settings = settings_of(policy, delays, local_steps, task)
        self.settings["seed"] = seed
        self.ended = False
        self._times = np.empty(0)  # of the pushes among the rows
        self._count = 0  # pushes within the limits
        with jax.enable_x64(True):
            model = (policy, delays, communication)
            self._simulation = _start(*model, seed, absences)
        # Some may be past `until`.
        self._rows = np.empty((0, event_rows.width(absences is not None)))

    def more(self, count: int, loss: float = math.nan) -> None:
        """Adds up to `count` pushes, decided with this loss estimate."""
        last = False
        if self.pushes is not None:
            count = min(count, self.pushes - len(self._times))
            last = len(self._times) + count == self.pushes
        model = (self.policy, self.delays, self.communication, self.absences)
        with jax.enable_x64(True):
            before = event_loop.with_loss(self._simulation, loss)
            # Another event may still commit the last push, whose row then says so.
            self._simulation, rows = _events(*model, before, count, settle=not last)
        self._rows = np.concatenate([self._rows, rows])
        self._times = self._rows[_of_pushes(self._rows), 0]
        self._count = len(self._times)
        if self.until is not None:
            times = self._times
            self._count = int(np.searchsorted(times, self.until, side="right"))
            if self.pushes is None:
                _require_progress(times)
        self.ended = self._count < len(self._times) or self._count == self.pushes

    def all(self) -> Trace:
        """The whole trace.

        Raises:
          DeadlockError: if every worker waits before a limit is reached.
        """
        step = self.pushes or 64 * self.delays.num_workers
        while not self.ended:
            self.more(step)
            step = min(2 * step, 1 << 20)
        return self.trace().validate()

    def trace(self) -> Trace:
        """The pushes so far, within the limits.

        Raises:
          DeadlockError: as `all`.
        """
        rows, last = self._rows, builder.ending(self._simulation.server)
        if self.until is not None:  # an event after it does not commit any more
            late = ~_of_pushes(rows) & (rows[:, 0] > self.until)
            rows = rows.copy()
            rows[late, builder.ROW.index("committed")] = 0
        past = self._times[self._count : self._count + 1]
        if past.size and np.isfinite(past[0]):
            # A deadlock after the limit is not this run's: from there on all wait.
            stuck = np.isinf(rows[:, 0])
            rows = rows[~stuck]
            last = last._replace(waiting=last.waiting | stuck.any())
        trace = event_rows.to_trace(rows, last, self.settings)[: self._count]
        if self.until is None:
            return trace
        known = tuple(each for each in trace.events if each.seconds <= self.until)
        return dataclasses.replace(trace, events=known)

    def oldest(self) -> int:
        """The oldest version that a worker is computing from.

        It is the present version if everybody waits.
        """
        clocks = self._simulation.server.clocks
        running = np.asarray(clocks.alive) & ~np.asarray(clocks.waiting)
        pulled = np.asarray(clocks.pulled)[running]
        return int(pulled.min(initial=int(clocks.version)))


def _of_fragments(
    policy,
    delays,
    num_pushes,
    seed,
    communication,
    absences,
    local_steps,
    task,
    count,
):
    where = "schedule"
    num_pushes = checks.whole(where, "num_pushes", num_pushes, least=1)
    seed = checks.whole(where, "seed", seed)
    local_steps = checks.whole(where, "local_steps", local_steps, least=1)
    delays = delays_lib.resolve(delays, policies.workers(policy), where)
    policy = policies.resolve(policy, delays.num_workers, where)
    absences = absences_lib.resolve(absences, delays.num_workers, where)
    fragment_schedule.require_no_absences(where, absences)
    links = [communication_lib.resolve(communication, None, where)] * count
    settings = settings_of(policy, delays, local_steps, task)
    return fragment_schedule.schedule(
        policy, delays, links, num_pushes, None, seed, settings
    )


def _schedule(
    policy, delays, num_pushes, seeds, communication, absences, local_steps, task
):
    where = "schedule"
    num_pushes = checks.whole(where, "num_pushes", num_pushes, least=1)
    seeds = checks.seeds(where, seeds)
    local_steps = checks.whole(where, "local_steps", local_steps, least=1)
    delays = delays_lib.resolve(delays, policies.workers(policy), where)
    policy = policies.resolve(policy, delays.num_workers, where)
    communication = communication_lib.resolve(communication, None, where)
    absences = absences_lib.resolve(absences, delays.num_workers, where)
    settings = settings_of(policy, delays, local_steps, task)
    model = (policy, delays, communication)
    with jax.enable_x64(True):
        if len(seeds) == 1 or not _only_pushes(policy, absences):
            made = [_alone(*model, absences, seed, num_pushes) for seed in seeds]
        else:
            capacity = _capacity(num_pushes)
            columns = _sweep(
                *model, jnp.asarray(seeds), jnp.int32(num_pushes), capacity
            )
            rows, *last = map(np.asarray, columns)
            endings = [builder.Ending(*leaves) for leaves in zip(*last, strict=True)]
            made = [
                (each[:num_pushes], ending)
                for each, ending in zip(rows, endings, strict=True)
            ]
    return [
        event_rows.to_trace(rows, ending, settings | {"seed": seed}).validate()
        for (rows, ending), seed in zip(made, seeds, strict=True)
    ]


def _alone(policy, delays, communication, absences, seed, num_pushes: int):
    """Rows and ending of one seed's schedule."""
    model = (policy, delays, communication)
    simulation = _start(*model, seed, absences)
    simulation, rows = _events(*model, absences, simulation, num_pushes, settle=False)
    return rows, builder.ending(simulation.server)


def _only_pushes(policy: Policy, absences: Absences | None) -> bool:
    """Whether all events are pushes."""
    return policy.on_time is None and absences is None


def _of_pushes(rows):
    """Which rows are pushes; bool (E,)."""
    return event_rows.kinds(rows) == PUSH


def _require_progress(times) -> None:
    """Refuses a run that only time would end, and in which it has stopped."""
    most = max(10_000, len(times) // 2)
    still = len(times) - int(np.searchsorted(times, times[-1], side="left"))
    if still > most and np.isfinite(times[-1]):
        raise ValueError(
            f"train: {still} pushes came at {times[-1]:g} s, so that until_seconds is "
            "never reached; give some computation a time above 0, or num_pushes."
        )


def settings_of(
    policy: Policy, delays: Delays, local_steps: int, task: str
) -> dict[str, Any]:
    """What the trace of a run says of it, but for the seed."""
    return {
        "num_workers": delays.num_workers,
        "policy": policies.describe(policy),
        "local_steps": local_steps,
        "task": task,
        "versions": traces.package_versions(),
    }


def _capacity(num_pushes: int) -> int:
    """Rounded up, so that runs of similar length share a compiled program."""
    return max(1 << (num_pushes - 1).bit_length(), BLOCK)


@functools.cache
def _jitted(function: Callable[..., Any], *static: int) -> Callable[..., Any]:
    options = compilation.many_small_operations()
    return jax.jit(function, static_argnums=static, compiler_options=options)


def _start(policy, delays, communication, seed, absences=None):
    """`event_loop.start`; its larger part is compiled once for all policies."""
    workers, keys = _jitted(event_loop.start_workers)(delays, communication, seed)
    presence = None
    if absences is not None:
        presence = _jitted(presence_lib.start)(absences, seed)
    return event_loop.begin(policy, workers, keys, presence)


def _advance(policy, delays, communication, simulation, num_pushes, capacity):
    return _jitted(event_loop.advance, 0, 5)(
        policy, delays, communication, simulation, num_pushes, capacity
    )


def _events(
    policy,
    delays,
    communication,
    absences,
    simulation,
    num_pushes: int,
    settle: bool,
):
    """The simulation after some pushes, and the rows of all events.

    Raises:
      DeadlockError: if other events follow each other and no push comes.
    """
    capacity, model = _capacity(num_pushes), (policy, delays, communication)
    if _only_pushes(policy, absences):
        pushes = jnp.int32(num_pushes)
        simulation, rows = _advance(*model, simulation, pushes, capacity)
        return simulation, np.asarray(rows)[:num_pushes]
    made, left = [], num_pushes
    run = _jitted(event_loop.advance_events, 0, 5)
    full = True
    while full:
        simulation, rows, count, pushes = run(
            *model, simulation, jnp.int32(left), capacity, jnp.bool_(settle), absences
        )
        made.append(np.asarray(rows)[: int(count)])
        full = int(count) == capacity  # or else there were not so many events
        left -= int(pushes)
        _require_pushes(policy, made)
        if not pushes:  # perhaps none ever comes: that is soon found out
            capacity = max(capacity, _MOST_OTHERS // 4)
    return simulation, np.concatenate(made)


def _require_pushes(policy, made) -> None:
    """Refuses a run in which other events go on for ever without a push."""
    length = timers = 0
    for rows in reversed(made):
        kinds = event_rows.kinds(rows)
        pushes = np.flatnonzero(kinds == PUSH)
        rest = kinds[int(pushes[-1]) + 1 if pushes.size else 0 :]
        length += len(rest)
        timers += int((rest == builder.TIMER).sum())
        if pushes.size:
            break
    if length <= _MOST_OTHERS:
        return
    time, rule = made[-1][-1, 0], policies.describe(policy)
    if timers > length // 2:
        raise DeadlockError(
            f"{length} deadlines in a row and no push, at {time:g} s: "
            f"{rule} sets one after the other; check its on_time."
        )
    raise DeadlockError(
        f"{length} departures and returns in a row and no push under {rule}, at "
        f"{time:g} s: give absences between which a computation can end."
    )


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sweep(policy, delays, communication, seeds, num_pushes, capacity):
    def one(seed):
        simulation = event_loop.start(policy, delays, communication, seed)
        simulation, rows = event_loop.advance(
            policy, delays, communication, simulation, num_pushes, capacity
        )
        return rows, *_ending(simulation)

    return jax.vmap(one)(seeds)


def _ending(simulation):
    """The leaves of a `builder.Ending`."""
    server = simulation.server
    return server.released, server.clocks.waiting, server.cancelled
