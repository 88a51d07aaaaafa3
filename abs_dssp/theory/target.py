"""Theorem A turned round: the step and the time that reach a target.

Target: mean over rounds of E||grad F||^2 at most eps. Half of eps goes to the start
term 2 gap / (eta T), half to the two noise terms. With U = 1 and a whole trace's own
kappa_1, largest staleness and mean staleness in place of the promised ones.
"""

from typing import NamedTuple

import jax.numpy as jnp

from abs_dssp.history.traces import Trace
from abs_dssp.theory import convergence, measured


class Schedule(NamedTuple):
    """What Theorem A asks of a schedule."""

    kappa_1: float  # mean of 1 / K_t
    tau_max: float  # largest staleness of an applied push, in versions
    tau_bar: float  # mean over rounds of the mean staleness of a round
    k_min: float = 1.0  # pushes in a commit, of which tau_bar is the mean


def schedule_of(trace: Trace) -> Schedule:
    """The constants that a trace really had.

    Returns:
      A `Schedule`, with 1 / kappa_1 in the place of the least K_t: one short commit at
      the end of a run, or after a death, is not a property of the rule.
    """
    kappa_1 = measured.kappa_1(trace)
    return Schedule(
        kappa_1,
        float(measured.effective_tau(trace)),
        measured.measured_tau_bar(trace),
        1 / kappa_1,
    )


def target_step(smoothness, variance, target, schedule: Schedule):
    """The largest step of Theorem A whose noise terms sum to at most eps / 2.

    Args:
      smoothness: L.
      variance: V of one push's gradient.
      target: eps.
      schedule: its constants; scalars or arrays that broadcast.
    """
    kappa_1, tau_max, tau_bar, k_min = schedule
    linear = smoothness * variance * kappa_1
    square = 2 * smoothness**2 * variance * tau_bar / k_min
    # The positive root of square eta^2 + linear eta = eps / 2, stable for square = 0.
    root = jnp.sqrt(linear**2 + 2 * square * target)
    noisy = target / jnp.maximum(linear + root, 1e-30)
    width = jnp.sqrt(tau_max * tau_bar)
    return jnp.minimum(noisy, convergence.largest_step_a(smoothness, width))


def target_commits(gap, step, target):
    """Commits that suffice at `target_step`: T = 4 gap / (eta eps)."""
    return 4 * gap / (step * target)
