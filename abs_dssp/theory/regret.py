"""Regret of SSP and DSSP on convex losses, in the setting of Ho et al. (NIPS 2013).

P workers make T updates in all, which are summed and not averaged. The reference order
is round-robin, t = c P + p, and the step eta_t = sigma / sqrt(t) is indexed by it, not
by arrival. A worker at clock c sees every update of clocks up to c - s - 1, all of its
own, and any others. Losses are convex, gradients at most L long, and the reference
iterates stay within ||x - x*||^2 / 2 <= F^2, a hypothesis to be checked after a run.
Symbols: `radius` = F, `lipschitz` = L, `workers` = P, `updates` = T.
"""

import jax.numpy as jnp


def regret_step(radius, lipschitz, s, workers):
    """sigma = F / (L sqrt(2 (s + 1) P)), of the step sigma / sqrt(t)."""
    return radius / (lipschitz * jnp.sqrt(2.0 * (s + 1) * workers))


def ssp_regret(radius, lipschitz, s, workers, updates):
    """The DSSP paper's Theorem 1 (after Ho et al.): 4 F L sqrt(2 (s + 1) P T)."""
    return 4 * radius * lipschitz * jnp.sqrt(2.0 * (s + 1) * workers * updates)


def dssp_regret(radius, lipschitz, s_upper, workers, updates):
    """The DSSP paper's Theorem 2: Theorem 1 with s = s_U.

    Holds for the bounded variant. The printed pseudo-code breaks its premise, and
    there are losses for which its regret grows linearly.
    """
    return ssp_regret(radius, lipschitz, s_upper, workers, updates)


def missing_updates(s, workers):
    """M = (2 s + 1) (P - 1): updates by which a view may differ from the reference."""
    return (2 * s + 1) * (workers - 1)


def theorem_c_general(radius, lipschitz, s, workers, updates, sigma):
    """Theorem C for any sigma: sqrt(T) (F^2 / sigma + sigma L^2 (1 + 2 M))."""
    missing = missing_updates(s, workers)
    inner = radius**2 / sigma + sigma * lipschitz**2 * (1 + 2 * missing)
    return jnp.sqrt(1.0 * updates) * inner


def theorem_c(radius, lipschitz, s, workers, updates):
    """Theorem C at `regret_step`: F L sqrt(2 kappa T) (1 + (1/2 + M) / kappa).

    kappa = (s + 1) P; always below 3 F L sqrt(2 kappa T), so below Theorem 1's bound.
    """
    kappa = (s + 1) * workers
    missing = missing_updates(s, workers)
    return (
        radius * lipschitz * jnp.sqrt(2.0 * kappa * updates)
        * (1 + (0.5 + missing) / kappa)
    )  # fmt: skip
