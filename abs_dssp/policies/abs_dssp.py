"""The rule the package is named for: ABS's rounds, sized by DSSP's measurements.

ABS (arXiv 2301.08895) waits for K^t pushes and restarts workers staler than tau_max^t;
DSSP (arXiv 1908.11848) predicts from the latest intervals between a worker's pushes
what each may do next. Here the predicted intervals choose K^t and tau_max^t so that the
time to a target, by Theorem A of theory.md, is least. Derived in docs/abs_dssp.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp.policies import base, rounds

_BATCHES = 2.0 ** np.arange(-2, 2)  # candidates for K, in units of `noise`
_STALE = (0, 1, 2, 4)  # candidates for tau_max
_TIE = 1e-5
_TINY = 1e-30  # in the place of 0 where something is divided by it


class AbsDsspState(NamedTuple):
    """The present plan and what it is made of."""

    k: Int[Array, ""]  # K^t, pushes that end the round
    tau_max: Int[Array, ""]  # in versions
    started: Float[Array, " N"]  # seconds; start of the present computation
    interval: Float[Array, " N"]  # seconds per push; 0 where none was seen


class Plan(NamedTuple):
    """What the controller chose."""

    k: Int[Array, ""]
    tau_max: Int[Array, ""]


@base.constructor
def abs_dssp(
    num_workers: int, *, noise: float | None = None, memory: float = 0.7
) -> base.Policy:
    """Rounds of K^t pushes at most tau_max^t stale, both planned from measured times.

    Every pusher goes on at once. A round ends at K^t accepted pushes; a push staler
    than tau_max^t is discarded, and at a commit those who would exceed it start again.
    After each commit the controller predicts for a few (K, tau_max) how long a round
    takes and which step Theorem A allows, and takes the pair with the least seconds per
    unit of progress. A large K beats down noise, a small one commits often; allowing
    staleness wastes no work and costs step size.

    Args:
      num_workers: number of workers N, alive or not.
      noise: R = sigma^2 / eps, how many gradients' mean is as noisy as the target;
        N / 2 by default, for which a lockstep round of all N is just large enough.
      memory: share of the old estimate when a new interval is measured; 0..1.

    Returns:
      A `Policy` with an `AbsDsspState`.

    Raises:
      ValueError: for a `noise` not above 0 or a `memory` outside 0..1.
    """
    ratio = num_workers / 2 if noise is None else noise
    base.require(ratio > 0, f"abs_dssp: noise must be above 0, got {noise}.")
    base.require(
        0 <= memory < 1, f"abs_dssp: memory must be at least 0 and below 1: {memory}."
    )
    start_k = int(max(1, np.ceil(2 * ratio)))

    def init():
        time = jnp.zeros(num_workers, float)
        return AbsDsspState(jnp.int32(start_k), jnp.int32(0), time, time)

    def on_push(state, clocks, worker, now):
        dtype = state.started.dtype
        pusher = base.only(worker, num_workers)
        now = jnp.asarray(now).astype(dtype)
        # Someone who joined began when it joined.
        begun = jnp.maximum(state.started, clocks.previous.astype(dtype))
        took = now - begun
        old = state.interval
        mixed = jnp.where(old > 0, memory * old + (1 - memory) * took, took)
        interval = jnp.where(pusher, mixed, old)

        accepted = clocks.version - clocks.pulled[worker] <= state.tau_max
        commit, release = rounds.on_push(clocks, worker, state.k, accepted, batch=True)
        plan = jax.lax.cond(
            commit,
            lambda: controller(interval, clocks.alive, ratio),
            lambda: Plan(state.k, state.tau_max),
        )
        stale = clocks.version + 1 - clocks.pulled > plan.tau_max
        restart = rounds.others(clocks, worker) & stale & commit
        started = jnp.where(release | restart, now, state.started)
        return AbsDsspState(plan.k, plan.tau_max, started, interval), base.Decision(
            accepted.astype(jnp.float32), commit, release, restart
        )

    return base.Policy(init, on_push, rounds.nobody_waits)


def controller(
    interval: Float[Array, " N"], alive: Bool[Array, " N"], noise: float
) -> Plan:
    """The (K, tau_max) with the least predicted time to the target.

    Args:
      interval: seconds per push; 0 where unknown, which counts as never.
      alive: members.
      noise: R = sigma^2 / eps.

    Returns:
      A `Plan`; of equally good ones the first, so the least stale and smallest.
    """
    sizes = np.unique(np.maximum(1, np.ceil(_BATCHES * noise)).astype(np.int32))
    k, tau = (grid.ravel() for grid in np.meshgrid(sizes, _STALE))
    usable = alive & (interval > 0)

    def cost(k, tau):
        seconds, mean = _round(interval, usable, k, tau)
        return seconds / _step(noise / k, tau, mean)

    costs = jax.vmap(cost)(
        jnp.asarray(k, interval.dtype), jnp.asarray(tau, interval.dtype)
    )
    order = np.lexsort((k, tau))
    # The first of those that are equal but for rounding.
    near = costs[order] <= jnp.min(costs) * (1 + _TIE)
    best = jnp.asarray(order)[jnp.argmax(near)]
    return Plan(jnp.asarray(k)[best], jnp.asarray(tau, jnp.int32)[best])


def _round(interval, usable, k, tau):
    """Predicted seconds of a round and mean staleness of its pushes.

    tau = 0: everybody starts afresh, so the least x with sum floor(x / h_i) >= k. Else
    nobody loses work but those who would be too stale: k / sum 1 / h_i over the workers
    with h_i <= (tau + 1) rounds, whose pushes see h_i / round commits on the way.
    """
    h = jnp.where(usable, interval, jnp.inf)
    rates = jnp.where(usable, 1 / jnp.where(usable, interval, 1), 0)
    least = k / jnp.sum(rates)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.sum(jnp.floor(middle / h)) >= k
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    count = jnp.sum(usable).astype(h.dtype)
    top = (k + count) / jnp.sum(rates)  # sum floor(x / h) > sum x / h - n
    _, fresh = jax.lax.fori_loop(0, 30, halve, (least * 0.999, top))

    def settle(_, length):
        able = h <= (tau + 1) * length
        return jnp.maximum(
            k / jnp.maximum(jnp.sum(jnp.where(able, rates, 0)), _TINY), length
        )

    stale = jax.lax.fori_loop(0, 4, settle, least)
    able = (h <= (tau + 1) * stale) & usable
    # A computation is under way at a commit with probability min(1, h / round).
    share = jnp.where(able, rates, 0) / jnp.maximum(
        jnp.sum(jnp.where(able, rates, 0)), _TINY
    )
    mean = jnp.sum(share * jnp.where(able, jnp.minimum(h / stale, tau), 0))
    some = jnp.any(able)
    never = jnp.where(some, stale, jnp.inf)
    return jnp.where(tau == 0, fresh, never), jnp.where(tau == 0, 0, mean)


def _step(ratio, tau, mean):
    """Theorem A's step in units of 1 / L, for a mean staleness `mean` and V / K / eps
    = `ratio`: the noise terms take half of the target (`theory.target_step`)."""
    linear, square = ratio, 2 * ratio * mean
    noisy = 1 / (linear + jnp.sqrt(linear**2 + 2 * square))
    width = tau * mean
    safe = jnp.where(width > 0, width, 1)
    stable = jnp.where(width > 0, (jnp.sqrt(1 + 8 * safe) - 1) / (4 * safe), 1)
    return jnp.minimum(noisy, stable)
