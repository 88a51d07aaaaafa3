"""The event loop of virtual time, as one XLA program.

Per step it takes the earliest arrival (equal ones: lowest worker index), updates the
clocks, asks the policy and starts the computations that it released or restarted.
Time is float64: callers run these functions under x64, which nothing else needs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import policies
from abs_dssp.history import traces, transition
from abs_dssp.policies import Clocks, Policy
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
    released: Float[Array, " N"]  # seconds; of the latest release
    restarts: Int[Array, " N"]  # computations cancelled since the latest push
    started: Int[Array, " N"]  # computations started
    drawn: Int[Array, " N"]  # blocks of durations drawn
    durations: Float[Array, "N W"]  # n-th duration at place n % W
    chain: Any  # states of the delay model


class Simulation(NamedTuple):
    """The state of the event loop between two pushes."""

    clocks: Clocks
    workers: Workers
    policy: Any  # the policy's state
    link: Float[Array, ""]  # seconds; when the server's shared link is free
    busy: Float[Array, ""]  # seconds; when the server's latest update is done
    keys: Any  # random key of every worker


# A row as the loop writes it: float64 holds every column exactly.
_ROW = (
    "time", "worker", "pulled", "version", "weight", "committed", "released",
    "duration", "restarts",
)  # fmt: skip
ROW_LENGTH = len(_ROW)


def start(policy: Policy, delays: Delays, communication: Communication, seed):
    """Everybody starts to compute at time 0 from version 0. Pure; run under x64."""
    num_workers = delays.num_workers
    width = _AHEAD * BLOCK
    keys = delays_lib.worker_keys(seed, num_workers)
    count = jnp.zeros(num_workers, jnp.int32)
    time = jnp.zeros(num_workers, jnp.float64)
    parameters = jax.tree.map(jnp.asarray, delays.parameters)
    workers = Workers(
        finish=time,
        duration=time,
        released=time,
        restarts=count,
        started=count,
        drawn=count,
        durations=jnp.zeros((num_workers, width), jnp.float64),
        chain=jax.vmap(delays.start)(parameters),
    )
    workers = _fill(delays, keys, workers)
    first = workers.durations[:, 0]
    seconds = communication_lib.per_worker(communication, num_workers)
    workers = workers._replace(
        finish=first if communication.shared else first + seconds,
        duration=first,
        started=count + 1,
    )
    return Simulation(
        policies.initial_clocks(num_workers, jnp.float64),
        workers,
        policy.init(),
        jnp.zeros((), jnp.float64),
        jnp.zeros((), jnp.float64),
        keys,
    )


def advance(
    policy: Policy,
    delays: Delays,
    communication: Communication,
    simulation: Simulation,
    num_pushes,
    capacity: int,
) -> tuple[Simulation, Float[Array, "P 9"]]:
    """Runs the event loop over `num_pushes` <= `capacity` pushes. Pure; under x64.

    After a deadlock the rows that follow have time inf.
    """
    seconds = communication_lib.per_worker(communication, delays.num_workers)
    step = functools.partial(
        _step, policy, seconds, communication.shared, communication.update
    )

    def some(_, carry):
        simulation, rows, done = carry
        workers = _fill(delays, simulation.keys, simulation.workers)
        simulation = simulation._replace(workers=workers)
        until = jnp.minimum(done + BLOCK, num_pushes)

        def one(row, carry):
            simulation, rows = carry
            simulation, values = step(simulation)
            return simulation, jax.lax.dynamic_update_index_in_dim(
                rows, values, row, axis=0
            )

        simulation, rows = jax.lax.fori_loop(done, until, one, (simulation, rows))
        return simulation, rows, until

    rows = jnp.zeros((capacity, len(_ROW)), jnp.float64)
    chunks = -(-num_pushes // BLOCK)
    simulation, rows, _ = jax.lax.fori_loop(
        0, chunks, some, (simulation, rows, jnp.int32(0))
    )
    return simulation, rows


def _step(policy: Policy, seconds, shared: bool, update, simulation: Simulation):
    """One push."""
    clocks, workers = simulation.clocks, simulation.workers
    worker = jnp.argmin(workers.finish).astype(jnp.int32)  # first of equal ones
    now = workers.finish[worker]
    if shared:
        now = jnp.maximum(now, simulation.link) + seconds[worker]
    link = now
    if update is not None:
        now = jnp.maximum(now, simulation.busy)
    pusher = policies.only(worker, clocks.clock.shape[0])
    state, after, answer = transition.push(
        policy, simulation.policy, clocks, worker, now
    )
    arrived = clocks.waiting | pusher
    release, restart = answer.release, answer.restart
    begin = release | restart
    ready = now  # when what is released starts
    if update is not None:
        ready = now + jnp.where(answer.commit, update, 0.0)
    row = (
        now, worker, answer.pulled, answer.version, answer.weight,
        answer.commit, workers.released[worker], workers.duration[worker],
        workers.restarts[worker],
    )  # fmt: skip

    width = workers.durations.shape[1]
    place = workers.started & (width - 1)
    upcoming = jnp.take_along_axis(workers.durations, place[:, None], axis=1)[:, 0]
    finish = ready + upcoming if shared else ready + upcoming + seconds
    paused = jnp.where(arrived, jnp.inf, workers.finish)
    workers = workers._replace(
        finish=jnp.where(begin, finish, paused),
        duration=jnp.where(begin, upcoming, workers.duration),
        released=jnp.where(release, ready, workers.released),
        restarts=jnp.where(arrived, 0, workers.restarts + restart.astype(jnp.int32)),
        started=workers.started + begin.astype(jnp.int32),
    )
    values = jnp.stack([jnp.asarray(value).astype(jnp.float64) for value in row])
    return Simulation(after, workers, state, link, ready, simulation.keys), values


def _fill(delays: Delays, keys, workers: Workers) -> Workers:
    """Draws durations until every worker has enough for the next BLOCK pushes.

    A worker starts at most one computation per push. Without restarts there is about
    one start per push in all, so a few blocks for the neediest workers suffice, and
    these are drawn unconditionally: a loop whose length depends on the data is slow
    under vmap.
    """
    parameters = jax.tree.map(jnp.asarray, delays.parameters)
    room = (_AHEAD - 1) * BLOCK

    def left(workers):
        return workers.drawn * BLOCK - workers.started

    def draw(workers):
        worker = jnp.argmin(left(workers)).astype(jnp.int32)
        index = workers.drawn[worker]
        chosen = jax.tree.map(lambda leaf: leaf[worker], (parameters, workers.chain))
        block, chain = delays.block(chosen[0], keys[worker], index, chosen[1])
        fits = left(workers)[worker] <= room
        place = (worker, (index % _AHEAD) * BLOCK)
        old = jax.lax.dynamic_slice(workers.durations, place, (1, BLOCK))
        block = jnp.where(fits, block[None, :].astype(jnp.float64), old)
        chain = jax.tree.map(
            lambda new, old: jnp.where(fits, new, old), chain, chosen[1]
        )
        return workers._replace(
            durations=jax.lax.dynamic_update_slice(workers.durations, block, place),
            drawn=workers.drawn.at[worker].add(fits.astype(jnp.int32)),
            chain=jax.tree.map(
                lambda leaf, new: leaf.at[worker].set(new), workers.chain, chain
            ),
        )

    for _ in range(_TOP_UP):
        workers = draw(workers)
    return jax.lax.while_loop(
        lambda workers: jnp.any(left(workers) < BLOCK), draw, workers
    )


def to_trace(
    rows: Float[np.ndarray, "P 9"],
    released: Float[np.ndarray, " N"],
    waiting: Bool[np.ndarray, " N"],
    restarts: Int[np.ndarray, " N"],
    settings: dict[str, Any],
) -> traces.Trace:
    """Turns the loop's rows into a trace.

    Args:
      rows: what `advance` returned.
      released: time of each worker's latest release at the end.
      waiting: who waits at the end.
      restarts: computations of each worker cancelled since its latest push.
      settings: the trace's remaining fields.

    Raises:
      DeadlockError: if there is a push at which nobody computes.
    """
    columns = dict(zip(_ROW, rows.T, strict=True))
    stuck = np.flatnonzero(np.isinf(columns["time"]))
    if stuck.size:
        raise DeadlockError(
            "every worker waits, nobody computes, at push "
            f"{int(stuck[0]) + 1}: {settings['policy']} releases nobody any "
            "more; check its release rule."
        )
    given = columns.pop("released")
    num_workers = settings["num_workers"]
    typed = {name: columns[name].astype(traces.COLUMNS[name]) for name in columns}
    worker = typed["worker"]
    clock = np.empty(len(worker), np.int32)
    wait = np.full(len(worker), np.nan)
    for i, mine in enumerate(traces.rows_of_workers(worker, num_workers)):
        clock[mine] = np.arange(1, len(mine) + 1)
        # A worker's push is followed by the release that its next push started from.
        end = given[mine[1:]]
        last = [] if not mine.size else [np.nan if waiting[i] else released[i]]
        wait[mine] = np.concatenate([end, last]) - typed["time"][mine]
    left = tuple(int(n) for n in restarts)
    return traces.Trace(**typed, clock=clock, wait=wait, open_restarts=left, **settings)
