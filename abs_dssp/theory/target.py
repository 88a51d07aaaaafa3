"""Theorem A solved for the step and the number of commits that reach a target.

The target is a mean over rounds of E||grad F||^2 of at most eps. Half of eps goes to
the start term 2 gap / (eta T), half to the two noise terms. U = 1. The constants are
those of a whole trace, and so is the guarantee: it is for this trace and its mean over
all its rounds. For another seed, or more pushes of the same rule, the step is a guess.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from abs_dssp.history.traces import Trace
from abs_dssp.theory import convergence, measured
from abs_dssp.theory._types import Numbers, Result
from abs_dssp.theory.lemma_1 import columns

__all__ = ["Schedule", "schedule_of", "target_commits", "target_step"]


class Schedule(NamedTuple):
    """The constants of a schedule in Theorem A; floats, or arrays that broadcast.

    The first four are Lemma 1's. They suffice if they hold for every round; the others
    are sharper and known of a trace only.
    """

    kappa_1: float  # mean of 1 / K_t
    tau_max: float  # largest staleness of an applied push, in versions
    tau_bar: float  # at most this much of 1 / K covers any round, in versions
    k_min: float = 1.0  # least K_t, by which tau_bar is divided
    square: float = float("inf")  # S^2, if below tau_max tau_bar
    noise: float | None = None  # in place of tau_bar / k_min
    mean_step: float = 1.0  # over the largest step of a round

    @property
    def scale(self) -> Result:
        """S, the lesser of what `square` and tau_max tau_bar give."""
        own = convergence.staleness_scale(self.tau_max, self.tau_bar)
        return jnp.minimum(own, jnp.sqrt(jnp.asarray(self.square, float)))

    @property
    def stale_noise(self) -> Result:
        """tau_bar / K_min of Theorem A, or what is known to be less."""
        return self.tau_bar / self.k_min if self.noise is None else self.noise

    def largest_step(self, smoothness: Numbers) -> Result:
        """Theorem A's largest mean step, in the broadcast shape."""
        return self.mean_step * convergence.largest_step_a(smoothness, self.scale)


def schedule_of(trace: Trace, aggregate: str = "mean") -> Schedule:
    """The constants with which Theorem A holds for a trace.

    With "sum" the step of a commit is in proportion to its weight. The constants are
    then those of the weighted theorem (docs/theory.md) in terms of the mean step, and
    the mean over rounds that it bounds is weighted by the steps. Commits without an
    accepted push do not count as rounds.

    Args:
      trace: as for `columns`, with one commit at least.
      aggregate: "mean" or "sum", as in training.

    Returns:
      A `Schedule` of floats.

    Raises:
      ValueError: as `columns`.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.0]), 20)
      >>> theory.schedule_of(trace)[:5]
      (0.5, 0.0, 0.0, 2.0, 0.0)
    """
    found = columns(trace, aggregate)
    moved = found.kappa > 0
    step, kappa = found.step[moved], found.kappa[moved]
    mean = float(step.mean())
    # Every round demands step (x + 2 delayed x^2) <= 1 of the largest step, x / L.
    linear, quadratic = step, 2 * step * found.delayed[moved]
    longest = (2 / (linear + np.sqrt(linear**2 + 4 * quadratic))).min()
    return Schedule(
        kappa_1=float((step**2 * kappa).mean()) / mean**2,
        tau_max=float(measured.effective_tau(trace)),
        tau_bar=float(found.covering.max()),
        k_min=1 / float(kappa.max()),
        square=float((1 - longest) / (2 * longest**2)),  # of which x is the root
        noise=float(found.noise[moved].mean()) / mean**3,
        mean_step=mean,
    )


def target_step(
    smoothness: Numbers, variance: Numbers, target: Numbers, schedule: Schedule
) -> Result:
    """The largest step of Theorem A whose noise terms sum to at most eps / 2.

    After `target_commits` commits or more Theorem A gives eps, if the constants of
    `schedule` hold for these commits: those of `schedule_of` do for its trace.

    Args:
      smoothness: L.
      variance: V of one push's gradient.
      target: eps.
      schedule: see `schedule_of`.

    Returns:
      eta, the mean step of a commit, in the broadcast shape.

    Example:
      >>> from abs_dssp import theory
      >>> fresh = theory.Schedule(kappa_1=0.5, tau_max=0.0, tau_bar=0.0, k_min=2.0)
      >>> float(theory.target_step(1.0, variance=8.0, target=2.0, schedule=fresh))
      0.25

      L eta V kappa_1 = 0.25 * 8 * 0.5 is half of the target.
    """
    linear = smoothness * variance * schedule.kappa_1
    square = 2 * smoothness**2 * variance * schedule.stale_noise
    # The positive root of square eta^2 + linear eta = eps / 2, stable for square = 0.
    root = jnp.sqrt(linear**2 + 2 * square * target)
    noisy = target / jnp.maximum(linear + root, 1e-30)
    return jnp.minimum(noisy, schedule.largest_step(smoothness))


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
