"""Regret of SSP and DSSP on convex losses, in the setting of Ho et al. (NIPS 2013).

P workers make T updates in all, which are summed and not averaged. The reference order
is round-robin, t = c P + p, and the step eta_t = sigma / sqrt(t) is indexed by it, not
by arrival. A worker at clock c sees every update of clocks up to c - s - 1, all of its
own, and any others. Losses are convex, gradients at most L long, and the reference
iterates stay within ||x - x*||^2 / 2 <= F^2, a hypothesis to be checked after a run.

Symbols, everywhere: `radius` = F, `lipschitz` = L, `s` = the largest lead in clocks,
`workers` = P, `updates` = T. Each is a number or an array; the arguments of a call
broadcast.

Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server", NIPS 2013. The DSSP paper: Zhao et al., "Dynamic Stale Synchronous Parallel
Distributed Training for Deep Learning", ICDCS 2019 (https://arxiv.org/abs/1908.11848).
"""

import jax.numpy as jnp

from abs_dssp.theory._types import Numbers, Result

__all__ = ["regret_step", "missing_updates", "ssp_regret", "dssp_regret"]
__all__ += ["theorem_c", "theorem_c_general"]


def regret_step(
    radius: Numbers, lipschitz: Numbers, s: Numbers, workers: Numbers
) -> Result:
    """sigma = F / (L sqrt(2 (s + 1) P)), of the step eta_t = sigma / sqrt(t).

    Args:
      radius: F.
      lipschitz: L.
      s: the largest lead, in clocks.
      workers: P.

    Returns:
      sigma, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.regret_step(radius=1.0, lipschitz=1.0, s=1, workers=4))
      0.25
    """
    return radius / (lipschitz * jnp.sqrt(2.0 * (s + 1) * workers))


def ssp_regret(
    radius: Numbers, lipschitz: Numbers, s: Numbers, workers: Numbers, updates: Numbers
) -> Result:
    """The DSSP paper's Theorem 1 (after Ho et al.): 4 F L sqrt(2 (s + 1) P T).

    Args:
      radius: F.
      lipschitz: L.
      s: SSP's threshold, in clocks.
      workers: P.
      updates: T.

    Returns:
      The bound on the sum of f_t(x_t) - f_t(x*), in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.ssp_regret(1.0, 1.0, s=1, workers=2, updates=8))  # 4 sqrt(64)
      32.0
    """
    return 4 * radius * lipschitz * jnp.sqrt(2.0 * (s + 1) * workers * updates)


def dssp_regret(
    radius: Numbers,
    lipschitz: Numbers,
    s_upper: Numbers,
    workers: Numbers,
    updates: Numbers,
) -> Result:
    """The DSSP paper's Theorem 2: `ssp_regret` with s = s_U.

    It holds for the bounded variant. The printed pseudo-code breaks its premise, and
    there are losses for which its regret grows linearly.

    Args:
      radius: F.
      lipschitz: L.
      s_upper: s_U, DSSP's upper threshold, in clocks.
      workers: P.
      updates: T.

    Returns:
      The bound, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.dssp_regret(1.0, 1.0, s_upper=1, workers=2, updates=8))
      32.0
    """
    return ssp_regret(radius, lipschitz, s_upper, workers, updates)


def missing_updates(s: Numbers, workers: Numbers) -> Numbers:
    """M = (2 s + 1) (P - 1): updates by which a view may differ from the reference.

    Args:
      s: the largest lead, in clocks.
      workers: P.

    Returns:
      M, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.missing_updates(s=1, workers=3)
      6
    """
    return (2 * s + 1) * (workers - 1)


def theorem_c_general(
    radius: Numbers,
    lipschitz: Numbers,
    s: Numbers,
    workers: Numbers,
    updates: Numbers,
    sigma: Numbers,
) -> Result:
    """Theorem C for any sigma: sqrt(T) (F^2 / sigma + sigma L^2 (1 + 2 M)).

    Args:
      radius: F.
      lipschitz: L.
      s: the largest lead, in clocks.
      workers: P.
      updates: T.
      sigma: of the step eta_t = sigma / sqrt(t).

    Returns:
      The bound on the regret, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.theorem_c_general(1.0, 1.0, 0, 2, 4, sigma=1.0))  # 2 (1 + 3)
      8.0
    """
    missing = missing_updates(s, workers)
    inner = radius**2 / sigma + sigma * lipschitz**2 * (1 + 2 * missing)
    return jnp.sqrt(1.0 * updates) * inner


def theorem_c(
    radius: Numbers, lipschitz: Numbers, s: Numbers, workers: Numbers, updates: Numbers
) -> Result:
    """Theorem C at `regret_step`: F L sqrt(2 kappa T) (1 + (1/2 + M) / kappa).

    kappa = (s + 1) P. The bound is always below 3 F L sqrt(2 kappa T), hence below
    that of Theorem 1.

    Args:
      radius: F.
      lipschitz: L.
      s: the largest lead, in clocks.
      workers: P.
      updates: T.

    Returns:
      The bound on the regret, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> float(theory.theorem_c(1.0, 1.0, s=0, workers=2, updates=4))  # 4 (1 + 3/4)
      7.0
    """
    kappa = (s + 1) * workers
    excess = (0.5 + missing_updates(s, workers)) / kappa
    return radius * lipschitz * jnp.sqrt(2.0 * kappa * updates) * (1 + excess)
