"""Theorem A solved for the step and the number of commits that reach a target.

The target is a mean over rounds of E||grad F||^2 of at most eps. Half of eps goes to
the start term 2 gap / (eta T), half to the two noise terms. With U = 1, and the
kappa_1, largest and mean staleness of a whole trace in place of guaranteed ones.
"""

from typing import NamedTuple

import jax.numpy as jnp

from abs_dssp.history.traces import Trace
from abs_dssp.theory import convergence, measured
from abs_dssp.theory._types import Numbers, Result

__all__ = ["Schedule", "schedule_of", "target_commits", "target_step"]


class Schedule(NamedTuple):
    """The constants of a schedule in Theorem A; floats, or arrays that broadcast."""

    kappa_1: float  # mean of 1 / K_t
    tau_max: float  # largest staleness of an applied push, in versions
    tau_bar: float  # mean over rounds of a round's mean staleness, in versions
    k_min: float = 1.0  # least K_t, by which tau_bar is divided


def schedule_of(trace: Trace) -> Schedule:
    """The constants that a trace really had.

    Args:
      trace: with one commit at least.

    Returns:
      A `Schedule` of floats, with 1 / kappa_1 in the place of the least K_t: one short
      commit at the end of a run, or after a death, is not a property of the rule.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.0]), 20)
      >>> theory.schedule_of(trace)
      Schedule(kappa_1=0.5, tau_max=0.0, tau_bar=0.0, k_min=2.0)
    """
    kappa_1 = measured.kappa_1(trace)
    tau_max = float(measured.effective_tau(trace))
    return Schedule(kappa_1, tau_max, measured.measured_tau_bar(trace), 1 / kappa_1)


def target_step(
    smoothness: Numbers, variance: Numbers, target: Numbers, schedule: Schedule
) -> Result:
    """The largest step of Theorem A whose noise terms sum to at most eps / 2.

    Args:
      smoothness: L.
      variance: V of one push's gradient.
      target: eps.
      schedule: see `schedule_of`.

    Returns:
      eta, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> fresh = theory.Schedule(kappa_1=0.5, tau_max=0.0, tau_bar=0.0, k_min=2.0)
      >>> float(theory.target_step(1.0, variance=8.0, target=2.0, schedule=fresh))
      0.25

      L eta V kappa_1 = 0.25 * 8 * 0.5 is half of the target.
    """
    kappa_1, tau_max, tau_bar, k_min = schedule
    linear = smoothness * variance * kappa_1
    square = 2 * smoothness**2 * variance * tau_bar / k_min
    # The positive root of square eta^2 + linear eta = eps / 2, stable for square = 0.
    root = jnp.sqrt(linear**2 + 2 * square * target)
    noisy = target / jnp.maximum(linear + root, 1e-30)
    scale = convergence.staleness_scale(tau_max, tau_bar)
    return jnp.minimum(noisy, convergence.largest_step_a(smoothness, scale))


def target_commits(gap: Numbers, step: Numbers, target: Numbers) -> Result:
    """Commits that suffice at `target_step`: T = 4 gap / (eta eps).

    Args:
      gap: F(w^0) - F*.
      step: eta.
      target: eps.

    Returns:
      T, not rounded, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> theory.target_commits(gap=1.0, step=0.25, target=2.0)
      8.0
    """
    return 4 * gap / (step * target)
