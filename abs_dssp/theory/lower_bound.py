"""How fast any method can be, and the two that come within a constant of it.

Worker i needs h_i seconds per gradient, variance sigma^2, target E||grad F||^2 <= eps,
gap = F(w^0) - F*. Tyurin and Richtarik, "Optimal Time Complexities of Parallel
Stochastic Optimization Methods Under a Fixed Computation Model", NeurIPS 2023 (arXiv
2305.12387); Maranjyan, Tyurin, Richtarik, "Ringmaster ASGD", ICML 2025 (arXiv
2501.16168). The lower bound and Ringmaster's constants are quoted from memory of these
papers and cross-checked by Theorem A; Rennala's are derived here.
"""

import jax.numpy as jnp


def _means(times):
    """Harmonic means of the m fastest, m = 1..N, of sorted times."""
    times = jnp.sort(jnp.asarray(times, float))
    m = jnp.arange(1, times.shape[0] + 1, dtype=times.dtype)
    return m, m / jnp.cumsum(1 / times)


def tyurin_richtarik(times, smoothness, gap, variance, target):
    """The lower bound in seconds, up to a universal constant.

    min over m of h_m (L gap / eps + sigma^2 L gap / (m eps^2)), h_m the harmonic mean
    of the m smallest times.

    Args:
      times: h_i, (N,) seconds per gradient.
      smoothness: L.
      gap: F(w^0) - F*.
      variance: sigma^2.
      target: eps, of the squared gradient norm.
    """
    m, mean = _means(times)
    ratio = variance / target
    return jnp.min(mean * (1 + ratio / m)) * smoothness * gap / target


def rennala_batch(variance, target):
    """S = max{1, ceil(sigma^2 / eps)}: Rennala's batch, and Ringmaster's threshold."""
    return jnp.maximum(1.0, jnp.ceil(jnp.asarray(variance / target, float)))


ringmaster_threshold = rennala_batch


def collection_time(times, batch):
    """Least x with sum_i floor(x / h_i) >= batch: Rennala's round, in seconds.

    Args:
      times: h_i, (N,) seconds per gradient.
      batch: gradients to collect; a Python number.
    """
    times = jnp.asarray(times, float)
    counts = jnp.arange(1, int(batch) + 1, dtype=times.dtype)
    ends = times[:, None] * counts[None, :]
    return jnp.sort(ends.ravel())[int(batch) - 1]


def collection_bound(times, batch):
    """B = min_m (batch + m) / sum_{i <= m} 1 / h_i; half of it is a lower bound too."""
    m, mean = _means(times)
    return jnp.min((batch + m) * mean / m)


def rennala_rounds(smoothness, gap, target):
    """Rounds that suffice at the step 1 / (2 L): 8 L gap / eps (Theorem A, tau = 0)."""
    return 8 * smoothness * gap / target


def rennala_time(times, smoothness, gap, variance, target):
    """Seconds that suffice for Rennala: rounds times `collection_time`.

    The batch must be known, so variance and target are Python numbers.
    """
    batch = int(rennala_batch(variance, target))
    return rennala_rounds(smoothness, gap, target) * collection_time(times, batch)


def ringmaster_step(smoothness, variance, target):
    """gamma = min{1 / (2 R L), eps / (4 L sigma^2)}."""
    threshold = ringmaster_threshold(variance, target)
    noisy = target / (4 * smoothness * jnp.maximum(variance, 1e-300))
    return jnp.minimum(1 / (2 * threshold * smoothness), noisy)


def ringmaster_updates(smoothness, gap, variance, target):
    """Updates that suffice: 8 R L gap / eps + 16 sigma^2 L gap / eps^2."""
    threshold = ringmaster_threshold(variance, target)
    first = 8 * threshold * smoothness * gap / target
    return first + 16 * variance * smoothness * gap / target**2


def ringmaster_time(times, smoothness, gap, variance, target):
    """Seconds that suffice: R updates take at most 2 `collection_bound` of R."""
    threshold = ringmaster_threshold(variance, target)
    blocks = jnp.ceil(ringmaster_updates(smoothness, gap, variance, target) / threshold)
    return blocks * 2 * collection_bound(times, threshold)
