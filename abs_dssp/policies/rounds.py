"""Rounds that end at k accepted pushes: what K-sync, K-async, AdaSync and ABS share.

Within a round a pusher either waits for the commit, or is released at once (the
"batch" rules: the k pushes of a round may then come from the same worker).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from abs_dssp.policies import base

GROWTH = 1.015  # by which rounds that begin small grow per commit, by default


def is_fresh(clocks: base.Clocks, worker) -> Bool[Array, ""]:
    """Whether the push was computed from the current version (staleness 0)."""
    return clocks.pulled[worker] == clocks.version


def on_push(
    clocks: base.Clocks, worker, k: Int[Array, ""], accepted: Bool[Array, ""], batch
) -> tuple[Bool[Array, ""], Bool[Array, " N"]]:
    """Commits at `k` accepted pushes, or when nobody else could deliver one.

    Args:
      clocks: clocks, already updated for this push.
      worker: the pusher.
      k: accepted pushes that end the round; may exceed what the living can deliver.
      accepted: whether this push counts; a discarded pusher is released at once.
      batch: whether an accepted pusher is released at once too (Python bool).

    Returns:
      `(commit, release)`.
    """
    pusher = base.only(worker, clocks.clock.shape[0])
    pending = clocks.pending + accepted.astype(jnp.int32)
    commit = (pending >= k) & (pending > 0)
    if batch:
        return commit, pusher & clocks.alive
    arrived = clocks.waiting | pusher
    nobody_else = accepted & ~jnp.any(clocks.alive & ~arrived)
    commit = commit | nobody_else
    release = jnp.where(commit, arrived, pusher & ~accepted)
    return commit, release & clocks.alive


def others(clocks: base.Clocks, worker) -> Bool[Array, " N"]:
    """Living workers that still compute while `worker` has just pushed."""
    pusher = base.only(worker, clocks.clock.shape[0])
    return clocks.alive & ~clocks.waiting & ~pusher


def decide(
    clocks: base.Clocks, worker, k: Int[Array, ""], *, fresh: bool, batch: bool
) -> base.Decision:
    """The four rules of Dutta et al., at a push.

    Args:
      clocks: clocks, already updated for this push.
      worker: the pusher.
      k: pushes per round.
      fresh: accept staleness 0 only, and restart the others at the commit ("sync").
      batch: release every pusher at once.
    """
    accepted = is_fresh(clocks, worker) if fresh else jnp.bool_(True)
    commit, release = on_push(clocks, worker, k, accepted, batch)
    restart = others(clocks, worker) & (commit if fresh else False)
    return base.Decision(accepted.astype(jnp.float32), commit, release, restart)


def decide_leave(clocks: base.Clocks, *, batch: bool) -> base.Decision:
    """The same rules when a worker leaves; if all left wait, the round ends."""
    if batch:  # nobody waits
        return base.no_push(False, jnp.zeros_like(clocks.alive))
    stuck = ~jnp.any(clocks.alive & ~clocks.waiting)
    commit = stuck & (clocks.pending > 0)
    return base.no_push(commit, clocks.waiting & clocks.alive & commit)


def nobody_waits(state, clocks, worker, now) -> tuple[base.State, base.Decision]:
    """`on_leave` of rules under which every pusher goes on at once."""
    del worker, now
    return state, base.no_push(False, jnp.zeros_like(clocks.alive))


def loss_ratio(
    first_loss: Float[Array, ""], clocks: base.Clocks
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """F(w_0) / F(w_t), by which ABS and AdaSync make their rounds grow.

    Args:
      first_loss: F(w_0), float32; NaN until an estimate arrives.
      clocks: the clocks, with the present estimate F(w_t).

    Returns:
      `(F(w_0), ratio)`, where F(w_0) is the present estimate if it was NaN. The ratio
      is inf if the loss has fallen to 0 or below, and NaN, which should change nothing,
      without a finite estimate or if F(w_0) is not above 0.
    """
    loss = jnp.asarray(clocks.loss, jnp.float32)
    first = jnp.where(jnp.isfinite(first_loss), first_loss, loss)
    ratio = jnp.where(loss > 0, first / jnp.where(loss > 0, loss, 1), jnp.inf)
    known = jnp.isfinite(loss) & (first > 0)
    return first, jnp.where(known, ratio, jnp.nan)


def properties(k: base.Whole, *, fresh: bool, batch: bool) -> base.Properties:
    """What the four rules guarantee with a fixed `k`."""
    stalest = 0 if fresh else None
    return base.Properties(
        max_staleness=stalest,
        max_computing=stalest,
        min_commit=k,
        max_commit=k,
        waits=not batch,
        restarts=fresh,
        reads_loss=False,
    )


def policy(k: base.Whole, *, fresh: bool, batch: bool) -> base.Policy:
    """The four rules with a fixed `k`, without state."""

    def push(state, clocks, worker, now):
        del now
        return state, decide(clocks, worker, jnp.int32(k), fresh=fresh, batch=batch)

    def leave(state, clocks, worker, now):
        del worker, now
        return state, decide_leave(clocks, batch=batch)

    return base.Policy(tuple, push, leave, properties(k, fresh=fresh, batch=batch))


def check(name: str, num_workers: int, argument: str, k, most: int | None) -> None:
    """Refuses a round size that no set of workers can deliver.

    Example:
      >>> check("k_sync", num_workers=4, argument="k", k=5, most=4)
      Traceback (most recent call last):
      ValueError: k_sync: k must be at most the number of workers 4, got 5.
    """
    base.require(
        base.whole(k), f"{name}: {argument} must be a whole number, got {k!r}."
    )
    base.require(k >= 1, f"{name}: {argument} must be at least 1, got {k}.")
    if most is not None:
        rule = f"must be at most the number of workers {num_workers}"
        base.require(k <= most, f"{name}: {argument} {rule}, got {k}.")
