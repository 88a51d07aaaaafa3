"""AdaSync: wait for more workers as the loss falls; SA-AdaSync: and trust age less.

Dutta, Wang, Joshi, "Slow and Stale Gradients Can Win the Race", IEEE JSAIT 2021
(arXiv 2003.10579): K_t = K_0 sqrt(F(w_0) / F(w_t)). How the loss is estimated and how
often K changes is not in the text available to us: here the server's estimate is
read every `interval` seconds. Staleness-aware weights are those of Zhang, Gupta,
Lian, Liu, "Staleness-Aware Async-SGD", IJCAI 2016.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.policies import base, rounds, weighting

_BASES = {  # name: (fresh, batch)
    "k_sync": (True, False),
    "k_batch_sync": (True, True),
    "k_async": (False, False),
    "k_batch_async": (False, True),
}


class AdaSyncState(NamedTuple):
    """The present round size and what it was computed from."""

    k: Int[Array, ""]  # pushes per commit
    first_loss: Float[Array, ""]  # F(w_0); NaN until an estimate arrives
    updated: Float[Array, ""]  # seconds; when `k` was last computed


@base.constructor
def adasync(
    num_workers: int, k0: int = 1, base: str = "k_async", interval: float = 60.0
) -> base.Policy:
    """One of the K-rules, with a K that grows as the loss falls.

        K = max(k0, min(N, ceil(k0 sqrt(F(w_0) / F(w_t)))))

    F(w_0) is the first finite loss estimate. K is computed again at the first push
    that comes `interval` seconds or more after the last computation. It stays as it is
    while there is no finite estimate or F(w_0) is not above 0, and is N once the
    estimate has fallen to 0 or below.

    Args:
      num_workers: number of workers N, alive or not.
      k0: pushes per commit at the start, 1..N.
      base: `"k_sync"`, `"k_batch_sync"`, `"k_async"` or `"k_batch_async"`.
      interval: seconds between two computations of K; at least 0.

    Returns:
      A `Policy` with an `AdaSyncState`. It reads the loss estimate.

    Raises:
      ValueError: for `k0` outside 1..N, an unknown base or a negative interval.

    Example:
      >>> policies.adasync(4, k0=2).properties.reads_loss
      True
    """
    return _adasync("adasync", num_workers, k0, base, interval)


@base.constructor
def sa_adasync(
    num_workers: int, k0: int = 1, base: str = "k_async", interval: float = 60.0
) -> base.Policy:
    """`adasync` with each push weighted by 1 / max(1, staleness).

        weight = 1 / max(1, staleness)

    Args:
      num_workers: number of workers N, alive or not.
      k0: pushes per commit at the start, 1..N.
      base: `"k_sync"`, `"k_batch_sync"`, `"k_async"` or `"k_batch_async"`.
      interval: seconds between two computations of K; at least 0.

    Returns:
      A `Policy` with an `AdaSyncState`. It reads the loss estimate.

    Raises:
      ValueError: as for `adasync`.

    Example:
      >>> policies.sa_adasync(4, base="k_sync").properties.max_staleness
      0
    """
    policy = _adasync("sa_adasync", num_workers, k0, base, interval)
    # Over the number of pushes: the sum of their weights would cancel a single one's.
    return weighting.weigh(policy, weighting.inverse(), "count")


def _adasync(name, num_workers, k0, kind, interval):
    rounds.check(name, num_workers, "k0", k0, most=num_workers)
    if kind not in _BASES:
        known = ", ".join(sorted(_BASES))
        raise ValueError(f"{name}: unknown base {kind!r}; known: {known}.")
    base.require(
        interval >= 0, f"{name}: interval must be at least 0 seconds, got {interval}."
    )
    fresh, batch = _BASES[kind]

    def init():
        return AdaSyncState(jnp.int32(k0), jnp.float32(jnp.nan), jnp.zeros((), float))

    def update(state, clocks, now):
        now = jnp.asarray(now, state.updated.dtype)
        first, ratio = rounds.loss_ratio(state.first_loss, clocks)
        due = (now - state.updated >= interval) & ~jnp.isnan(ratio)
        target = jnp.ceil(k0 * jnp.sqrt(ratio))
        target = jnp.clip(target, k0, num_workers).astype(jnp.int32)
        return AdaSyncState(
            jnp.where(due, target, state.k), first, jnp.where(due, now, state.updated)
        )

    def on_push(state, clocks, worker, now):
        state = update(state, clocks, now)
        return state, rounds.decide(clocks, worker, state.k, fresh=fresh, batch=batch)

    def on_leave(state, clocks, worker, now):
        del worker, now
        return state, rounds.decide_leave(clocks, batch=batch)

    properties = rounds.properties(k0, fresh=fresh, batch=batch)._replace(
        max_commit=num_workers, reads_loss=True
    )
    return base.Policy(init, on_push, on_leave, properties)
