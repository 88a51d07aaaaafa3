"""Adaptive bounded staleness (ABS): wait for K^t workers, restart the too stale.

Tan, Zhu, Zhang, "ABS: Adaptive Bounded Staleness Converges Faster and Communicates
Less", arXiv 2301.08895. The closed forms of K^t and tau_max^t are not in the text
available to us; both are schedules here, with defaults of our own, and can be
replaced.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.policies import base, rounds

Growth = Callable[[Int[Array, ""], Float[Array, ""]], Array]  # (t, F_0/F_t) -> K^t
Bound = Callable[[Int[Array, ""], Int[Array, ""]], Array]  # (t, K^t) -> tau_max^t


class AbsState(NamedTuple):
    """The schedules' values in the present round."""

    k: Int[Array, ""]  # K^t, pushes that end the round
    tau_max: Int[Array, ""]  # tau_max^t, in versions
    first_loss: Float[Array, ""]  # F(w_0); NaN until an estimate arrives


def rounds_growth(k0: int, a: float | None) -> Growth:
    """K^t = k0 + floor(t / a): one worker more every `a` rounds. Our default.

    Example:
      >>> policies.rounds_growth(k0=1, a=10)(25, None)
      3
    """

    def growth(version, loss_ratio):
        del loss_ratio
        if a is None:
            return jnp.int32(k0)
        if isinstance(a, int):
            return k0 + version // a
        return k0 + jnp.floor(version.astype(float) / a)

    return growth


def loss_growth(k0: int, a: float | None) -> Growth:
    """K^t = ceil(k0 (F(w_0) / F(w_t))^a): AdaSync's growth at a = 1/2.

    Example:
      >>> int(policies.loss_growth(k0=1, a=0.5)(0, 4.0))
      2
    """

    def growth(version, loss_ratio):
        del version
        power = 0.0 if a is None else a
        target = jnp.ceil(k0 * loss_ratio**power)
        return jnp.where(jnp.isnan(target), jnp.float32(k0), target)

    return growth


_GROWTHS = {"rounds": rounds_growth, "loss": loss_growth}


@partial(base.constructor, name="abs")
def adaptive_bounded_staleness(
    num_workers: int,
    k0: int = 1,
    a: float | None = None,
    tau_max: float | Bound | None = None,
    growth: str | Growth = "rounds",
) -> base.Policy:
    """K-async with growing K^t; computations staler than tau_max^t are restarted.

        commit  iff  pending = K^t;  restart i  iff  t + 1 - pulled_i > tau_max^{t+1}

    Round t (the version) ends at K^t accepted pushes. Right after the commit that
    makes version t + 1, every worker still computing from a version more than
    tau_max^{t+1} old starts again, so no accepted push is staler than tau_max. K^t
    never falls and stays in k0..N, tau_max^t never rises, whatever the schedules say.
    Should a staler push arrive all the same (its restart crossed it on the way), it is
    discarded and its worker released.

    Args:
      num_workers: number of workers N, alive or not.
      k0: K^0, pushes that end the first round; 1..N.
      a: the growth's parameter; `None` keeps K^t = k0.
      tau_max: `None` for ceil(N / K^t), a number for a constant, or a function
        `(t, K^t) -> tau_max^t` on int32 scalars.
      growth: `"rounds"` (`rounds_growth`), `"loss"` (`loss_growth`), or a function
        `(t, F(w_0)/F(w_t)) -> K^t`; the ratio is NaN while there is no estimate.

    Returns:
      A `Policy` with an `AbsState`. In text its name is `abs`.

    Raises:
      ValueError: for `k0` outside 1..N, `a` not above 0, a negative `tau_max` or an
        unknown growth.

    Example:
      >>> policy = policies.adaptive_bounded_staleness(4, k0=2, a=50)
      >>> policies.describe(policy), policy.properties.max_staleness
      ('abs(k0=2,a=50)', 2)
    """
    rounds.check("abs", num_workers, "k0", k0, most=num_workers)
    base.require(a is None or a > 0, f"abs: a must be above 0 or None, got {a}.")
    if tau_max is not None and not callable(tau_max):
        base.require(
            tau_max >= 0, f"abs: tau_max must be at least 0 or None, got {tau_max}."
        )
    if not callable(growth) and growth not in _GROWTHS:
        known = ", ".join(sorted(_GROWTHS))
        raise ValueError(f"abs: unknown growth {growth!r}; known: {known}.")
    grow = growth if callable(growth) else _GROWTHS[growth](k0, a)
    if callable(tau_max):
        limit, stalest = tau_max, None
    else:
        bound = _bound(num_workers, tau_max)
        limit, stalest = bound, bound(0, k0)

    def schedules(version, ratio, state):
        grown = jnp.clip(jnp.asarray(grow(version, ratio)), k0, num_workers)
        k = jnp.maximum(grown.astype(jnp.int32), state.k)
        bound = jnp.clip(jnp.asarray(limit(version, k)), 0, _UNBOUNDED)
        tau_max = jnp.minimum(bound.astype(jnp.int32), state.tau_max)
        return state._replace(k=k, tau_max=tau_max)

    # A rule that never looks at the loss can be scheduled ahead of the training.
    looks = growth != "rounds"

    def loss_ratio(state, clocks):
        if looks:
            return rounds.loss_ratio(state.first_loss, clocks)
        return state.first_loss, state.first_loss

    def where(commit, following, state):
        return jax.tree.map(partial(jnp.where, commit), following, state)

    def init():
        unknown = jnp.float32(jnp.nan)
        state = AbsState(jnp.int32(k0), jnp.int32(_UNBOUNDED), unknown)
        return schedules(jnp.int32(0), unknown, state)

    def on_push(state, clocks, worker, now):
        del now
        first, ratio = loss_ratio(state, clocks)
        state = state._replace(first_loss=first)
        accepted = clocks.version - clocks.pulled[worker] <= state.tau_max
        commit, release = rounds.on_push(clocks, worker, state.k, accepted, False)
        version = clocks.version + 1
        following = schedules(version, ratio, state)
        stale = version - clocks.pulled > following.tau_max
        restart = rounds.others(clocks, worker) & stale & commit
        decision = base.Decision(accepted.astype(jnp.float32), commit, release, restart)
        return where(commit, following, state), decision

    def on_leave(state, clocks, worker, now):
        # Commits only when nobody computes, so nobody is there to be restarted.
        del worker, now
        decision = rounds.decide_leave(clocks, batch=False)
        ratio = loss_ratio(state, clocks)[1]
        following = schedules(clocks.version + 1, ratio, state)
        return where(decision.commit, following, state), decision

    properties = base.Properties(
        max_staleness=stalest,  # that of round 0, since tau_max^t never rises
        max_computing=stalest,
        min_commit=k0,
        max_commit=num_workers,
        reads_loss=looks,
        never_falls=("k",),
        never_rises=("tau_max",),
        commit_field="k",
    )
    return base.Policy(init, on_push, on_leave, properties)


_UNBOUNDED = 2**30  # versions; clip first, since float -> int32 conversion may wrap


def _bound(num_workers: int, tau_max: float | None) -> Callable[..., Any]:
    """tau_max^t as a function of (t, K^t), which may be arrays or Python numbers."""

    if tau_max is None:
        return lambda version, k: -(-num_workers // k)  # ceil(N / K^t)
    limit = min(math.floor(tau_max), _UNBOUNDED)
    return lambda version, k: limit
