"""Dynamic stale synchronous parallel (DSSP): the threshold is chosen push by push.

Zhao, An, Liu, Chen, "Dynamic Stale Synchronous Parallel Distributed Training for
Deep Learning", ICDCS 2019 (arXiv 1908.11848), Algorithms 1 and 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from abs_dssp.policies import base


class DsspState(NamedTuple):
    """Extra iterations that each worker has been granted and not used."""

    allowance: Int[Array, " N"]  # r_i of the paper


@base.constructor
def dssp(
    num_workers: int, s_lower: int = 3, s_upper: int = 15, variant: str = "printed"
) -> base.Policy:
    """Commits every push alone; the fastest worker may be granted extra iterations.

        release i  iff  gap_i <= s_lower  or  i has a granted iteration left

    A worker at most `s_lower` clocks ahead of the slowest runs. Beyond that the
    fastest asks the controller, which predicts the coming pushes of both from their
    latest two and grants the number of extra iterations after which the fastest
    will have waited least. Others wait until the slowest is within `s_lower`.

    The paper's text and its pseudo-code differ, so there are two variants:
    `"printed"` is the pseudo-code to the letter. It stores the grant r* after having
    sent one OK already, so r* + 1 iterations follow, and it grants again when they
    are used up: the gap is *not* bounded by `s_upper`. `"bounded"` charges the OK that
    carries the grant and cuts the grant at `s_upper`, as Theorem 2 needs: no worker is
    ever released at a gap above `s_upper`.

    Args:
      num_workers: number of workers N, alive or not.
      s_lower: smallest threshold s_L, in clocks; at least 0.
      s_upper: largest threshold s_U = s_L + r_max, in clocks; at least `s_lower`.
      variant: `"printed"` or `"bounded"`.

    Returns:
      A `Policy` with a `DsspState`.

    Raises:
      ValueError: for thresholds out of order or an unknown variant.

    Example:
      >>> policies.dssp(4, variant="bounded").properties.max_gap
      15
    """
    for name, value in (("s_lower", s_lower), ("s_upper", s_upper)):
        base.require(
            base.whole(value), f"dssp: {name} must be a whole number, got {value!r}."
        )
    base.require(s_lower >= 0, f"dssp: s_lower must be at least 0, got {s_lower}.")
    base.require(
        s_upper >= s_lower,
        f"dssp: s_upper must be at least s_lower={s_lower}, got {s_upper}.",
    )
    grants = {"printed": _grant_printed, "bounded": _grant_bounded}
    if variant not in grants:
        known = ", ".join(sorted(grants))
        raise ValueError(f"dssp: unknown variant {variant!r}; known: {known}.")
    grant = grants[variant]

    def init():
        return DsspState(jnp.zeros(num_workers, jnp.int32))

    def on_push(state, clocks, worker, now):
        del now  # it is latest[worker]
        gaps = base.gap(clocks)
        allowance, runs = grant(state, clocks, worker, gaps[worker], s_lower, s_upper)
        pusher = base.only(worker, num_workers)
        freed = clocks.waiting & (gaps <= s_lower)
        release = ((pusher & runs) | freed) & clocks.alive
        state = DsspState(state.allowance.at[worker].set(allowance))
        return state, base.commit_alone(release)

    def on_leave(state, clocks, worker, now):
        del worker, now
        freed = clocks.waiting & clocks.alive & (base.gap(clocks) <= s_lower)
        return state, base.no_push(False, freed)

    properties = base.EVERY_PUSH
    if variant == "bounded":  # the bounds of SSP with s = s_upper
        each = 2 * s_upper + 1
        properties = properties._replace(
            max_staleness=each * (num_workers - 1),
            max_gap=s_upper,
            staleness_per_join=each,
        )
    return base.Policy(init, on_push, on_leave, properties)


def _grant_printed(state, clocks, worker, gap, s_lower, s_upper):
    """Algorithm 1 to the letter: `(r_p afterwards, whether p runs)`."""
    left = state.allowance[worker]
    near = gap <= s_lower
    asks = (left == 0) & ~near & _fastest(clocks, worker)
    granted = controller(clocks, worker, s_upper - s_lower)
    allowance = jnp.where(left > 0, left - 1, jnp.where(asks, granted, left))
    return allowance, (left > 0) | near | (asks & (granted > 0))


def _grant_bounded(state, clocks, worker, gap, s_lower, s_upper):
    """What Theorem 2 needs: `(r_p afterwards, whether p runs)`."""
    left = state.allowance[worker]
    near = gap <= s_lower
    within = gap <= s_upper
    uses = ~near & (left > 0) & within
    asks = ~near & ~uses & within & _fastest(clocks, worker)
    # Asked only at gap > s_lower, so the look-ahead is at most s_upper - s_lower.
    granted = controller(clocks, worker, s_upper - s_lower, limit=s_upper - gap + 1)
    runs = asks & (granted > 0)
    # r_p counts the grant being used now, so the OK sent with it costs one.
    allowance = jnp.where(uses, left - 1, jnp.where(runs, granted - 1, left))
    return jnp.where(near, jnp.zeros_like(left), allowance), near | uses | runs


def _fastest(clocks, worker):
    lead = jnp.max(clocks.clock, where=clocks.alive, initial=0)
    return clocks.clock[worker] >= lead


def controller(clocks: base.Clocks, worker, r_max: int, limit=None) -> Int[Array, ""]:
    """Algorithm 2: extra iterations r in 0..r_max that bring p closest to the slowest.

    Predicts p's pushes at `latest + r I` and the slowest living worker's at
    `latest + (k + 1) I`, I being each one's interval between its latest two pushes,
    and returns the r of the closest pair; of equally close ones the smallest r.

    Args:
      clocks: clocks, already updated for the push of `worker`.
      worker: p, the worker that asks; int32 scalar.
      r_max: length of the look-ahead; a Python number, it fixes the shapes.
      limit: r and k beyond this are left out (bounded variant); int32 scalar.

    Returns:
      r*, an int32 scalar.
    """
    unreachable = jnp.iinfo(clocks.clock.dtype).max
    slowest = jnp.argmin(jnp.where(clocks.alive, clocks.clock, unreachable))
    latest = jnp.asarray(clocks.latest)
    interval = latest - clocks.previous
    steps = jnp.arange(r_max + 1, dtype=jnp.int32)
    ahead = steps.astype(interval.dtype)
    mine = latest[worker] + _rounded(ahead * interval[worker], clocks.version)
    theirs = latest[slowest] + _rounded((ahead + 1) * interval[slowest], clocks.version)
    distance = jnp.abs(theirs[None, :] - mine[:, None])
    if limit is not None:
        inside = steps <= limit
        distance = jnp.where(inside[None, :] & inside[:, None], distance, jnp.inf)
    return jnp.argmin(jnp.min(distance, axis=1)).astype(jnp.int32)


def _rounded(product, version):
    """The product, rounded before it is used.

    Compilers fuse a multiplication into the addition that follows, which keeps digits
    that the written formula rounds away; ties between predictions would then break
    differently from one program to the next. No compiler can know that a version is
    never negative, so none can see that this exclusive or changes nothing.
    """
    integer = jnp.int64 if product.dtype == jnp.float64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(product, integer)
    return jax.lax.bitcast_convert_type(
        bits ^ jnp.minimum(version, 0).astype(integer), product.dtype
    )
