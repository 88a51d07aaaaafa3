"""Theorems A and B: the mean squared gradient of stale SGD on a smooth objective.

Setting of both: round t ends with K_t pushes, each the sum of U local steps of step
size gamma from a version at most tau_max rounds old, and
w <- w - (eta / K_t) * sum of the pushes. Assumptions: F is L-smooth and bounded below
(A1); gradients are unbiased with variance at most V = sigma^2 / B, the same on every
worker, fresh samples each time (A2); times do not depend on the samples (A3). Bounded
gradients and convexity are not needed. Proved for this project; only the order
O(1 / sqrt(T K U)) is a claim of ABS (arXiv 2301.08895).

Symbols, everywhere: `gap` = F(w^0) - F*, `smoothness` = L, `variance` = V,
`kappa_1` = mean of 1 / K_t over rounds, `k_min` = least K_t, `tau_bar` and `spread` as
below. All of them scalars or arrays that broadcast.
"""

import jax.numpy as jnp


def tau_bar(tau_max, num_workers, k_min, batch: bool = False):
    """Mean staleness that no schedule exceeds: min(tau_max, (N - K_min) / K_min).

    Lemma 1 (counting): at most N computations are in flight and K_s of them are
    applied in round s. For the "batch" rules, whose pushers start again within a round,
    N - 1 takes the place of N - K_min.

    Args:
      tau_max: largest staleness of an applied push, in rounds; inf if unbounded.
      num_workers: N.
      k_min: least number of pushes in a round.
      batch: whether pushers are released within the round.
    """
    others = num_workers - (1 if batch else k_min)
    return jnp.minimum(tau_max, others / k_min)


def spread(tau_max, tau_bar):
    """S = sqrt(tau_max tau_bar): what staleness costs the step-size condition."""
    # 0 * inf: nothing is ever stale.
    return jnp.sqrt(jnp.where(jnp.equal(tau_bar, 0), 0.0, tau_max * tau_bar))


def largest_step_a(smoothness, spread):
    """The largest eta of Theorem A: eta L + 2 eta^2 L^2 S^2 = 1."""
    s2 = spread**2
    root = (jnp.sqrt(1 + 8 * s2) - 1) / jnp.where(s2 > 0, 4 * s2, 1.0)
    return jnp.where(s2 > 0, root, 1.0) / smoothness


def largest_step_b(smoothness, spread, local_steps=1):
    """The largest eta of Theorem B: eta L U (1 + S) = 1/4."""
    return 0.25 / (smoothness * local_steps * (1 + spread))


def theorem_a(
    gap, smoothness, variance, step, rounds, *, kappa_1, tau_bar=0.0, k_min=1
):
    """Theorem A (U = 1): bound on the mean over rounds of E||grad F(w^t)||^2.

    2 gap / (eta T) + L eta V kappa_1 + 2 L^2 eta^2 V tau_bar / K_min, valid for
    eta up to `largest_step_a`.

    Args:
      gap: F(w^0) - F*.
      smoothness: L.
      variance: V of one push's gradient.
      step: eta.
      rounds: T, commits.
      kappa_1: mean of 1 / K_t.
      tau_bar: see `tau_bar`.
      k_min: least K_t.
    """
    start = 2 * gap / (step * rounds)
    noise = smoothness * step * variance * kappa_1
    stale = 2 * smoothness**2 * step**2 * variance * tau_bar / k_min
    return start + noise + stale


def theorem_b(
    gap, smoothness, variance, step, rounds, *, kappa_1, local_steps=1,
    local_step=None, tau_bar=0.0, k_min=1,
):  # fmt: skip
    """Theorem B (any U, gamma <= eta): the sharper of its two bounds.

    Valid for eta up to `largest_step_b`.

    Args:
      gap: F(w^0) - F*.
      smoothness: L.
      variance: V of one local step's gradient.
      step: eta, the server's step per gradient.
      rounds: T, commits.
      kappa_1: mean of 1 / K_t.
      local_steps: U.
      local_step: gamma; eta if None.
      tau_bar: see `tau_bar`.
      k_min: least K_t.
    """
    u = local_steps
    gamma = step if local_step is None else local_step
    q = 4 * gamma**2 * smoothness**2 * u * (u - 1)
    rho = q / (1 - q)
    start = 2 * gap / (step * u * rounds)
    noise = smoothness * step * (1 + 4 * step * u * smoothness) * variance * kappa_1
    stale = 4 * smoothness**2 * step**2 * u * tau_bar * variance / ((1 - q) * k_min)
    drift = 2 * gamma**2 * smoothness**2 * (u - 1) * variance / (1 - q)
    return (start + noise + stale + drift) / (1 - rho)


def theorem_b_simple(
    gap, smoothness, variance, step, rounds, *, kappa_1, local_steps=1,
    local_step=None, tau_bar=0.0, k_min=1,
):  # fmt: skip
    """Theorem B's second bound, with the constants 3, 3, 8 and 4; see `theorem_b`."""
    u = local_steps
    gamma = step if local_step is None else local_step
    start = 3 * gap / (step * u * rounds)
    noise = 3 * smoothness * step * variance * kappa_1
    stale = 8 * smoothness**2 * step**2 * u * tau_bar * variance / k_min
    drift = 4 * gamma**2 * smoothness**2 * (u - 1) * variance
    return start + noise + stale + drift


def corollary_step(c, k, rounds, local_steps=1):
    """The step of the corollary: eta = c sqrt(K / (T U))."""
    return c * jnp.sqrt(k / (rounds * local_steps))


def corollary_threshold(c, smoothness, k, *, local_steps=1, spread=0.0, tau_bar=0.0):
    """T_0, from which the corollary's rate holds.

    16 c^2 L^2 K U max{(1 + S)^2, 4 tau_bar^2, K^2 [U > 1]}.
    """
    local = jnp.where(jnp.asarray(local_steps) > 1, k**2, 0.0)
    most = jnp.maximum(jnp.maximum((1 + spread) ** 2, 4 * tau_bar**2), local)
    return 16 * c**2 * smoothness**2 * k * local_steps * most


def corollary(gap, smoothness, variance, rounds, k, c, *, local_steps=1):
    """The rate: (3 gap / c + 5 L c V) / sqrt(T K U), from `corollary_threshold` on."""
    scale = jnp.sqrt(rounds * k * local_steps)
    return (3 * gap / c + 5 * smoothness * c * variance) / scale


def delay_stability_limit(tau):
    """Largest eta L for which w <- w - eta L w^{t - tau} is stable.

    2 sin(pi / (2 (2 tau + 1))), sharp: Theorem A's largest step is 2.0 to 2.2 times
    smaller, so its order 1 / (L tau) cannot be improved.
    """
    return 2 * jnp.sin(jnp.pi / (2 * (2 * jnp.asarray(tau, float) + 1)))
