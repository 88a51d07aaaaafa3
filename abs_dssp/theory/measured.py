"""The constants of the theorems: what a policy guarantees, or what a trace shows."""

import math
from typing import NamedTuple

import numpy as np

from abs_dssp import policies
from abs_dssp.history import traces
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy
from abs_dssp.theory import convergence

__all__ = ["Promise", "promise", "step_size"]
__all__ += ["effective_tau", "kappa_1", "measured_tau_bar"]


class Promise(NamedTuple):
    """What a policy guarantees for every schedule."""

    k_min: int  # least pushes in a commit, unless nobody else computes
    tau_max: float  # staleness of an applied push, in versions; inf if unbounded
    batch: bool  # whether pushers are released within a round


def effective_tau(trace: Trace) -> int:
    """Largest staleness of an accepted push: the tau_max that a run really had.

    Args:
      trace: of a run, real or virtual.

    Returns:
      Versions; 0 where no push was accepted.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.asp(3), delays.constant([1.0] * 3), 30)
      >>> theory.effective_tau(trace)  # the two others push in between
      2
    """
    return int(trace.staleness[trace.accepted].max(initial=0))


def measured_tau_bar(trace: Trace) -> float:
    """Mean over commits of the mean staleness of their accepted pushes.

    Lemma 1 bounds it by `tau_bar`, for which it is no substitute: a step needs what
    holds in every round, `measured_scale`.

    Args:
      trace: of a run, real or virtual.

    Returns:
      Versions; 0 without a commit.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.asp(2), delays.constant([1.0] * 2), 20)
      >>> theory.measured_tau_bar(trace)  # 0 for the first commit, 1 for 19 others
      0.95
    """
    rounds, staleness = _rounds(trace)
    if not rounds.size:
        return 0.0
    count = np.bincount(rounds)
    total = np.bincount(rounds, weights=staleness)
    known = count > 0
    return float(np.mean(total[known] / count[known]))


def kappa_1(trace: Trace) -> float:
    """Mean over commits of 1 / K_t, K_t the accepted pushes of commit t.

    With unequal weights, sum(w^2) / sum(w)^2 stands for 1 / K_t: the factor by which
    averaging reduces variance.

    Args:
      trace: of a run, real or virtual.

    Returns:
      A number in 0..1; NaN without a commit.

    Example:
      >>> from abs_dssp import delays, policies, simulate, theory
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0] * 2), 20)
      >>> theory.kappa_1(trace)
      0.5
    """
    rounds, _ = _rounds(trace)
    if not rounds.size:
        return math.nan
    weight = trace.weight[trace.accepted][: len(rounds)].astype(float)
    total = np.bincount(rounds, weights=weight)
    squares = np.bincount(rounds, weights=weight**2)
    known = total > 0
    return float(np.mean(squares[known] / total[known] ** 2))


def _rounds(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Commit number and staleness of every accepted push that was committed."""
    traces.require_one_history("theory", trace)
    commit = np.cumsum(trace.committed) - trace.committed  # the version on arrival
    accepted = trace.accepted & (commit < trace.commits)
    return commit[accepted].astype(int), trace.staleness[accepted].astype(float)


def promise(policy: Policy | str, num_workers: int) -> Promise:
    """What a policy guarantees: the constants for Theorems A and B.

    Pushes are counted: if those of a commit have unequal weights, as under `weighted`,
    kappa_1 may exceed 1 / k_min.

    Args:
      policy: a policy, or its text.
      num_workers: N.

    Returns:
      A `Promise`, read from the policy's properties.

    Raises:
      ValueError: for a rule that states no least number of pushes in a commit.
    """
    if isinstance(policy, str):
        policy = policies.parse(policy, num_workers)
    properties = policy.properties
    k_min = 1 if properties.commits_every_push else properties.min_commit
    if k_min is None:
        raise ValueError(
            "theory.promise: nothing is known of a commit's size under "
            f"{policies.describe(policy)!r}; give k_min and tau_max to the theorems "
            "yourself."
        )
    stalest = properties.max_staleness
    return Promise(
        int(k_min), math.inf if stalest is None else int(stalest), not properties.waits
    )


def step_size(
    policy: Policy | str,
    num_workers: int,
    *,
    smoothness: float,
    local_steps: int = 1,
    gap: float | None = None,
    variance: float | None = None,
    rounds: int | None = None,
    tau_max: float | None = None,
) -> float:
    """A step size with a guarantee, by Theorem A (U = 1) or Theorem B (U > 1).

    It holds for every schedule of the policy, or for those within `tau_max`, if the
    pushes of a commit weigh the same and nobody leaves. It is a step along gradients:
    where displacements are pushed see `effective_steps`.

    Without `gap`, `variance` and `rounds` it is the largest step that the theorem
    allows. With them it is the minimiser of the two leading terms,
    sqrt(2 gap K / (L V T U)), or the largest step, whichever is less.

    Args:
      policy: a policy, or its text.
      num_workers: N.
      smoothness: L.
      local_steps: U.
      gap: F(w^0) - F*.
      variance: V of one gradient.
      rounds: T, the number of commits.
      tau_max: a bound on the staleness in versions to use instead of the policy's own;
        needed where it has none, as ASP. `effective_tau` measures one.

    Returns:
      eta, the server's step per gradient.

    Raises:
      ValueError: if the policy bounds no staleness and `tau_max` is not given.

    Example:
      >>> from abs_dssp import theory
      >>> theory.step_size("bsp()", 4, smoothness=2.0)  # 1 / L: nothing is stale
      0.5
    """
    known = promise(policy, num_workers)
    bound = known.tau_max if tau_max is None else tau_max
    if math.isinf(bound):
        text = policy if isinstance(policy, str) else policies.describe(policy)
        raise ValueError(
            f"step_size: {text} bounds no staleness; give tau_max, such as "
            "effective_tau of a trace."
        )
    mean = convergence.tau_bar(bound, num_workers, known.k_min, known.batch)
    scale = convergence.staleness_scale(bound, mean)
    largest = float(convergence.largest_step_a(smoothness, scale))
    if local_steps > 1:
        largest = float(convergence.largest_step_b(smoothness, scale, local_steps))
    if gap is None or variance is None or rounds is None or variance <= 0:
        return largest
    noise = smoothness * variance * rounds * local_steps
    return min(largest, math.sqrt(2 * gap * known.k_min / noise))
