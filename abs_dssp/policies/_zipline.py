"""Elastic BSP: barriers where the workers' predicted waits are least.

Zhao et al., "Elastic Bulk Synchronous Parallel Model for Distributed Deep Learning",
ICDM 2019 (arXiv 2001.01347), whose ZipLine algorithm places the barrier. The search
here tries every predicted push as the barrier; ties go to the earliest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.policies import base

_CLOSE = 1e-5  # relative; times that differ by less are equal but for rounding


class ZiplineState(NamedTuple):
    """The present superstep."""

    left: Int[Array, " N"]  # pushes until the barrier
    started: Float[Array, " N"]  # seconds; start of the present computation
    interval: Float[Array, " N"]  # seconds the latest computation took; 0 if unknown


@base.constructor
def zipline(num_workers: int, lookahead: int = 8) -> base.Policy:
    """Everybody makes its own number of pushes, then waits for the others.

        barrier = argmin_b sum_i (b - I_i floor(b / I_i)),  b a predicted push

    Every push is committed alone. At a barrier the coming pushes of each worker are
    predicted from the time its latest one took, `lookahead` of them; the next barrier
    is put at the predicted push after which the sum of all waits is least, every worker
    making at least one push and its last one before it. The first superstep is one push
    each.

    Args:
      num_workers: number of workers N, alive or not.
      lookahead: R, predicted pushes per worker; at least 1, and 1 is lockstep.

    Returns:
      A `Policy` with a `ZiplineState`.

    Raises:
      ValueError: if `lookahead` is not a whole number of at least 1.

    Example:
      >>> policies.zipline(4, lookahead=3).init().left.tolist()
      [1, 1, 1, 1]
    """
    base.require(
        isinstance(lookahead, int) and lookahead >= 1,
        f"zipline: lookahead must be a whole number of at least 1, got {lookahead!r}.",
    )

    def init():
        time = jnp.zeros(num_workers, float)
        return ZiplineState(jnp.ones(num_workers, jnp.int32), time, time)

    def settle(state, clocks, arrived, now):
        over = jnp.all((state.left == 0) | ~clocks.alive)
        left = jax.lax.cond(
            over,
            lambda: plan(state.interval, clocks.alive, lookahead),
            lambda: state.left,
        )
        release = arrived & clocks.alive & (left > 0)
        time = now.astype(state.started.dtype)
        started = jnp.where(release, time, state.started)
        return ZiplineState(left, started, state.interval), release

    def on_push(state, clocks, worker, now):
        now = jnp.asarray(now)
        pusher = base.only(worker, num_workers)
        dtype = state.started.dtype
        start = jnp.maximum(state.started, clocks.previous.astype(dtype))
        state = ZiplineState(
            jnp.maximum(state.left - pusher.astype(jnp.int32), 0),
            state.started,
            jnp.where(pusher, now.astype(dtype) - start, state.interval),
        )
        state, release = settle(state, clocks, clocks.waiting | pusher, now)
        return state, base.commit_alone(release)

    def on_leave(state, clocks, worker, now):
        left = jnp.where(base.only(worker, num_workers), 0, state.left)
        state, release = settle(
            state._replace(left=left), clocks, clocks.waiting, jnp.asarray(now)
        )
        return state, base.no_push(False, release)

    return base.Policy(init, on_push, on_leave, base.EVERY_PUSH)


def plan(interval, alive, lookahead: int) -> Int[Array, " N"]:
    """Pushes of each worker until the best barrier.

    Args:
      interval: seconds per push, (N,); 0 where unknown.
      alive: bool (N,).
      lookahead: R.

    Returns:
      int32 (N,), 1..R; 1 for the dead and the unknown.
    """
    ahead = jnp.arange(1, lookahead + 1, dtype=interval.dtype)
    pushes = interval[:, None] * ahead[None, :]  # (N, R) seconds from now
    known = alive & (interval > 0)
    barrier = jnp.where(known[:, None], pushes, jnp.inf).ravel()  # (N R,)
    last = barrier * (1 + _CLOSE)
    before = pushes[None, :, :] <= last[:, None, None]  # (N R, N, R)
    count = jnp.sum(before, axis=2).astype(interval.dtype)
    wait = barrier[:, None] - count * interval[None, :]
    total = jnp.sum(jnp.where(known[None, :], wait, 0), axis=1)
    reachable = jnp.all((count >= 1) | ~known[None, :], axis=1) & jnp.isfinite(barrier)
    total = jnp.where(reachable, total, jnp.inf)
    least = jnp.min(total)
    # The earliest of the best, not the first in the order of workers.
    near = total <= least + _CLOSE * barrier
    best = jnp.argmin(jnp.where(near, barrier, jnp.inf))
    chosen = jnp.sum(before[best], axis=1).astype(jnp.int32)
    return jnp.where(known & jnp.any(reachable), jnp.maximum(chosen, 1), 1)
