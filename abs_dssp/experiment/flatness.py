"""How far methods are from what no method can beat, on the chain where it is exact.

On `tasks.zero_chain` a lower bound holds without a constant: `theory.discovery_time`.
A method that is good for all worker times is as many times above it in one regime as in
another: flat. How high that is tells what the method gives away everywhere.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks, theory
from abs_dssp.experiment.optimality import regimes
from abs_dssp.report.document import Table

_SMOOTHNESS = 152.0  # of the chain, by arXiv 1912.02365
_TARGET = 1.0  # squared gradient norm that only a whole chain goes below
_POINTS = 1000  # evaluations of a run


@dataclasses.dataclass(frozen=True)
class Contest:
    """One chain, N workers, and how much is tried."""

    num_workers: int = 32
    length: int = 20
    probability: float = 0.1
    steps: tuple[float, ...] = (1, 2, 4, 8, 16)  # in units of 1 / L
    seeds: int = 3
    max_pushes: int = 100_000

    def methods(self) -> dict[str, str]:
        """Policies by label; a batch of 3 / p shows something nearly always."""
        n, batch = self.num_workers, math.ceil(3 / self.probability)
        return {
            "BSP": "bsp()",
            "ASP": "asp()",
            f"m-sync, m = {n // 2}": f"m_sync(m={n // 2})",
            "DSSP, 3 to 15": "dssp()",
            f"ABS, K0 = {n // 2}": f"abs(k0={n // 2})",
            f"Rennala, S = {batch}": f"rennala(batch_size={batch})",
            f"K-batch-sync, K = {batch}": f"k_batch_sync(k={batch})",
            f"Ringmaster, R = {batch}": f"ringmaster(threshold={batch})",
            "abs_dssp": f"abs_dssp(noise={batch})",
        }

    def regimes(self) -> dict[str, np.ndarray]:
        """Seconds per gradient, (N,), by label."""
        return regimes.fixed_times(self.num_workers)


def over_bound(contest: Contest, text: str, times: np.ndarray) -> float:
    """Mean time to the end of the chain over the bound, at the best of the steps.

    Args:
      contest: chain and sizes.
      text: of the policy; commits take the mean of their pushes.
      times: h_i, (N,) seconds per gradient.

    Returns:
      The ratio; inf where no step gets there with every seed.
    """
    n = contest.num_workers
    task = tasks.zero_chain(n, length=contest.length, probability=contest.probability)
    policy = policies.parse(text, n)
    trace = simulate.schedule(policy, delays.constant(times), contest.max_pushes)
    made = replay.sweep(
        task,
        optimizers.sgd,
        [np.array(contest.steps) / _SMOOTHNESS],
        trace,
        range(contest.seeds),
        eval_every_commits=max(1, trace.commits // _POINTS),
    )
    done = made.measures["gradient_norm_squared"] <= _TARGET
    reached = np.where(done.any(-1), made.seconds[done.argmax(-1)], math.inf)
    means = reached.mean(axis=1)
    bound = theory.discovery_time(times, contest.probability, contest.length)
    return float(min(means)) / bound


def table(contest: Contest, found: Mapping[str, Sequence[float]]) -> Table:
    """One row per method.

    Args:
      contest: chain and sizes.
      found: `over_bound` of every regime, by the method's label.
    """
    regimes = contest.regimes()
    bounds = [
        theory.discovery_time(times, contest.probability, contest.length)
        for times in regimes.values()
    ]
    rows = [["the bound, in seconds", *(f"{bound:.1f}" for bound in bounds), ""]]
    for label, ratios in found.items():
        shown = [f"{ratio:.1f}" if math.isfinite(ratio) else "-" for ratio in ratios]
        flat = max(ratios) / min(ratios)
        rows.append([label, *shown, f"{flat:.1f}" if math.isfinite(flat) else "-"])
    return Table(
        f"Time to the end of the chain over the bound, p = {contest.probability:g}; "
        f"{contest.num_workers} workers, {contest.length} coordinates, mean of "
        f"{contest.seeds} runs at the best of the same {len(contest.steps)} steps. "
        "`-`: not within the pushes that were allowed.",
        ["", *regimes, "largest / least"],
        rows,
    )
