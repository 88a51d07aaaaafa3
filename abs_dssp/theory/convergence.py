"""Theorems A and B: the mean squared gradient of stale SGD on a smooth objective.

Setting of both: round t ends with K_t pushes, each the sum of U local steps of step
size gamma from a version at most tau_max rounds old, and
w <- w - (eta / K_t) * sum of the pushes. Assumptions: F is L-smooth and bounded below
(A1); gradients are unbiased with variance at most V = sigma^2 / B, the same on every
worker, fresh samples each time (A2); times do not depend on the samples (A3). Bounded
gradients and convexity are not needed. The theorems are proved for this project; of
ABS (https://arxiv.org/abs/2301.08895) only the order O(1 / sqrt(T K U)) is a claim.

Symbols, everywhere: `gap` = F(w^0) - F*, `smoothness` = L, `variance` = V,
`step` = eta, `rounds` = T, `local_steps` = U, `kappa_1` = mean of 1 / K_t over rounds,
`k_min` = least K_t, `tau_bar` and `staleness_scale` = S as the functions of these
names. Each is a number or an array; the arguments of a call broadcast.
"""

import jax.numpy as jnp

from abs_dssp.theory._types import Numbers, Result

__all__ = ["tau_bar", "staleness_scale", "spread", "largest_step_a", "largest_step_b"]
__all__ += ["theorem_a", "theorem_b", "theorem_b_simple", "delay_stability_limit"]
__all__ += ["corollary", "corollary_step", "corollary_threshold"]


def tau_bar(
    tau_max: Numbers, num_workers: Numbers, k_min: Numbers, batch: bool = False
) -> Result:
    """Lemma 1: min(tau_max, (N - K_min) / K_min) bounds staleness in every round.

    It bounds the sum of 1 / K_t over the pushes that cover a round, hence the mean
    staleness. At most N computations are in flight, and K_s of them are applied in
    round s. Under the "batch" rules, whose workers start again within a round, N - 1
    takes the place of N - K_min. The pushes of a commit must weigh the same.

    Args:
      tau_max: largest staleness of an applied push, in rounds; inf if unbounded.
      num_workers: N.
      k_min: least number of pushes in a round.
      batch: whether a worker that has pushed is released within the round.

    Returns:
      The bound in rounds, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.tau_bar(tau_max=9, num_workers=8, k_min=2))  # (8 - 2) / 2
      3.0
    """
    others = num_workers - (1 if batch else k_min)
    return jnp.minimum(tau_max, others / k_min)


def staleness_scale(tau_max: Numbers, tau_bar: Numbers) -> Result:
    """S = sqrt(tau_max tau_bar), by which staleness divides the largest step.

    Args:
      tau_max: largest staleness of an applied push, in rounds; inf only where
        `tau_bar` is 0.
      tau_bar: as `tau_bar` gives it, in rounds: a bound for every round. The mean
        staleness of a run is none; see `measured_scale`.

    Returns:
      S in rounds, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.staleness_scale(tau_max=8, tau_bar=2))
      4.0
    """
    # Without the condition, 0 * inf would be NaN where nothing is ever stale.
    return jnp.sqrt(jnp.where(jnp.equal(tau_bar, 0), 0.0, tau_max * tau_bar))


spread = staleness_scale  # the former name, kept for one release


def largest_step_a(smoothness: Numbers, staleness_scale: Numbers) -> Result:
    """The largest eta of Theorem A: the root of eta L + 2 eta^2 L^2 S^2 = 1.

    Args:
      smoothness: L.
      staleness_scale: S, in rounds; see `staleness_scale`.

    Returns:
      eta, in the broadcast shape; 1 / L without staleness.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.largest_step_a(1.0, staleness_scale=1.0))  # 1/2 + 2/4 = 1
      0.5
    """
    s2 = staleness_scale**2
    root = (jnp.sqrt(1 + 8 * s2) - 1) / jnp.where(s2 > 0, 4 * s2, 1.0)
    return jnp.where(s2 > 0, root, 1.0) / smoothness


def largest_step_b(
    smoothness: Numbers, staleness_scale: Numbers, local_steps: Numbers = 1
) -> Result:
    """The largest eta of Theorem B: eta L U (1 + S) = 1/4.

    Args:
      smoothness: L.
      staleness_scale: S, in rounds; see `staleness_scale`.
      local_steps: U.

    Returns:
      eta, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.largest_step_b(1.0, staleness_scale=3.0, local_steps=4)
      0.015625
    """
    return 0.25 / (smoothness * local_steps * (1 + staleness_scale))


def theorem_a(
    gap: Numbers,
    smoothness: Numbers,
    variance: Numbers,
    step: Numbers,
    rounds: Numbers,
    *,
    kappa_1: Numbers,
    tau_bar: Numbers = 0.0,
    k_min: Numbers = 1,
) -> Result:
    """Theorem A (U = 1): a bound on the mean over rounds of E||grad F(w^t)||^2.

    2 gap / (eta T) + L eta V kappa_1 + 2 L^2 eta^2 V tau_bar / K_min, valid for
    eta up to `largest_step_a`.

    Args:
      gap: F(w^0) - F*.
      smoothness: L.
      variance: V of one push's gradient.
      step: eta.
      rounds: T, the number of commits.
      kappa_1: mean of 1 / K_t.
      tau_bar: mean staleness, in rounds; see `tau_bar`.
      k_min: least K_t.

    Returns:
      The bound, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.theorem_a(1.0, 1.0, 4.0, 0.5, 4, kappa_1=0.5, tau_bar=2.0, k_min=2)
      4.0

      The three terms are 2 / (0.5 * 4) = 1, 0.5 * 4 * 0.5 = 1 and
      2 * 0.25 * 4 * 2 / 2 = 2.
    """
    start = 2 * gap / (step * rounds)
    noise = smoothness * step * variance * kappa_1
    stale = 2 * smoothness**2 * step**2 * variance * tau_bar / k_min
    return start + noise + stale


def theorem_b(
    gap: Numbers,
    smoothness: Numbers,
    variance: Numbers,
    step: Numbers,
    rounds: Numbers,
    *,
    kappa_1: Numbers,
    local_steps: Numbers = 1,
    local_step: Numbers | None = None,
    tau_bar: Numbers = 0.0,
    k_min: Numbers = 1,
) -> Result:
    """Theorem B (any U, gamma <= eta): the sharper of its two bounds.

    Valid for eta up to `largest_step_b`.

    Args:
      gap: F(w^0) - F*.
      smoothness: L.
      variance: V of one local step's gradient.
      step: eta, the server's step per gradient.
      rounds: T, the number of commits.
      kappa_1: mean of 1 / K_t.
      local_steps: U.
      local_step: gamma; eta if None.
      tau_bar: mean staleness, in rounds; see `tau_bar`.
      k_min: least K_t.

    Returns:
      The bound on the mean over rounds of E||grad F(w^t)||^2, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.theorem_b(1.0, 1.0, 4.0, 0.25, 8, kappa_1=0.5)  # 1 + 0.5 * (1 + 1)
      2.0
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
    gap: Numbers,
    smoothness: Numbers,
    variance: Numbers,
    step: Numbers,
    rounds: Numbers,
    *,
    kappa_1: Numbers,
    local_steps: Numbers = 1,
    local_step: Numbers | None = None,
    tau_bar: Numbers = 0.0,
    k_min: Numbers = 1,
) -> Result:
    """Theorem B's second bound, with the constants 3, 3, 8 and 4.

    Arguments and result are those of `theorem_b`.

    Example:
      >>> from abs_dssp import theory
      >>> theory.theorem_b_simple(1.0, 1.0, 4.0, 0.25, 8, kappa_1=0.5)  # 3/2 + 3/2
      3.0
    """
    u = local_steps
    gamma = step if local_step is None else local_step
    start = 3 * gap / (step * u * rounds)
    noise = 3 * smoothness * step * variance * kappa_1
    stale = 8 * smoothness**2 * step**2 * u * tau_bar * variance / k_min
    drift = 4 * gamma**2 * smoothness**2 * (u - 1) * variance
    return start + noise + stale + drift


def corollary_step(
    c: Numbers, k: Numbers, rounds: Numbers, local_steps: Numbers = 1
) -> Result:
    """The corollary's step: eta = c sqrt(K / (T U)).

    Args:
      c: a constant of one's choice, above 0.
      k: K, the pushes of every round.
      rounds: T, the number of commits.
      local_steps: U.

    Returns:
      eta, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.corollary_step(1.0, k=4, rounds=16))
      0.5
    """
    return c * jnp.sqrt(k / (rounds * local_steps))


def corollary_threshold(
    c: Numbers,
    smoothness: Numbers,
    k: Numbers,
    *,
    local_steps: Numbers = 1,
    staleness_scale: Numbers = 0.0,
    tau_bar: Numbers = 0.0,
) -> Result:
    """The number of rounds T_0 from which on the corollary's rate holds.

    16 c^2 L^2 K U max{(1 + S)^2, 4 tau_bar^2, K^2 [U > 1]}.

    Args:
      c: the constant of `corollary_step`.
      smoothness: L.
      k: K, the pushes of every round.
      local_steps: U.
      staleness_scale: S, in rounds; see `staleness_scale`.
      tau_bar: mean staleness, in rounds; see `tau_bar`.

    Returns:
      T_0, not rounded, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.corollary_threshold(1.0, 1.0, 2, staleness_scale=1.0))
      128.0
    """
    local = jnp.where(jnp.asarray(local_steps) > 1, k**2, 0.0)
    most = jnp.maximum(jnp.maximum((1 + staleness_scale) ** 2, 4 * tau_bar**2), local)
    return 16 * c**2 * smoothness**2 * k * local_steps * most


def corollary(
    gap: Numbers,
    smoothness: Numbers,
    variance: Numbers,
    rounds: Numbers,
    k: Numbers,
    c: Numbers,
    *,
    local_steps: Numbers = 1,
) -> Result:
    """The corollary's rate: (3 gap / c + 5 L c V) / sqrt(T K U).

    It bounds the mean over rounds of E||grad F(w^t)||^2 at the step `corollary_step`,
    for T from `corollary_threshold` on.

    Args:
      gap: F(w^0) - F*.
      smoothness: L.
      variance: V of one local step's gradient.
      rounds: T, the number of commits.
      k: K, the pushes of every round.
      c: the constant of `corollary_step`.
      local_steps: U.

    Returns:
      The bound, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.corollary(1.0, 1.0, 1.0, rounds=8, k=2, c=1.0))  # 8 / sqrt(16)
      2.0
    """
    scale = jnp.sqrt(rounds * k * local_steps)
    return (3 * gap / c + 5 * smoothness * c * variance) / scale


def delay_stability_limit(tau: Numbers) -> Result:
    """The largest eta L for which w <- w - eta L w^{t - tau} is stable.

    2 sin(pi / (2 (2 tau + 1))), which is sharp. Theorem A's largest step is 2.0 to 2.2
    times smaller, so its order 1 / (L tau) cannot be improved.

    Args:
      tau: the constant staleness, in rounds.

    Returns:
      eta L, in the shape of `tau`.

    Example:
      >>> from abs_dssp import theory
      >>> round(float(theory.delay_stability_limit(1)), 6)  # 2 sin(pi / 6)
      1.0
    """
    return 2 * jnp.sin(jnp.pi / (2 * (2 * jnp.asarray(tau, float) + 1)))
