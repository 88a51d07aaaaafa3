"""The event loop of virtual time, as one XLA program.

Per step it takes the earliest arrival (equal ones: lowest worker index), makes the
transition and starts the computations that were released or restarted. A deadline of
the policy is an event of its own, after the arrivals at the same time; a policy without
`on_time` compiles as if there were no such thing. Time is float64: callers run these
functions under x64, which nothing else needs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from abs_dssp.history import builder, traces, transition
from abs_dssp.history.events import NOBODY
from abs_dssp.policies import Policy
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delays as delays_lib
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import BLOCK, Delays

_AHEAD = 4  # blocks of durations kept per worker
_TOP_UP = 2  # blocks drawn before each BLOCK pushes, for the workers that need them


class DeadlockError(ValueError):
    """A policy under which every worker waits."""


class Workers(NamedTuple):
    """What the workers are doing, and the durations drawn for them."""

    finish: Float[Array, " N"]  # seconds; end of the computation, inf while waiting
    duration: Float[Array, " N"]  # seconds; of the present computation
    drawn: Int[Array, " N"]  # blocks of durations drawn
    durations: Float[Array, "N W"]  # n-th duration in column n % W
    chain: Any  # states of the delay model


class Simulation(NamedTuple):
    """The state of the event loop between two pushes."""

    server: transition.State
    workers: Workers
    link: Float[Array, ""]  # seconds; when the server's shared link is free
    busy: Float[Array, ""]  # seconds; when what the latest event began is done
    keys: Any  # random key of every worker


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
    durations = jnp.zeros((num_workers, _AHEAD * BLOCK), jnp.float64)
    chain = jax.vmap(delays.start)(jax.tree.map(jnp.asarray, delays.parameters))
    workers = Workers(time, time, count, durations, chain)
    workers = _fill(delays, keys, workers, count)
    first = workers.durations[:, 0]
    seconds = communication_lib.per_worker(communication, num_workers)
    finish = first if communication.shared else first + seconds
    return workers._replace(finish=finish, duration=first), keys


def begin(policy: Policy, workers: Workers, keys: Any) -> Simulation:
    """The part of `start` that depends on the policy."""
    num_workers = workers.finish.shape[0]
    server, free = transition.initial(policy, num_workers), jnp.zeros((), jnp.float64)
    return Simulation(server, workers, link=free, busy=free, keys=keys)


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
        workers = _fill(delays, simulation.keys, simulation.workers, grants)
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
) -> tuple[Simulation, Float[Array, "E 9"], Int[Array, ""], Int[Array, ""]]:
    """`advance` for a policy with `on_time`, whose deadlines are events too.

    Args:
      policy: the rule.
      delays: as for `start`.
      communication: as for `start`.
      simulation: before the first of these events.
      num_pushes: how many; int32 scalar.
      capacity: events at most, rows of the result; static.
      settle: whether deadlines that come before the push after the last are among the
        events too; bool scalar.

    Returns:
      `(simulation, rows, count, pushes)`: the simulation afterwards, `builder.ROW` of
      every event, with the worker `NOBODY` at a deadline, and how many events and
      pushes there were.
    """
    seconds = communication_lib.per_worker(communication, delays.num_workers)
    transfer = (seconds, communication.shared, communication.update)

    def goes_on(carry):
        simulation, _, count, pushes = carry
        more = pushes < num_pushes
        more = more | (settle & _arrival(*transfer, simulation).later_than_deadline)
        return more & (count < capacity)

    def some(carry):
        simulation, rows, count, pushes = carry
        grants = simulation.server.grants
        workers = _fill(delays, simulation.keys, simulation.workers, grants)
        until = count + BLOCK  # each starts at most one computation of a worker

        def one(carry):
            simulation, rows, count, pushes = carry
            simulation, values, pushed = _event(policy, *transfer, simulation)
            rows = jax.lax.dynamic_update_index_in_dim(rows, values, count, axis=0)
            return simulation, rows, count + 1, pushes + pushed.astype(jnp.int32)

        carry = (simulation._replace(workers=workers), rows, count, pushes)
        return jax.lax.while_loop(lambda c: goes_on(c) & (c[2] < until), one, carry)

    rows = jnp.zeros((capacity, len(builder.ROW)), jnp.float64)
    carry = (simulation, rows, jnp.int32(0), jnp.int32(0))
    return jax.lax.while_loop(goes_on, some, carry)


class _Arrival(NamedTuple):
    """The next push."""

    worker: Int[Array, ""]
    now: Float[Array, ""]  # seconds; when it is decided; inf if nobody computes
    link: Float[Array, ""]  # seconds; when it leaves the server's link
    deadline: Any  # seconds; when the policy is asked if it does not come before

    @property
    def later_than_deadline(self):
        """Whether the policy's deadline is the next event instead."""
        return self.deadline < self.now


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
    return _Arrival(worker, now, link, deadline)


def _event(policy: Policy, seconds, shared: bool, update, simulation: Simulation):
    """One push or deadline, and whether it was a push."""
    after_deadline = _arrival(seconds, shared, update, simulation).later_than_deadline

    def wake(simulation: Simulation):
        now = _arrival(seconds, shared, update, simulation).deadline
        before, link = simulation.server, simulation.link
        server, done = transition.timer(policy, before, now, update)
        row = builder.row(done, NOBODY, now, 0.0)
        return _begun(simulation, server, done, link, seconds, shared), row

    def push(simulation: Simulation):
        return _step(policy, seconds, shared, update, simulation)

    simulation, row = jax.lax.cond(after_deadline, wake, push, simulation)
    return simulation, row, ~after_deadline


def _step(policy: Policy, seconds, shared: bool, update, simulation: Simulation):
    """One push."""
    before, workers = simulation.server, simulation.workers
    worker, now, link, _ = _arrival(seconds, shared, update, simulation)
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
    workers = workers._replace(
        finish=jnp.where(done.begin, finish, paused),
        duration=jnp.where(done.begin, upcoming, workers.duration),
    )
    return Simulation(server, workers, link, done.ready, simulation.keys)


def _fill(delays: Delays, keys, workers: Workers, started) -> Workers:
    """Draws durations until every worker has enough for the next BLOCK pushes.

    A worker starts at most one computation per push. Without restarts there is about
    one start per push in all, so a few blocks for the neediest workers suffice, and
    these are drawn unconditionally: a loop whose length depends on the data is slow
    under vmap. `started` counts the computations of each worker, (N,).
    """
    parameters = jax.tree.map(jnp.asarray, delays.parameters)
    room = (_AHEAD - 1) * BLOCK

    def left(workers):
        return workers.drawn * BLOCK - started

    def draw(workers):
        worker = jnp.argmin(left(workers)).astype(jnp.int32)
        index = workers.drawn[worker]
        chosen = jax.tree.map(lambda leaf: leaf[worker], (parameters, workers.chain))
        block, chain = delays.block(chosen[0], keys[worker], index, chosen[1])
        fits = left(workers)[worker] <= room
        corner = (worker, (index % _AHEAD) * BLOCK)
        old = jax.lax.dynamic_slice(workers.durations, corner, (1, BLOCK))
        block = jnp.where(fits, block[None, :].astype(jnp.float64), old)
        chain = jax.tree.map(
            lambda leaf, new, old: leaf.at[worker].set(jnp.where(fits, new, old)),
            *(workers.chain, chain, chosen[1]),
        )
        durations = jax.lax.dynamic_update_slice(workers.durations, block, corner)
        drawn = workers.drawn.at[worker].add(fits.astype(jnp.int32))
        return workers._replace(durations=durations, drawn=drawn, chain=chain)

    for _ in range(_TOP_UP):
        workers = draw(workers)
    return jax.lax.while_loop(
        lambda workers: jnp.any(left(workers) < BLOCK), draw, workers
    )


def to_trace(
    rows: Float[np.ndarray, "P 9"], last: builder.Ending, settings: dict[str, Any]
) -> traces.Trace:
    """The trace of the loop's rows.

    Args:
      rows: what `advance` or `advance_events` returned, up to the last event.
      last: the state after the last row.
      settings: the trace's remaining fields, `num_workers` and `policy` among them.

    Raises:
      DeadlockError: if there is a push at which nobody computes.
    """
    kinds = np.where(rows[:, builder.ROW.index("worker")] < 0, builder.TIMER, 0)
    stuck = np.flatnonzero(np.isinf(rows[:, 0]))
    if stuck.size:
        pushes = int((kinds[: stuck[0]] != builder.TIMER).sum())
        raise DeadlockError(
            f"every worker waits, nobody computes, at push {pushes + 1}: "
            f"{settings['policy']} releases nobody any more; check its release rule."
        )
    settings = dict(settings)
    made = builder.Builder(settings.pop("num_workers"))
    made.extend(rows, kinds)
    return made.trace(last, **settings)
