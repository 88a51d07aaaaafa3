"""How long a round takes, how stale its pushes are, and how many pushes come.

Runtimes of the K-rules: Dutta et al., AISTATS 2018 (arXiv 1803.01113). Staleness and
restart laws follow from conservation: of N computations in flight, K are applied in a
round. Worker times are i.i.d. X = shift + Exp(rate) where they are random, in seconds;
fixed ones are h_i seconds per push.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy

RULES = ("bsp", "asp", "k_sync", "k_batch_sync", "k_async", "k_batch_async")
_POINTS = 4001  # of the quadrature


def harmonic(n):
    """H_n = 1 + 1/2 + ... + 1/n; 0 at n = 0."""
    n = jnp.asarray(n, float)
    euler = jnp.asarray(0.57721566490153286061, n.dtype)
    return jax.scipy.special.digamma(n + 1) + euler


def round_time(rule: str, num_workers: int, k: int, rate=1.0, shift=0.0):
    """Expected seconds per commit, for i.i.d. times shift + Exp(rate).

    For `k_async` with a shift the result is an upper bound, delta + (H_N - H_{N-K}) /
    mu, the lower one being K E[X] / N; all others are exact.

    Args:
      rule: one of `RULES`.
      num_workers: N, a Python number.
      k: pushes per commit, a Python number; N for `bsp`, 1 for `asp`.
      rate: mu, per second.
      shift: delta, seconds.

    Raises:
      ValueError: for an unknown rule.
    """
    mean = shift + 1 / rate
    if rule in ("bsp", "k_sync", "k_async"):
        k = num_workers if rule == "bsp" else k
        return shift + (harmonic(num_workers) - harmonic(num_workers - k)) / rate
    if rule in ("asp", "k_batch_async"):
        return (1 if rule == "asp" else k) * mean / num_workers
    if rule == "k_batch_sync":
        return erlang_order_statistic(num_workers, k, rate, shift)
    raise ValueError(f"round_time: unknown rule {rule!r}; known: {', '.join(RULES)}.")


def erlang_order_statistic(num_workers: int, k: int, rate=1.0, shift=0.0):
    """Mean time until N renewal processes of shift + Exp(rate) have made k pushes.

    K-batch-sync's round: the integral over x of P(sum_i N_i(x) < k), where
    P(N_i(x) >= j) = P(j shift + Gamma(j, rate) <= x). By the trapezoidal rule; k / (N
    rate) without a shift.
    """
    each = -(-k // num_workers)  # by then everybody has made so many, almost surely
    end = each * shift + (each + 40.0 + 10.0 * each**0.5) / rate
    u = jnp.linspace(0.0, 1.0, _POINTS)
    x = u**3 * end  # flat at both ends, where the trapezoidal rule is then exact
    j = jnp.arange(1, k + 1, dtype=x.dtype)
    y = rate * jnp.maximum(x[:, None] - (j * shift)[None, :], 0.0)
    # P(Gamma(j, 1) > y) = sum over i < j of the Poisson weights e^-y y^i / i!.
    i = jnp.arange(k, dtype=x.dtype)[None, None, :]
    poisson = jnp.exp(xlogy(i, y[:, :, None]) - y[:, :, None] - gammaln(i + 1))
    above = jnp.sum(poisson * (i < j[None, :, None]).astype(x.dtype), axis=2)
    tail = jnp.concatenate([jnp.ones_like(y[:, :1]), 1 - above], axis=1)
    single = tail[:, :-1] - tail[:, 1:]  # P(N_i(x) = 0), ..., P(N_i(x) = k - 1)
    places = np.subtract.outer(np.arange(k), np.arange(k))  # of a Toeplitz matrix
    lower = jnp.asarray(places >= 0, x.dtype)[None, :, :]
    shifted = single[:, np.maximum(places, 0)] * lower

    def add(total, _):
        return jnp.einsum("pij,pj->pi", shifted, total), None

    nothing = jnp.zeros_like(single).at[:, 0].set(1.0)
    total, _ = jax.lax.scan(add, nothing, None, length=num_workers)
    return jnp.sum(total.sum(axis=1) * 3 * u**2) * end / (_POINTS - 1)


def mean_staleness(rule: str, num_workers, k=1):
    """Mean staleness of an applied push, in versions, for any law of times.

    0 for BSP and the sync rules, N / K - 1 for K-async, (N - 1) / K for K-batch-async,
    N - 1 for ASP. Worker times may differ.

    Raises:
      ValueError: for an unknown rule.
    """
    if rule in ("bsp", "k_sync", "k_batch_sync"):
        return 0.0 * num_workers
    if rule == "k_async":
        return num_workers / k - 1
    if rule == "k_batch_async":
        return (num_workers - 1) / k
    if rule == "asp":
        return num_workers - 1.0
    raise ValueError(
        f"mean_staleness: unknown rule {rule!r}; known: {', '.join(RULES)}."
    )


def geometric_staleness(j, num_workers, k):
    """K-async with exponential times: P(staleness = j) = p (1 - p)^j, p = K / N."""
    p = k / num_workers
    return p * (1 - p) ** jnp.asarray(j, float)


def restart_law(num_workers, k, tau_max):
    """K-async with restarts beyond tau_max, exponential times.

    Staleness is geometric, truncated to 0..tau_max; a round takes as long as without
    restarts, because exponential times have no memory.

    Returns:
      Mean staleness, P(staleness = 0) and restarts per round.
    """
    p = k / num_workers
    r = 1 - p
    tail = r ** (tau_max + 1.0)
    mean = r / (1 - r) - (tau_max + 1) * tail / (1 - tail)
    return mean, p / (1 - tail), num_workers * p * tail / (1 - tail)


def kth_exponential(rates, k: int):
    """Mean of the k-th smallest of independent Exp(rate_i): K-sync's round.

    By inclusion and exclusion over subsets, so for up to 16 workers.

    Args:
      rates: mu_i, (N,).
      k: 1..N, a Python number.

    Raises:
      ValueError: for more than 16 workers or a `k` out of range.
    """
    rates = jnp.asarray(rates, float)
    n = rates.shape[0]
    if n > 16 or not 1 <= k <= n:
        raise ValueError(f"kth_exponential: needs k <= N <= 16, got k={k}, N={n}.")
    sets = np.array(list(itertools.product((0, 1), repeat=n))[1:])
    sizes = sets.sum(axis=1)
    first = n - k + 1
    signs = np.zeros(len(sets))
    for size in range(first, n + 1):
        sign = (-1.0) ** (size - first) * _choose(size - 1, n - k)
        signs[sizes == size] = sign
    return jnp.sum(jnp.asarray(signs) / (jnp.asarray(sets, float) @ rates))


def _choose(n: int, k: int) -> float:
    value = 1.0
    for i in range(k):
        value *= (n - i) / (i + 1)
    return value


def ssp_counts(seconds, times, s):
    """Pushes that each worker has made by a time under SSP(s), for fixed times h_i.

    min(floor(x / h_i), floor((x - h_i) / h_N) + s + 1) for x >= h_i, h_N the largest.

    Args:
      seconds: x.
      times: h_i, (N,) seconds.
      s: the threshold.
    """
    times = jnp.asarray(times, float)
    slowest = jnp.max(times)
    free = jnp.floor(seconds / times)
    held = jnp.floor((seconds - times) / slowest) + s + 1
    return jnp.where(seconds >= times, jnp.minimum(free, held), 0.0)


def throughput(rule: str, times, k: int = 1):
    """Accepted pushes per second in the long run, for fixed worker times.

    BSP, SSP and bounded DSSP: N / h_N whatever the thresholds. ASP, K-batch-async and
    the printed DSSP without jitter: the sum of 1 / h_i. K-sync: K / h_(K). K-batch-sync
    and Rennala: K / T_K, T_K the least x with sum floor(x / h_i) >= K. K-async has no
    closed form for fixed unequal times.

    Args:
      rule: `bsp`, `ssp`, `dssp_bounded`, `dssp_printed`, `asp`, `k_sync`,
        `k_batch_sync`, `rennala` or `k_batch_async`.
      times: h_i, (N,) seconds per push.
      k: pushes per commit, where the rule has one.

    Raises:
      ValueError: for another rule.
    """
    times = jnp.sort(jnp.asarray(times, float))
    if rule in ("bsp", "ssp", "dssp_bounded"):
        return times.shape[0] / times[-1]
    if rule in ("asp", "dssp_printed", "k_batch_async"):
        return jnp.sum(1 / times)
    if rule == "k_sync":
        return k / times[k - 1]
    if rule in ("k_batch_sync", "rennala"):
        from abs_dssp.theory.lower_bound import collection_time

        return k / collection_time(times, k)
    raise ValueError(f"throughput: no closed form for {rule!r}.")
