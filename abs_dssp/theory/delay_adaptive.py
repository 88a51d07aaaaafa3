"""Theorem D: steps that fall with the delay are good for any delays.

Setting: N workers, a commit for every push, and steps eta_t = eta rho(tau_t) whose
weight rho is at most 1 and falls with the staleness tau of the push:

    rho = 1 up to a staleness of C, beyond it min(1, l / tau),

which is `policies.koloskova(concurrency=C, limit=l)`, and for l = C
`policies.mishchenko(concurrency=C)`. So eta_t tau_t is at most eta M, M = max(C, l):
no largest delay is needed, and the step can be chosen before there is a trace.
Assumptions: A1 to A3 of `convergence`, at most one computation of each worker in
flight, and U = 1. The proof is in docs/theory.md. The rules are those of Koloskova,
Stich, Jaggi (arXiv 2206.08307; l = 1 / (4 L eta)) and Mishchenko, Bach, Even, Woodworth
(arXiv 2206.07638), both NeurIPS 2022; the constants are this project's.

Symbols as in `convergence`, and `num_workers` = N, `concurrency` = C, `limit` = l,
`commits` = T, `mean_weight` = c.
"""

import jax.numpy as jnp

from abs_dssp.theory import convergence
from abs_dssp.theory._types import Numbers, Result
from abs_dssp.theory.target import Schedule

__all__ = ["any_delays", "largest_step_d", "least_mean_weight", "theorem_d"]


def least_mean_weight(
    num_workers: Numbers, concurrency: Numbers, limit: Numbers | None = None
) -> Result:
    """c: the mean of rho over all commits of a run is never below it.

    Staleness is at most N - 1 on average, so c is the value there of the largest convex
    function below rho: with x = max(C, 2 l) it is 1 - (N - 1) (1 - l / x) / x up to
    N - 1 = x, and l / (N - 1) beyond. For l = C = N it is 1 - (N - 1) / (4 N), above
    3/4.

    Args:
      num_workers: N.
      concurrency: C, above 0.
      limit: l, above 0; C if None.

    Returns:
      c, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> round(float(theory.least_mean_weight(5, concurrency=5)), 6)  # 1 - 4 / 20
      0.8
      >>> float(theory.least_mean_weight(5, concurrency=1))  # staleness 4, weight 1 / 4
      0.25
    """
    limit = concurrency if limit is None else limit
    others = num_workers - 1
    # From 0 to here the convex function is a straight line.
    end = jnp.maximum(concurrency, 2 * limit)
    line = 1 - others * (1 - limit / end) / end
    return jnp.where(others <= end, line, limit / jnp.maximum(others, 1))


def largest_step_d(
    smoothness: Numbers,
    num_workers: Numbers,
    concurrency: Numbers,
    limit: Numbers | None = None,
) -> Result:
    """The largest eta of Theorem D: that of Theorem A for S^2 = M (N - 1).

    Args:
      smoothness: L.
      num_workers: N.
      concurrency: C, above 0.
      limit: l, above 0; C if None.

    Returns:
      eta, of a push of weight 1, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.largest_step_d(1.0, num_workers=2, concurrency=1))  # S = 1
      0.5
    """
    scale = jnp.sqrt(_square(num_workers, concurrency, limit))
    return convergence.largest_step_a(smoothness, scale)


def theorem_d(
    gap: Numbers,
    smoothness: Numbers,
    variance: Numbers,
    step: Numbers,
    commits: Numbers,
    *,
    num_workers: Numbers,
    mean_weight: Numbers,
) -> Result:
    """Theorem D: a bound on the mean of E||grad F(w^t)||^2, weighted by the steps.

    2 gap / (c eta T) + L eta V + 2 L^2 eta^2 V (N - 1), valid for any delays and for
    eta up to `largest_step_d`.

    Args:
      gap: F(w^0) - F*.
      smoothness: L.
      variance: V of one push's gradient.
      step: eta, of a push of weight 1.
      commits: T.
      num_workers: N.
      mean_weight: c of `least_mean_weight`, or the mean of a trace's weights.

    Returns:
      The bound, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.theorem_d(1.0, 1.0, 4.0, 0.5, 8, num_workers=3, mean_weight=0.5)
      7.0

      The three terms are 2 / (0.5 * 0.5 * 8) = 1, 0.5 * 4 = 2 and 2 * 0.25 * 4 * 2 = 4.
    """
    start = 2 * gap / (mean_weight * step * commits)
    noise = smoothness * step * variance
    stale = 2 * smoothness**2 * step**2 * variance * (num_workers - 1)
    return start + noise + stale


def any_delays(
    num_workers: int, concurrency: float, limit: float | None = None
) -> Schedule:
    """Theorem D's constants for `target_step` and `target_commits`.

    In terms of the mean step c eta, as `Schedule` has it: the optimizer's learning rate
    is `target_step` over `mean_step`, which is c. What they promise holds for every
    schedule of the rule.

    Args:
      num_workers: N.
      concurrency: C, above 0.
      limit: l, above 0; C if None.

    Returns:
      A `Schedule` of floats, whose `tau_max` is inf.

    Example:
      >>> from abs_dssp import theory
      >>> rule = theory.any_delays(num_workers=2, concurrency=1)
      >>> eta = theory.target_step(1.0, 4.0, 8.0, rule) / rule.mean_step
      >>> float(eta)  # 0.5 * 4 + 2 * 0.25 * 4 = 8 / 2, at the largest step
      0.5
    """
    mean = float(least_mean_weight(num_workers, concurrency, limit))
    others = float(num_workers - 1)
    return Schedule(
        kappa_1=1 / mean,
        tau_max=float("inf"),
        tau_bar=others,
        square=float(_square(num_workers, concurrency, limit)),
        noise=others / mean**2,
        mean_step=mean,
    )


def _square(num_workers, concurrency, limit):
    """S^2 = M (N - 1): N - 1 pushes cover a round, and each has rho tau <= M."""
    reach = concurrency if limit is None else jnp.maximum(concurrency, limit)
    return reach * (num_workers - 1)
