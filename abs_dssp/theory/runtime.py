"""How long a round takes, how stale its pushes are, and how many pushes come.

Runtimes of the K-rules: Dutta et al., "Slow and Stale Gradients Can Win the Race",
AISTATS 2018 (https://arxiv.org/abs/1803.01113). Staleness and restart laws follow from
conservation: of N computations in flight, K are applied in a round. Random worker times
are i.i.d., X = shift + Exp(rate) seconds; fixed ones are h_i seconds per push.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array, Float

from abs_dssp.theory._types import Numbers, PerWorker, Result, Scalar, Static
from abs_dssp.theory.lower_bound import collection_time

__all__ = ["round_time", "erlang_order_statistic", "kth_exponential", "harmonic"]
__all__ += [
    "mean_staleness",
    "geometric_staleness",
    "restart_law",
    "ssp_counts",
    "throughput",
]

RULES = ("bsp", "asp", "k_sync", "k_batch_sync", "k_async", "k_batch_async")
_POINTS = 4001  # of the quadrature


def harmonic(n: Numbers) -> Result:
    """H_n = 1 + 1/2 + ... + 1/n; 0 at n = 0.

    Args:
      n: whole numbers, at least 0.

    Returns:
      H_n, in the shape of `n`.

    Example:
      >>> from abs_dssp import theory
      >>> round(float(theory.harmonic(2)), 5)
      1.5
    """
    n = jnp.asarray(n, float)
    euler = jnp.asarray(0.57721566490153286061, n.dtype)
    return jax.scipy.special.digamma(n + 1) + euler


def round_time(
    rule: str, num_workers: Static, k: Static, rate: Scalar = 1.0, shift: Scalar = 0.0
) -> Scalar:
    """Expected seconds per commit, for i.i.d. times shift + Exp(rate).

    For `k_async` with a shift the result is an upper bound, delta + (H_N - H_{N-K}) /
    mu, the lower one being K E[X] / N; all others are exact: arXiv 1803.01113.

    Args:
      rule: one of `RULES`.
      num_workers: N.
      k: pushes per commit; taken to be N for `bsp` and 1 for `asp`.
      rate: mu, per second.
      shift: delta, in seconds.

    Returns:
      Seconds, a scalar.

    Raises:
      ValueError: for an unknown rule.

    Example:
      >>> from abs_dssp import theory
      >>> round(float(theory.round_time("k_sync", 2, k=1, rate=4.0)), 5)
      0.125
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


def erlang_order_statistic(
    num_workers: Static, k: Static, rate: Scalar = 1.0, shift: Scalar = 0.0
) -> Float[Array, ""]:
    """Mean time until N renewal processes of shift + Exp(rate) have made k pushes.

    This is K-batch-sync's round: the integral over x of P(sum_i N_i(x) < k), where
    P(N_i(x) >= j) = P(j shift + Gamma(j, rate) <= x), by the trapezoidal rule. Without
    a shift it is k / (N rate).

    Args:
      num_workers: N.
      k: pushes in all.
      rate: mu, per second.
      shift: delta, in seconds.

    Returns:
      Seconds, a scalar.

    Example:
      >>> from abs_dssp import theory
      >>> round(float(theory.erlang_order_statistic(num_workers=2, k=1)), 4)
      0.5
    """
    each = -(-k // num_workers)  # almost surely, each worker has made as many by `end`
    end = each * shift + (each + 40.0 + 10.0 * each**0.5) / rate
    u = jnp.linspace(0.0, 1.0, _POINTS)
    x = u**3 * end  # makes the integrand flat at 0, where the rule is then exact
    j = jnp.arange(1, k + 1, dtype=x.dtype)
    y = rate * jnp.maximum(x[:, None] - (j * shift)[None, :], 0.0)
    # P(Gamma(j, 1) > y) = sum over i < j of the Poisson weights e^-y y^i / i!.
    i = jnp.arange(k, dtype=x.dtype)[None, None, :]
    poisson = jnp.exp(xlogy(i, y[:, :, None]) - y[:, :, None] - gammaln(i + 1))
    above = jnp.sum(poisson * (i < j[None, :, None]).astype(x.dtype), axis=2)
    tail = jnp.concatenate([jnp.ones_like(y[:, :1]), 1 - above], axis=1)
    single = tail[:, :-1] - tail[:, 1:]  # P(N_i(x) = 0), ..., P(N_i(x) = k - 1)
    # Multiplying by this Toeplitz matrix adds one worker's count to the total.
    offset = np.subtract.outer(np.arange(k), np.arange(k))
    lower = jnp.asarray(offset >= 0, x.dtype)[None, :, :]
    toeplitz = single[:, np.maximum(offset, 0)] * lower

    def add(total, _):
        return jnp.einsum("pij,pj->pi", toeplitz, total), None

    no_pushes = jnp.zeros_like(single).at[:, 0].set(1.0)
    total, _ = jax.lax.scan(add, no_pushes, None, length=int(num_workers))
    return jnp.sum(total.sum(axis=1) * 3 * u**2) * end / (_POINTS - 1)


def mean_staleness(rule: str, num_workers: Numbers, k: Numbers = 1) -> Result:
    """Mean staleness of an applied push, for any law of times.

    0 for BSP and the sync rules, N / K - 1 for K-async, (N - 1) / K for K-batch-async,
    N - 1 for ASP. Worker times may differ.

    Args:
      rule: one of `RULES`.
      num_workers: N.
      k: pushes per commit, where the rule has one.

    Returns:
      Versions, in the broadcast shape.

    Raises:
      ValueError: for an unknown rule.

    Example:
      >>> from abs_dssp import theory
      >>> theory.mean_staleness("k_async", num_workers=8, k=2)
      3.0
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


def geometric_staleness(j: Numbers, num_workers: Numbers, k: Numbers) -> Result:
    """K-async with exponential times: P(staleness = j) = p (1 - p)^j, p = K / N.

    Args:
      j: staleness, in versions.
      num_workers: N.
      k: K, pushes per commit.

    Returns:
      Probabilities, in the broadcast shape.

    Example:
      >>> import numpy as np
      >>> from abs_dssp import theory
      >>> theory.geometric_staleness(np.arange(3), num_workers=8, k=4).tolist()
      [0.5, 0.25, 0.125]
    """
    p = k / num_workers
    return p * (1 - p) ** jnp.asarray(j, float)


def restart_law(
    num_workers: Numbers, k: Numbers, tau_max: Numbers
) -> tuple[Result, Result, Result]:
    """K-async with restarts of computations staler than tau_max, exponential times.

    Staleness is geometric, truncated to 0..tau_max; a round takes as long as without
    restarts, because exponential times have no memory.

    Args:
      num_workers: N.
      k: K, pushes per commit; below N.
      tau_max: largest staleness of an applied push, in versions.

    Returns:
      Mean staleness in versions, P(staleness = 0) and restarts per round, each in the
      broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.restart_law(num_workers=2, k=1, tau_max=0)
      (0.0, 1.0, 1.0)

      With tau_max = 0, every commit restarts the other worker.
    """
    p = k / num_workers
    r = 1 - p
    tail = r ** (tau_max + 1.0)
    mean = r / (1 - r) - (tau_max + 1) * tail / (1 - tail)
    return mean, p / (1 - tail), num_workers * p * tail / (1 - tail)


def kth_exponential(rates: PerWorker, k: Static) -> Float[Array, ""]:
    """Mean of the k-th smallest of independent Exp(rate_i): K-sync's round.

    By inclusion and exclusion over subsets, so for up to 16 workers.

    Args:
      rates: mu_i, (N,) per second.
      k: 1..N.

    Returns:
      Seconds, a scalar.

    Raises:
      ValueError: for more than 16 workers or a `k` out of range.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.kth_exponential([1.0, 3.0], 1))  # 1 / (1 + 3)
      0.25
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
        sign = (-1.0) ** (size - first) * math.comb(size - 1, n - k)
        signs[sizes == size] = sign
    return jnp.sum(jnp.asarray(signs) / (jnp.asarray(sets, float) @ rates))


def ssp_counts(seconds: Scalar, times: PerWorker, s: Scalar) -> Float[Array, " N"]:
    """Pushes that each worker has made by a time under SSP(s), for fixed times h_i.

    min(floor(x / h_i), floor((x - h_i) / h_N) + s + 1) for x >= h_i, h_N the largest.

    Args:
      seconds: x.
      times: h_i, (N,) seconds per push.
      s: SSP's threshold, in clocks.

    Returns:
      Whole numbers, as floats, one per worker.

    Example:
      >>> from abs_dssp import theory
      >>> theory.ssp_counts(12.0, [1.0, 4.0], s=2).tolist()  # min(12, 2 + 3), min(3, 5)
      [5.0, 3.0]
    """
    times = jnp.asarray(times, float)
    slowest = jnp.max(times)
    free = jnp.floor(seconds / times)
    held = jnp.floor((seconds - times) / slowest) + s + 1
    return jnp.where(seconds >= times, jnp.minimum(free, held), 0.0)


def throughput(rule: str, times: PerWorker, k: Static = 1) -> Float[Array, ""]:
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

    Returns:
      Pushes per second, a scalar.

    Raises:
      ValueError: for another rule.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.throughput("asp", [1.0, 2.0]))
      1.5
      >>> float(theory.throughput("bsp", [1.0, 2.0]))
      1.0
    """
    times = jnp.sort(jnp.asarray(times, float))
    if rule in ("bsp", "ssp", "dssp_bounded"):
        return times.shape[0] / times[-1]
    if rule in ("asp", "dssp_printed", "k_batch_async"):
        return jnp.sum(1 / times)
    if rule == "k_sync":
        return k / times[k - 1]
    if rule in ("k_batch_sync", "rennala"):
        return k / collection_time(times, k)
    raise ValueError(f"throughput: no closed form for {rule!r}.")
