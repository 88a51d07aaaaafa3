"""The event loop of virtual time, as one XLA program.

Per step it takes the earliest arrival (equal ones: lowest worker index), makes the
transition and starts the computations that were released or restarted. A deadline of
the policy is an event of its own, after the arrivals at the same time, and so are
deaths and returns, which come between these two. A policy without `on_time` compiles as
if there were no deadlines, a simulation without absences as if nobody died. Time is
float64: callers run these functions under x64, which nothing else needs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.history import builder, transition
from abs_dssp.history.events import KINDS, NOBODY
from abs_dssp.policies import Policy
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delays as delays_lib
from abs_dssp.simulation import drawing, event_rows
from abs_dssp.simulation import presence as presence_lib
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import BLOCK, Delays
from abs_dssp.simulation.drawing import Workers
from abs_dssp.simulation.event_rows import PUSH


class Simulation(NamedTuple):
    """The state of the event loop between two pushes."""

    server: transition.State
    workers: Workers
    link: Float[Array, ""]  # seconds; when the server's shared link is free
    busy: Float[Array, ""]  # seconds; when what the latest event began is done
    keys: Any  # random key of every worker
    # A `Presence`; None, and no array in a compiled program, where nobody dies.
    presence: Any = None


def start(policy: Policy, delays: Delays, communication: Communication, seed):
    """Everybody starts to compute at time 0 from version 0. Pure; run under x64.

    Args:
      policy: the rule.
      delays: durations of the computations, N workers.
      communication: time of a push on its way.
      seed: for the durations; int32 scalar.

    Returns:
      A `Simulation` before the first push.
    """
    return begin(policy, *start_workers(delays, communication, seed))


def start_workers(
    delays: Delays, communication: Communication, seed
) -> tuple[Workers, Any]:
    """The part of `start` that no policy changes: the workers, and their keys."""
    num_workers = delays.num_workers
    keys = delays_lib.worker_keys(seed, num_workers)
    count = jnp.zeros(num_workers, jnp.int32)
    time = jnp.zeros(num_workers, jnp.float64)
    durations = jnp.zeros((num_workers, drawing.AHEAD * BLOCK), jnp.float64)
    chain = jax.vmap(delays.start)(jax.tree.map(jnp.asarray, delays.parameters))
    workers = Workers(time, time, count, durations, chain)
    workers = drawing.fill(delays, keys, workers, count)
    first = workers.durations[:, 0]
    seconds = communication_lib.per_worker(communication, num_workers)
    finish = first if communication.shared else first + seconds
    return workers._replace(finish=finish, duration=first), keys


def begin(
    policy: Policy, workers: Workers, keys: Any, presence: Any = None
) -> Simulation:
    """The part of `start` that depends on the policy, and who is there."""
    num_workers = workers.finish.shape[0]
    server, free = transition.initial(policy, num_workers), jnp.zeros((), jnp.float64)
    return Simulation(server, workers, free, busy=free, keys=keys, presence=presence)


def with_loss(simulation: Simulation, loss: float) -> Simulation:
    """The same, with this estimate of the training loss for the decisions to come."""
    server = simulation.server
    clocks = server.clocks._replace(loss=jnp.float32(loss))
    return simulation._replace(server=server._replace(clocks=clocks))


def advance(
    policy: Policy,
    delays: Delays,
    communication: Communication,
    simulation: Simulation,
    num_pushes,
    capacity: int,
) -> tuple[Simulation, Float[Array, "P 9"]]:
    """Runs the event loop over some pushes. Pure; run under x64.

    Args:
      policy: the rule, without `on_time`; see `advance_events`.
      delays: as for `start`.
      communication: as for `start`.
      simulation: before the first of these pushes.
      num_pushes: how many, at most `capacity`; int32 scalar.
      capacity: rows of the result; static.

    Returns:
      The simulation afterwards, and `builder.ROW` of every push. After a deadlock the
      rows that follow have time inf.

    Example:
      >>> from abs_dssp import communication, delays, policies
      >>> with jax.enable_x64(True):
      ...     speed = delays.constant([1.0, 3.0])
      ...     model = (policies.asp(2), speed, communication.none())
      ...     loop, rows = advance(*model, start(*model, 0), jnp.int32(3), 64)
      >>> rows[:3, builder.ROW.index("time")].tolist()
      [1.0, 2.0, 3.0]
    """
    seconds = communication_lib.per_worker(communication, delays.num_workers)
    shared, update = communication.shared, communication.update

    def some(_, carry):
        simulation, rows, done = carry
        grants = simulation.server.grants
        workers = drawing.fill(delays, simulation.keys, simulation.workers, grants)
        simulation = simulation._replace(workers=workers)
        until = jnp.minimum(done + BLOCK, num_pushes)

        def one(row, carry):
            simulation, rows = carry
            simulation, values = _step(policy, seconds, shared, update, simulation)
            rows = jax.lax.dynamic_update_index_in_dim(rows, values, row, axis=0)
            return simulation, rows

        simulation, rows = jax.lax.fori_loop(done, until, one, (simulation, rows))
        return simulation, rows, until

    rows = jnp.zeros((capacity, len(builder.ROW)), jnp.float64)
    carry = (simulation, rows, jnp.int32(0))
    return jax.lax.fori_loop(0, -(-num_pushes // BLOCK), some, carry)[:2]


def advance_events(
    policy: Policy,
    delays: Delays,
    communication: Communication,
    simulation: Simulation,
    num_pushes,
    capacity: int,
    settle,
    absences: Absences | None = None,
) -> tuple[Simulation, Float[Array, "E W"], Int[Array, ""], Int[Array, ""]]:
    """`advance` where deadlines, deaths or returns are events too.

    Args:
      policy: the rule.
      delays: as for `start`.
      communication: as for `start`.
      simulation: before the first of these events.
      num_pushes: how many; int32 scalar.
      capacity: events at most, rows of the result; static.
      settle: whether events that come before the push after the last are among the
        events too; bool scalar.
      absences: of a simulation that has a presence.

    Returns:
      `(simulation, rows, count, pushes)`: the simulation afterwards, `builder.ROW` of
      every event, with the worker `NOBODY` at a deadline, and how many events and
      pushes there were. With absences each row ends with the number of its kind.
    """
    seconds = communication_lib.per_worker(communication, delays.num_workers)
    transfer = (seconds, communication.shared, communication.update)

    def goes_on(carry):
        simulation, _, count, pushes = carry
        more = pushes < num_pushes
        more = more | (settle & _arrival(*transfer, simulation).is_not_next)
        return more & (count < capacity)

    def some(carry):
        simulation, rows, count, pushes = carry
        grants = simulation.server.grants
        workers = drawing.fill(delays, simulation.keys, simulation.workers, grants)
        until = count + BLOCK  # each starts at most one computation of a worker

        def one(carry):
            simulation, rows, count, pushes = carry
            if absences is None:
                simulation, values, pushed = _event(policy, *transfer, simulation)
                more = 1
            else:
                simulation, values = _any_event(policy, absences, *transfer, simulation)
                pushed, more = values[-1] == PUSH, (values[-1] >= 0).astype(jnp.int32)
            rows = jax.lax.dynamic_update_index_in_dim(rows, values, count, axis=0)
            return simulation, rows, count + more, pushes + pushed.astype(jnp.int32)

        carry = (simulation._replace(workers=workers), rows, count, pushes)
        return jax.lax.while_loop(lambda c: goes_on(c) & (c[2] < until), one, carry)

    rows = jnp.zeros((capacity, _width(simulation)), jnp.float64)
    carry = (simulation, rows, jnp.int32(0), jnp.int32(0))
    return jax.lax.while_loop(goes_on, some, carry)


class _Arrival(NamedTuple):
    """The next push."""

    worker: Int[Array, ""]
    now: Float[Array, ""]  # seconds; when it is decided; inf if nobody computes
    link: Float[Array, ""]  # seconds; when it leaves the server's link
    deadline: Any  # seconds; when the policy is asked if it does not come before
    change: Any = None  # whose stage ends next; a `presence.Change`
    told: Any = None  # seconds; when the server takes a change that comes before it

    @property
    def is_not_next(self):
        """Whether another event is the next one instead."""
        if self.change is None:
            return self.deadline < self.now
        return self.comes_first | self.later_than_deadline

    @property
    def comes_first(self):
        """Whether a change comes before it. What arrives at a death does arrive."""
        return self.change.moment < self.link

    @property
    def later_than_deadline(self):
        """Whether the policy's deadline is before it, and before any change."""
        now = self.now
        if self.change is not None:
            now = jnp.where(self.comes_first, self.told, now)
        return jnp.bool_(False) if self.deadline is None else self.deadline < now


def _arrival(seconds, shared: bool, update, simulation: Simulation) -> _Arrival:
    """The earliest push that is computed now."""
    workers, wake = simulation.workers, simulation.server.wake
    worker = jnp.argmin(workers.finish).astype(jnp.int32)  # first of equal ones
    now = workers.finish[worker]
    if shared:
        now = jnp.maximum(now, simulation.link) + seconds[worker]
    link = now
    if update is not None:
        now = jnp.maximum(now, simulation.busy)
    deadline = None if wake is None else jnp.maximum(wake, simulation.busy)
    if simulation.presence is None:
        return _Arrival(worker, now, link, deadline)
    change = presence_lib.upcoming(simulation.presence)
    told = jnp.maximum(change.moment, simulation.busy)
    return _Arrival(worker, now, link, deadline, change, told)


def _event(policy: Policy, seconds, shared: bool, update, simulation: Simulation):
    """One push or deadline, and whether it was a push."""
    after_deadline = _arrival(seconds, shared, update, simulation).is_not_next

    def wake(simulation: Simulation):
        return _wake(policy, seconds, shared, update, simulation)

    def push(simulation: Simulation):
        return _step(policy, seconds, shared, update, simulation)

    simulation, row = jax.lax.cond(after_deadline, wake, push, simulation)
    return simulation, row, ~after_deadline


def _wake(policy: Policy, seconds, shared: bool, update, simulation: Simulation):
    """One deadline."""
    now = _arrival(seconds, shared, update, simulation).deadline
    before, link = simulation.server, simulation.link
    server, done = transition.timer(policy, before, now, update)
    row = builder.row(done, NOBODY, now, 0.0)
    return _begun(simulation, server, done, link, seconds, shared), row


def _any_event(
    policy: Policy,
    absences: Absences,
    seconds,
    shared: bool,
    update,
    simulation: Simulation,
):
    """One event of any kind; its row ends with the kind's number.

    A death is none that anybody is told of: its row, of kind -1, does not count.
    """
    transfer = (seconds, shared, update)

    def changed(kind: str, simulation: Simulation):
        arrival = _arrival(*transfer, simulation)
        worker, now = arrival.change.worker, arrival.told
        presence = presence_lib.passed(absences, simulation.presence, arrival.change)
        if kind == "death":
            after = simulation._replace(
                workers=_dead(simulation.workers, worker),
                link=_left(arrival, shared, simulation),
                presence=presence,
            )
            return after, jnp.full(_width(after), -1, jnp.float64)
        if kind == "leave":
            server, done = transition.leave(policy, simulation.server, worker, now)
        else:
            server, done = transition.join(simulation.server, worker, now)
        row = builder.row(done, worker, now, 0.0)
        simulation = simulation._replace(presence=presence)
        after = _begun(simulation, server, done, simulation.link, seconds, shared)
        return after, jnp.append(row, KINDS.index(kind))

    def known(step, kind: int, simulation: Simulation):
        simulation, row = step(policy, *transfer, simulation)
        return simulation, jnp.append(row, jnp.float64(kind))

    branches = [functools.partial(changed, kind) for kind in presence_lib.ENDS]
    branches.append(functools.partial(known, _step, PUSH))
    if policy.on_time is not None:
        branches.append(functools.partial(known, _wake, builder.TIMER))
    arrival = _arrival(*transfer, simulation)
    which = jnp.where(arrival.comes_first, arrival.change.stage, len(presence_lib.ENDS))
    which = jnp.where(arrival.later_than_deadline, len(branches) - 1, which)
    return jax.lax.switch(which, branches, simulation)


def _dead(workers: Workers, worker) -> Workers:
    """The workers when one of them has died: its push never arrives."""
    return workers._replace(finish=workers.finish.at[worker].set(jnp.inf))


def _left(arrival: _Arrival, shared: bool, simulation: Simulation):
    """When the server's link is free where a worker dies, whose push may be on it."""
    link = simulation.link
    if not shared:
        return link
    change = arrival.change
    sends = arrival.worker == change.worker
    sends = sends & (simulation.workers.finish[change.worker] < change.moment)
    return jnp.where(sends, jnp.maximum(link, change.moment), link)


def _step(policy: Policy, seconds, shared: bool, update, simulation: Simulation):
    """One push."""
    before, workers = simulation.server, simulation.workers
    worker, now, link, *_ = _arrival(seconds, shared, update, simulation)
    server, done = transition.push(policy, before, worker, now, update)
    row = builder.row(done, worker, now, workers.duration[worker])
    return _begun(simulation, server, done, link, seconds, shared), row


def _begun(
    simulation: Simulation, server: transition.State, done, link, seconds, shared: bool
) -> Simulation:
    """The simulation after an event: computations begin, and who waits has none."""
    before, workers = simulation.server, simulation.workers
    width = workers.durations.shape[1]
    column = before.grants & (width - 1)  # of the computation that would come next
    upcoming = jnp.take_along_axis(workers.durations, column[:, None], axis=1)[:, 0]
    finish = done.ready + upcoming if shared else done.ready + upcoming + seconds
    paused = jnp.where(server.clocks.waiting, jnp.inf, workers.finish)
    if simulation.presence is not None:  # what the dead are told, they do not begin
        there = presence_lib.there(simulation.presence)
        finish = jnp.where(there, finish, jnp.inf)
    workers = workers._replace(
        finish=jnp.where(done.begin, finish, paused),
        duration=jnp.where(done.begin, upcoming, workers.duration),
    )
    keys, presence = simulation.keys, simulation.presence
    return Simulation(server, workers, link, done.ready, keys, presence)


def _width(simulation: Simulation) -> int:
    """Columns of the rows of `advance_events`."""
    return event_rows.width(simulation.presence is not None)
