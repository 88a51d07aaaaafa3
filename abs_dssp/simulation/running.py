"""Runs the compiled event loop from the host: as many events as are asked for."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import compilation, policies
from abs_dssp.history import builder
from abs_dssp.history.trace_format import settings_of
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy
from abs_dssp.simulation import event_loop, event_rows
from abs_dssp.simulation import presence as presence_lib
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import BLOCK, Delays
from abs_dssp.simulation.event_rows import PUSH, DeadlockError

_MOST_OTHERS = 1 << 16  # events in a row, before it is thought that no push comes


class Source:
    """A simulation that is asked for more pushes until a limit is reached.

    Attributes:
      pushes: in all; None where only time ends the run.
      until: seconds; None where only the pushes end it.
      settings: what the trace's header says, seed included.
      ended: whether a limit is reached.

    Example:
      >>> from abs_dssp import communication, delays, policies
      >>> model, link = delays.constant([1.0, 2.0]), communication.none()
      >>> source = Source(policies.asp(2), model, link, None, 3.0, 0, 1, "")
      >>> source.all().time.tolist()
      [1.0, 2.0, 2.0, 3.0]
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
        self.settings = settings_of(policy, delays.num_workers, local_steps, task)
        self.settings["seed"] = seed
        self.ended = False
        self._times = np.empty(0)  # of the pushes among the rows
        self._count = 0  # pushes within the limits
        with jax.enable_x64(True):
            model = (policy, delays, communication)
            self._simulation = start(*model, seed, absences)
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
            self._simulation, rows = _more_events(
                *model, before, count, settle=not last
            )
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


def alone(policy, delays, communication, absences, seed, num_pushes: int):
    """Rows and ending of one seed's schedule."""
    model = (policy, delays, communication)
    simulation = start(*model, seed, absences)
    simulation, rows = _more_events(
        *model, absences, simulation, num_pushes, settle=False
    )
    return rows, builder.ending(simulation.server)


def only_pushes(policy: Policy, absences: Absences | None) -> bool:
    """Whether all events are pushes."""
    return policy.on_time is None and absences is None


def _of_pushes(rows):
    """Which rows are pushes; bool (E,)."""
    return event_rows.kinds(rows) == PUSH


def _require_progress(times) -> None:
    """Refuses a run that only time would end, and in which it has stopped."""
    most = max(event_rows.STILL, len(times) // 2)
    still = len(times) - int(np.searchsorted(times, times[-1], side="left"))
    if still > most and np.isfinite(times[-1]):
        event_rows.refuse_standstill(still, times[-1])


def capacity_for(num_pushes: int) -> int:
    """Rounded up, so that runs of similar length share a compiled program."""
    return max(1 << (num_pushes - 1).bit_length(), BLOCK)


@functools.cache
def jitted(function: Callable[..., Any], *static: int) -> Callable[..., Any]:
    options = compilation.many_small_operations()
    return jax.jit(function, static_argnums=static, compiler_options=options)


def start(policy, delays, communication, seed, absences=None):
    """`event_loop.start`; its larger part is compiled once for all policies."""
    workers, keys = jitted(event_loop.start_workers)(delays, communication, seed)
    presence = None
    if absences is not None:
        presence = jitted(presence_lib.start)(absences, seed)
    return event_loop.begin(policy, workers, keys, presence)


def advance(policy, delays, communication, simulation, num_pushes, capacity):
    return jitted(event_loop.advance, 0, 5)(
        policy, delays, communication, simulation, num_pushes, capacity
    )


def _more_events(
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
    capacity, model = capacity_for(num_pushes), (policy, delays, communication)
    if only_pushes(policy, absences):
        pushes = jnp.int32(num_pushes)
        simulation, rows = advance(*model, simulation, pushes, capacity)
        return simulation, np.asarray(rows)[:num_pushes]
    made, left = [], num_pushes
    run = jitted(event_loop.advance_events, 0, 5)
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
def many(policy, delays, communication, seeds, num_pushes, capacity):
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
