"""How fast any method can be, and the two that come within a constant of it.

Worker i needs h_i seconds per gradient, whose variance is sigma^2. The target is
E||grad F||^2 <= eps, and gap = F(w^0) - F*. Tyurin and Richtarik, "Optimal Time
Complexities of Parallel Stochastic Optimization Methods Under a Fixed Computation
Model", NeurIPS 2023 (https://arxiv.org/abs/2305.12387); Maranjyan, Tyurin, Richtarik,
"Ringmaster ASGD", ICML 2025 (https://arxiv.org/abs/2501.16168). The lower bound and
Ringmaster's constants are quoted from memory of these papers and cross-checked by
Theorem A; Rennala's are derived here.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from abs_dssp.theory._types import Numbers, PerWorker, Result, Scalar, Static

__all__ = ["tyurin_richtarik", "collection_bound", "collection_time"]
__all__ += ["rennala_batch", "rennala_rounds", "rennala_time"]
__all__ += [
    "ringmaster_step",
    "ringmaster_threshold",
    "ringmaster_time",
    "ringmaster_updates",
]


def _harmonic_means(times: PerWorker) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """m = 1..N, and the harmonic mean of the m smallest times."""
    times = jnp.sort(jnp.asarray(times, float))
    m = jnp.arange(1, times.shape[0] + 1, dtype=times.dtype)
    return m, m / jnp.cumsum(1 / times)


def tyurin_richtarik(
    times: PerWorker, smoothness: Scalar, gap: Scalar, variance: Scalar, target: Scalar
) -> Float[Array, ""]:
    """The lower bound in seconds, up to a universal constant.

    min over m of h_m (L gap / eps + sigma^2 L gap / (m eps^2)), h_m the harmonic mean
    of the m smallest times: arXiv 2305.12387, for a fixed computation model.

    Args:
      times: h_i, (N,) seconds per gradient.
      smoothness: L.
      gap: F(w^0) - F*.
      variance: sigma^2.
      target: eps, of the squared gradient norm.

    Returns:
      Seconds, a scalar.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.tyurin_richtarik([1.0, 1.0], 1.0, 1.0, 4.0, 1.0))  # 1 + 4/2
      3.0
    """
    m, mean = _harmonic_means(times)
    ratio = variance / target
    return jnp.min(mean * (1 + ratio / m)) * smoothness * gap / target


def rennala_batch(variance: Numbers, target: Numbers) -> Result:
    """S = max{1, ceil(sigma^2 / eps)}: Rennala's batch, and Ringmaster's threshold.

    Args:
      variance: sigma^2.
      target: eps.

    Returns:
      A whole number, as a float array in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.rennala_batch(variance=5.0, target=2.0))
      3.0
    """
    return jnp.maximum(1.0, jnp.ceil(jnp.asarray(variance / target, float)))


ringmaster_threshold = rennala_batch


def collection_time(times: PerWorker, batch: Static) -> Float[Array, ""]:
    """Least x with sum_i floor(x / h_i) >= batch: the length of Rennala's round.

    Args:
      times: h_i, (N,) seconds per gradient.
      batch: gradients to collect; it determines shapes, so a Python number.

    Returns:
      Seconds, a scalar.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.collection_time([1.0, 2.0], 4))  # ends at 1, 2, 2, 3
      3.0
    """
    times = jnp.asarray(times, float)
    counts = jnp.arange(1, int(batch) + 1, dtype=times.dtype)
    ends = times[:, None] * counts[None, :]
    return jnp.sort(ends.ravel())[int(batch) - 1]


def collection_bound(times: PerWorker, batch: Scalar) -> Float[Array, ""]:
    """B = min_m (batch + m) / sum_{i <= m} 1 / h_i, which bounds `collection_time`.

    The time is at least B / 2 and at most B.

    Args:
      times: h_i, (N,) seconds per gradient.
      batch: gradients to collect.

    Returns:
      Seconds, a scalar.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.collection_bound([1.0, 2.0], 4))  # min(5 / 1, 6 / 1.5)
      4.0
    """
    m, mean = _harmonic_means(times)
    return jnp.min((batch + m) * mean / m)


def rennala_rounds(smoothness: Numbers, gap: Numbers, target: Numbers) -> Result:
    """Rounds that suffice at the step 1 / (2 L): 8 L gap / eps (Theorem A, tau = 0).

    Args:
      smoothness: L.
      gap: F(w^0) - F*.
      target: eps.

    Returns:
      Rounds, not rounded, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.rennala_rounds(smoothness=1.0, gap=1.0, target=0.5)
      16.0
    """
    return 8 * smoothness * gap / target


def rennala_time(
    times: PerWorker, smoothness: Scalar, gap: Scalar, variance: Scalar, target: Scalar
) -> Float[Array, ""]:
    """Seconds that suffice for Rennala: `rennala_rounds` times `collection_time`.

    Args:
      times: h_i, (N,) seconds per gradient.
      smoothness: L.
      gap: F(w^0) - F*.
      variance: sigma^2; with `target` it gives the batch, so not a tracer.
      target: eps; not a tracer.

    Returns:
      Seconds, a scalar.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.rennala_time([1.0, 2.0], 1.0, 1.0, 4.0, 1.0))  # 8 rounds of 3 s
      24.0
    """
    batch = int(rennala_batch(variance, target))
    return collection_time(times, batch) * rennala_rounds(smoothness, gap, target)


def ringmaster_step(smoothness: Numbers, variance: Numbers, target: Numbers) -> Result:
    """Ringmaster's step min{1 / (2 R L), eps / (4 L sigma^2)}.

    R is `ringmaster_threshold`: arXiv 2501.16168.

    Args:
      smoothness: L.
      variance: sigma^2.
      target: eps.

    Returns:
      gamma, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.ringmaster_step(1.0, variance=2.0, target=1.0))
      0.125
    """
    threshold = ringmaster_threshold(variance, target)
    noisy = target / (4 * smoothness * jnp.maximum(variance, 1e-300))
    return jnp.minimum(1 / (2 * threshold * smoothness), noisy)


def ringmaster_updates(
    smoothness: Numbers, gap: Numbers, variance: Numbers, target: Numbers
) -> Result:
    """Updates that suffice: 8 R L gap / eps + 16 sigma^2 L gap / eps^2.

    At the step `ringmaster_step`, R being `ringmaster_threshold`.

    Args:
      smoothness: L.
      gap: F(w^0) - F*.
      variance: sigma^2.
      target: eps.

    Returns:
      Updates, not rounded, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.ringmaster_updates(1.0, 1.0, 2.0, target=1.0))  # 16 + 32
      48.0
    """
    threshold = ringmaster_threshold(variance, target)
    first = 8 * threshold * smoothness * gap / target
    return first + 16 * variance * smoothness * gap / target**2


def ringmaster_time(
    times: PerWorker, smoothness: Scalar, gap: Scalar, variance: Scalar, target: Scalar
) -> Float[Array, ""]:
    """Seconds that suffice: R updates take at most 2 `collection_bound` of R.

    Args:
      times: h_i, (N,) seconds per gradient.
      smoothness: L.
      gap: F(w^0) - F*.
      variance: sigma^2.
      target: eps.

    Returns:
      Seconds, a scalar.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.ringmaster_time([1.0, 1.0], 1.0, 1.0, 2.0, 1.0))  # 24 * 2 * 2
      96.0
    """
    threshold = ringmaster_threshold(variance, target)
    blocks = jnp.ceil(ringmaster_updates(smoothness, gap, variance, target) / threshold)
    return blocks * 2 * collection_bound(times, threshold)
