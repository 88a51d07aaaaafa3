"""The rule the package is named for: ABS's rounds, sized by DSSP's measurements.

ABS (arXiv 2301.08895) waits for K^t pushes and restarts workers staler than tau_max^t;
DSSP (arXiv 1908.11848) predicts from the latest intervals between a worker's pushes
what each may do next. Here the predicted intervals choose K^t and tau_max^t so that the
time to a target, by Theorem A (`theory.theorem_a`), is least. Derived in
docs/abs_dssp.md.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp.policies import base, rounds

_BATCHES = np.arange(1, 33) / 16  # candidates for K, in units of `noise`
_STALE = (1, 2, 4)  # candidates for tau_max, beside 0
_NEAR = 0.0517  # how much worse a plan with fewer commits may be; ratios of small
# whole numbers, which costs of regular times are, never are this close to it
_FAR = 3.0  # |log| of a prediction that is as wrong as can be
_STEADY = 0.9  # share of the old mean when a round has shown how late it was
_FORGET = 0.99  # share of what is known of a size that stays when no round has it
_MOMENT = 1e-9  # seconds, in place of none
_LATE = 1.1  # by how much a cancelled computation is taken to be longer than it was


class Plan(NamedTuple):
    """What the controller chose."""

    k: Int[Array, ""]  # K^t, pushes that end the round
    sizes: Int[Array, " J"]  # of the fresh rounds that were weighed up
    tau_max: Int[Array, ""]  # in versions
    step: Float[Array, ""]  # Theorem A's, in units of 1 / L


class Round(NamedTuple):
    """The present round, and what is known of fresh rounds of J sizes."""

    begun: Float[Array, ""]  # seconds
    predicted: Float[Array, " J"]  # seconds that rounds should take, by the intervals
    arrived: Float[Array, " J"]  # seconds until so many pushes were there; 0 before
    late: Float[Array, " J"]  # log of what rounds took over what was predicted, a mean


class AbsDsspState(NamedTuple):
    """The present plan and what it is made of."""

    plan: Plan
    round: Round
    started: Float[Array, " N"]  # seconds; start of the present computation
    interval: Float[Array, " N"]  # seconds per push, 0 where unknown


@base.constructor
def abs_dssp(
    num_workers: int,
    noise: float | None = None,
    growth: float = rounds.GROWTH,
    memory: float = 0.7,
) -> base.Policy:
    """Rounds of K^t pushes at most tau_max^t stale, both planned from measured times.

        (K, tau_max) = argmin  seconds of a round / step of Theorem A

    Every pusher goes on at once. A round ends at K^t accepted pushes; a push staler
    than tau_max^t is discarded, and at a commit those who would exceed it start again.
    After each commit the controller predicts for a few (K, tau_max) how long a round
    takes, corrected by how late rounds of this size were of late, and which step
    Theorem A allows, and takes the pair with the least seconds per unit of progress. A
    large K beats down noise, a small one commits often; allowing staleness wastes no
    work and costs step size.

    A push weighs step / K, with the step that the plan counts on in units of 1 / L.
    With `aggregate="sum"` a commit then makes that step, if the server's learning rate
    is 1 / L; with `aggregate="mean"` the weights cancel and the rate is the user's.

    Args:
      num_workers: number of workers N, alive or not.
      noise: R = sigma^2 / eps, how many gradients' mean is as noisy as the target;
        N / 2 by default, for which a lockstep round of all N is just large enough.
      growth: R^t starts at N / 2 at most and grows by this factor per commit up to R:
        far from the optimum noise hurts less than late. At least 1.
      memory: share of the old estimate when a new interval is measured; 0..1.

    Returns:
      A `Policy` with an `AbsDsspState`.

    Raises:
      ValueError: for a `noise` not above 0, a `growth` below 1 or a `memory` outside
        0..1.

    Example:
      >>> policies.abs_dssp(4, noise=8.0).properties.max_commit
      16
    """
    ratio = num_workers / 2 if noise is None else noise
    base.require(ratio > 0, f"abs_dssp: noise must be above 0, got {noise}.")
    base.require(
        0 <= memory < 1, f"abs_dssp: memory must be at least 0 and below 1: {memory}."
    )
    base.require(growth >= 1, f"abs_dssp: growth must be at least 1, got {growth}.")
    first = min(ratio, num_workers / 2) if growth > 1 else ratio
    start_k = max(1, math.ceil(2 * first))

    def init():
        time = jnp.zeros(num_workers, float)
        # Nobody has been measured: fresh rounds, large enough for the longest step.
        each = jnp.zeros(len(_BATCHES), float)
        begun, step = jnp.zeros((), float), jnp.ones((), float)
        sizes = each.astype(jnp.int32)
        plan = Plan(jnp.int32(start_k), sizes, jnp.int32(0), step)
        return AbsDsspState(plan, Round(begun, each, each, each), time, time)

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

        accepted = clocks.version - clocks.pulled[worker] <= state.plan.tau_max
        commit, release = rounds.on_push(
            clocks, worker, state.plan.k, accepted, batch=True
        )
        pending = clocks.pending + accepted.astype(jnp.int32)
        present = received(state.round, state.plan, pending, now)
        grown = first * growth ** (clocks.version + 1).astype(dtype)
        noise = jnp.minimum(ratio, grown).astype(dtype)

        def next_round():
            late = lateness(present, state.plan)
            plan, predicted = controller(interval, clocks.alive, noise, late)
            nothing = jnp.zeros_like(late)
            return plan, Round(now, predicted, nothing, late)

        plan, present = jax.lax.cond(commit, next_round, lambda: (state.plan, present))
        stale = clocks.version + 1 - clocks.pulled > plan.tau_max
        restart = rounds.others(clocks, worker) & stale & commit
        # One that is cancelled would have taken longer than this.
        least = jnp.where(restart, _LATE * (now - state.started), 0)
        interval = jnp.maximum(interval, least)
        started = jnp.where(release | restart, now, state.started)
        weight = jnp.where(accepted, state.plan.step / state.plan.k.astype(dtype), 0)
        return AbsDsspState(plan, present, started, interval), base.Decision(
            weight.astype(jnp.float32), commit, release, restart
        )

    stalest = max(_STALE)
    properties = base.Properties(
        max_staleness=stalest,
        max_computing=stalest,
        min_commit=max(1, math.ceil(min(_BATCHES) * first)),
        max_commit=max(1, math.ceil(max(_BATCHES) * ratio)),
        waits=False,
        reads_loss=False,
        aggregate="sum",
    )
    return base.Policy(init, on_push, rounds.nobody_waits, properties)


def received(
    present: Round, plan: Plan, pending: Int[Array, ""], now: Float[Array, ""]
) -> Round:
    """The round with `pending` pushes: notes when it was as large as smaller ones."""
    there = (pending >= plan.sizes) & (present.arrived == 0)
    seconds = jnp.maximum(now - present.begun, _MOMENT)
    return present._replace(arrived=jnp.where(there, seconds, present.arrived))


def lateness(present: Round, plan: Plan) -> Float[Array, " J"]:
    """`Round.late` after a round, which has shown what all smaller ones would take."""
    predicted, arrived = present.predicted, present.arrived
    shown = (plan.tau_max == 0) & (arrived > 0)
    shown = shown & (predicted > 0) & jnp.isfinite(predicted)
    ratio = jnp.where(shown, arrived, 1) / jnp.where(shown, predicted, 1)
    off = jnp.clip(jnp.log(ratio), -_FAR, _FAR)
    mixed = _STEADY * present.late + (1 - _STEADY) * off
    return jnp.where(shown, mixed, _FORGET * present.late)


def controller(
    interval: Float[Array, " N"],
    alive: Bool[Array, " N"],
    noise: Float[Array, ""],
    late: Float[Array, " J"],
) -> tuple[Plan, Float[Array, " J"]]:
    """The (K, tau_max) with the least predicted time to the target.

    Args:
      interval: seconds per push; 0 where unknown, which counts as never.
      alive: members.
      noise: R^t = sigma^2 / eps.
      late: see `Round`.

    Returns:
      A `Plan` and the predicted seconds of fresh rounds, not corrected by `late`. The
      plan is, of those within about 5 % of the best the largest K, then the least
      stale.
    """
    tau, place = (grid.ravel() for grid in np.meshgrid(_STALE, _BATCHES, indexing="ij"))
    known = alive & (interval > 0)
    h = jnp.where(known, interval, jnp.inf)
    dtype = h.dtype

    def sizes(units):
        return jnp.maximum(1, jnp.ceil(jnp.asarray(units, dtype) * noise))

    batches, many = sizes(_BATCHES), sizes(place)
    tau_max = jnp.asarray(tau, dtype)
    seconds, mean = _stale_round(h, many, tau_max)
    steps = jnp.concatenate(
        [_step(noise / batches, 0, 0), _step(noise / many, tau_max, mean)]
    )
    fresh = _fresh_round(h, batches)
    seconds = jnp.concatenate([fresh * jnp.exp(late.astype(dtype)), seconds])
    costs = seconds / steps
    # Of those that are nearly as good, the one with the fewest commits, then the least
    # stale; the first of all if nobody has been measured yet.
    near = costs <= jnp.min(costs) * (1 + _NEAR)
    units = np.append(_BATCHES, place)
    stale = np.append(np.zeros_like(_BATCHES), tau)
    order = np.lexsort((stale, -units))
    best = jnp.asarray(order)[jnp.argmax(near[order])]
    plan = Plan(
        jnp.concatenate([batches, many])[best].astype(jnp.int32),
        batches.astype(jnp.int32),
        jnp.asarray(stale.astype(np.int32))[best],
        steps[best],
    )
    return plan, fresh


def _fresh_round(h, k):
    """Seconds until k pushes are there if everybody starts afresh, (K,).

    The least x with sum_i floor(x / h_i) >= k, by halving.
    """
    rate = jnp.sum(1 / h)
    count = jnp.sum(jnp.isfinite(h)).astype(h.dtype)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        done = jnp.sum(jnp.floor(middle[:, None] / h[None, :]), axis=1)
        return jnp.where(done >= k, low, middle), jnp.where(done >= k, middle, high)

    # sum floor(x / h_i) is at most sum x / h_i and more than that less their number.
    bounds = (k / rate * 0.999, (k + count) / rate)
    return jax.lax.fori_loop(0, 30, halve, bounds)[1]


def _stale_round(h, k, tau):
    """Seconds of a round without lost work, and mean staleness of its pushes, (K,).

    k / sum 1 / h_i over the workers that can deliver within tau + 1 rounds; during a
    computation of h_i seconds h_i / round commits are made.
    """

    def able(seconds):
        return h[None, :] <= ((tau + 1) * seconds)[:, None]

    def rate(seconds):
        return jnp.sum(jnp.where(able(seconds), 1 / h[None, :], 0), axis=1)

    def settle(_, seconds):
        return jnp.maximum(k / rate(seconds), seconds)

    seconds = jax.lax.fori_loop(0, 4, settle, k / jnp.sum(1 / h))
    late = jnp.minimum(h[None, :] / seconds[:, None], tau[:, None])
    share = jnp.where(able(seconds), 1 / h[None, :], 0) / rate(seconds)[:, None]
    mean = jnp.sum(jnp.where(share > 0, share * late, 0), axis=1)
    return jnp.where(jnp.isfinite(seconds), seconds, jnp.inf), mean


def _step(ratio, tau, mean):
    """Theorem A's step in units of 1 / L, for a mean staleness `mean` and V / K / eps
    = `ratio`: the noise terms take half of the target (`theory.target_step`)."""
    linear, square = ratio, 2 * ratio * mean
    noisy = 1 / (linear + jnp.sqrt(linear**2 + 2 * square))
    width = tau * mean
    safe = jnp.where(width > 0, width, 1)
    stable = jnp.where(width > 0, (jnp.sqrt(1 + 8 * safe) - 1) / (4 * safe), 1)
    return jnp.minimum(noisy, stable)
