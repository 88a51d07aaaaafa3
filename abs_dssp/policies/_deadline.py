"""Synchronous rounds with a deadline that follows the measured times.

Rounds that drop who is late are those of Chen, Pan, Monga, Bengio, Józefowicz,
"Revisiting Distributed Synchronous SGD", 2016 (arXiv 1604.00981), whose backup workers
are `k_sync(k=N-b)`. The deadline from median and median absolute deviation is ours.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from abs_dssp.policies import base, rounds


class DeadlineState(NamedTuple):
    """How the present round stands, and what was measured."""

    started: Float[Array, ""]  # seconds; when it began
    seconds: Float[Array, " N"]  # of each worker's latest computation; NaN: not known


@base.constructor
def deadline(num_workers: int, k: float = 3.0, floor: float = 0.01) -> base.Policy:
    """Waits for everybody, but not longer than until a deadline; cancels who is late.

        commit  iff  every living worker has pushed, or somebody has and
                     now = start + m + k * max(d, floor * m)

    where m is the median of the living workers' latest times, and d the median of the
    distances from it. Who is late at the deadline starts again, from the new version,
    and counts as having taken until then: where most have become slow the deadline
    follows. If nobody has pushed at it, another window of that length begins. While
    somebody's time is not known, as in the first round, the deadline is never.

    Args:
      num_workers: number of workers N, alive or not.
      k: distances beyond the median; at least 0.
      floor: least distance over the median, since equal times have none and their
        rounding would decide; at least 0.

    Returns:
      A `Policy` with a `DeadlineState`.

    Raises:
      ValueError: if `k` or `floor` is negative or not finite.

    Example:
      >>> from abs_dssp import simulate
      >>> policy = policies.deadline(3, k=3.0, floor=0.25)
      >>> times = "recorded([[1], [1], [1, 9]])"  # the deadline is at 1 + 1 + 3 / 4
      >>> trace = simulate.schedule(policy, times, 6)
      >>> [event.seconds for event in trace.events], trace.time[-1].item()
      ([0.0, 2.75], 3.75)
    """
    for name, value in (("k", k), ("floor", floor)):
        base.require(
            (value >= 0) & (value < jnp.inf),
            f"deadline: {name} must be a number of at least 0, got {value}.",
        )

    def init():
        unknown = jnp.full(num_workers, jnp.nan, float)
        return DeadlineState(jnp.zeros((), float), unknown)

    def window(seconds, alive):
        """Seconds from the start of a round to its deadline."""
        middle = _median(seconds, alive)
        distance = _median(jnp.abs(seconds - middle), alive)
        length = middle + k * jnp.maximum(distance, floor * middle)
        return jnp.where(jnp.any(jnp.isnan(seconds) & alive), jnp.inf, length)

    def taken(state, began, now):
        """Seconds for which computations have run; who joined began then."""
        dtype = state.started.dtype
        began = jnp.maximum(state.started, began.astype(dtype))
        return jnp.asarray(now, dtype) - began

    def begin(state, clocks, now, over):
        """The state afterwards, and the next round's deadline, if one begins."""
        time = jnp.asarray(now, state.started.dtype)
        end = time + window(state.seconds, clocks.alive)
        state = state._replace(started=jnp.where(over, time, state.started))
        return state, jnp.where(over, end, jnp.nan)

    def on_push(state, clocks, worker, now):
        pusher = base.only(worker, num_workers)
        took = taken(state, clocks.previous, now)
        state = state._replace(seconds=jnp.where(pusher, took, state.seconds))
        arrived = clocks.waiting | pusher
        fresh = rounds.is_fresh(clocks, worker)
        over = jnp.all(arrived | ~clocks.alive) & (fresh | (clocks.pending > 0))
        release = jnp.where(over, arrived, pusher & ~fresh) & clocks.alive
        state, wake = begin(state, clocks, now, over)
        weight, nobody = fresh.astype(jnp.float32), base.nobody(num_workers)
        return state, base.Decision(weight, over, release, nobody, wake)

    def on_leave(state, clocks, worker, now):
        del worker
        over = jnp.all(clocks.waiting | ~clocks.alive) & (clocks.pending > 0)
        state, wake = begin(state, clocks, now, over)
        return state, base.no_push(over, clocks.waiting & clocks.alive & over, wake)

    def on_time(state, clocks, now):
        over = clocks.pending > 0
        late = clocks.alive & ~clocks.waiting & over
        took = jnp.fmax(state.seconds, taken(state, clocks.latest, now))
        state = state._replace(seconds=jnp.where(late, took, state.seconds))
        again = jnp.asarray(now) + window(state.seconds, clocks.alive)
        state, wake = begin(state, clocks, now, over)
        decision = base.no_push(over, clocks.waiting & clocks.alive & over)
        wake = jnp.where(over, wake, again)
        return state, decision._replace(restart=late, wake=wake)

    properties = base.Properties(
        max_staleness=0,
        max_computing=0,
        min_commit=1,
        max_commit=num_workers,
        reads_loss=False,
        # A round may hold several pushes of a worker that left and joined again.
        commit_per_join=1,
        starves="slow",
    )
    return base.Policy(init, on_push, on_leave, properties, on_time)


def _median(values: Float[Array, " N"], among: Bool[Array, " N"]) -> Float[Array, ""]:
    """The middle one, or the mean of the two middle ones."""
    ordered = jnp.sort(jnp.where(among, values, jnp.inf))
    last = jnp.maximum(jnp.sum(among) - 1, 0)
    return (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
