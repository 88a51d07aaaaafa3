"""What every figure needs: runs over seeds, tuned step sizes, verdicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp.experiment.reproduction.runs import Outcome, Runner
from abs_dssp.experiment.reproduction.scales import Scale
from abs_dssp.experiment.run import Run
from abs_dssp.report import document

Outcomes = dict[str, list[Outcome]]  # by method, one per seed


@dataclasses.dataclass(frozen=True)
class Context:
    """The scale, and where and how runs are made."""

    scale: Scale
    out: Path
    runner: Runner
    ratio: float = 2.6  # of the speeds of Figure 4's two workers

    @property
    def seeds(self) -> range:
        """Seeds of the final runs."""
        return range(self.scale.seeds)

    def folder(self, name: str) -> Path:
        """Where a figure's pictures and report go."""
        path = self.out / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def over_seeds(self, named: Mapping[str, Run], label: str) -> Outcomes:
        """Every run with every seed, by name."""
        wanted = {
            name: [dataclasses.replace(run, seed=seed) for seed in self.seeds]
            for name, run in named.items()
        }
        made = self.runner.execute((r for rs in wanted.values() for r in rs), label)
        return {name: [made[run] for run in rs] for name, rs in wanted.items()}

    def tune(
        self, named: Mapping[str, Run], grid: Sequence[float], label: str
    ) -> tuple[dict[str, float], document.Table]:
        """The best step size of every method, each from the same grid.

        One seed of its own, training data without the validation split, the whole
        length of the run. The best is that with the highest accuracy averaged over the
        evaluations, which favours neither a fast start nor a high end alone.
        """
        held: dict[str, Any] = {"validation": self.scale.validation, "limit_test": None}
        held["seed"] = 1000  # not one of the final runs' seeds
        wanted = {
            (name, rate): dataclasses.replace(run, learning_rate=rate, **held)
            for name, run in named.items()
            for rate in grid
        }
        made = self.runner.execute(wanted.values(), f"{label}, tuning")
        scores = {choice: mean_accuracy(made[run]) for choice, run in wanted.items()}
        chosen = {n: max(grid, key=lambda rate: scores[n, rate]) for n in named}
        table = document.Table(
            f"Step sizes tuned alike: accuracy on {self.scale.validation} validation "
            "samples, averaged over the run, one seed; the best of each row was taken.",
            ["method", *(f"{rate:g}" for rate in grid), "taken"],
            [
                [n, *(f"{scores[n, rate]:.3f}" for rate in grid), f"{chosen[n]:g}"]
                for n in named
            ],
        )
        return chosen, table


def mean_accuracy(outcome: Outcome) -> float:
    """Accuracy averaged over the evaluations; 0 for a run that diverged."""
    if outcome.stopped != "end":
        return 0.0
    return float(outcome.history.column("accuracy").mean())


def under(run: Run, texts: Mapping[str, str]) -> dict[str, Run]:
    """The same run under policies, by name."""
    return {name: dataclasses.replace(run, policy=p) for name, p in texts.items()}


def at_rates(named: Mapping[str, Run], rates: Mapping[str, float]) -> dict[str, Run]:
    """The same runs with step sizes of their own."""
    return {
        name: dataclasses.replace(run, learning_rate=rates[name])
        for name, run in named.items()
    }


def finals(outcomes: Sequence[Outcome]) -> np.ndarray:
    """The final accuracy of every seed."""
    return np.array([outcome.final for outcome in outcomes])


def times_to(
    outcomes: Sequence[Outcome], target: float, column: str = "seconds"
) -> list[float | None]:
    """When each seed reaches the target, in units of `column`; None if it does not."""
    return [outcome.reaching(target, column) for outcome in outcomes]


def verdict(agrees: bool) -> str:
    """`"agrees"` or `"differs"`."""
    return document.AGREES if agrees else document.DIFFERS
