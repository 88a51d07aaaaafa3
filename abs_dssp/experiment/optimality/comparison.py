"""What was measured: kept from run to run, and as one table per problem."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from abs_dssp.experiment import outputs
from abs_dssp.experiment.methods import Method
from abs_dssp.experiment.optimality import measure
from abs_dssp.experiment.optimality.measure import Limits, Outcome, Times
from abs_dssp.experiment.optimality.problems import Problem
from abs_dssp.experiment.optimality.regimes import Regime


class Kept:
    """Outcomes by their settings, a line of JSON each: none is measured twice."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, Outcome] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:  # cut off by an interruption
                continue
            if record.get("rules") == measure.RULES:
                self._known[record["key"]] = _outcome(record["outcome"])

    def get(
        self, method: Method, regime: Regime, problem: Problem, limits: Limits
    ) -> Outcome:
        """See `measure.compete`."""
        settings = {
            "who": [method.text, method.aggregate, method.label],
            "where": regime.label,
            "problem": problem.label,
            "ratio": problem.ratio,
            "n": limits.num_workers,
            "target": problem.target,
            "seeds": limits.seeds,
            "limit": limits.max_pushes,
        }
        key = outputs.digest(settings)
        if key not in self._known:
            made = measure.compete(method, regime, problem, limits)
            record = {"key": key, "rules": measure.RULES} | settings
            outputs.append(self.path, record | {"outcome": dataclasses.asdict(made)})
            self._known[key] = made
        return self._known[key]


def _outcome(record: dict[str, Any]) -> Outcome:
    """Of `dataclasses.asdict`, as JSON gives it back."""
    times = {
        name: Times(**{kind: tuple(v) for kind, v in record[name].items()})
        for name in ("recommended", "best")
    }
    return Outcome(**(record | times))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every method in every regime, on one problem."""

    problem: Problem
    limits: Limits
    methods: Sequence[Method]
    regimes: Sequence[Regime]
    outcomes: dict[tuple[str, str], Outcome]  # by the labels of method and regime

    @property
    def labels(self) -> list[str]:
        """Of the methods, in order."""
        return [method.label for method in self.methods]

    @property
    def columns(self) -> list[str]:
        """Labels of the regimes, in order."""
        return [regime.label for regime in self.regimes]

    def means(self, which: str) -> np.ndarray:
        """Mean sustained seconds (methods, regimes), `which` as for `Outcome.at`."""
        rows = [
            [self.outcomes[a, b].at(which).mean for b in self.columns]
            for a in self.labels
        ]
        return np.array(rows)

    def relative(self, which: str) -> np.ndarray:
        """`means` over those of the regime's best method."""
        means = self.means(which)
        return means / means.min(axis=0)

    def rank_correlation(self, predicted: str, which: str) -> list[float]:
        """Spearman's, of a prediction with the measured times, by regime.

        Args:
          predicted: `predicted` or `guessed`.
          which: see `means`. Methods that did not get there are the last, level.
        """
        means = np.minimum(self.means(which), 1e30)
        found = []
        for place, own in enumerate(self._predictions(predicted)):
            known = np.isfinite(own)
            ranks = stats.spearmanr(own[known], means[known, place])
            found.append(float(ranks.statistic))
        return found

    def followed(self, predicted: str, which: str) -> list[float]:
        """What the method that is predicted to be the fastest takes, over the best, by
        regime; the arguments are those of `rank_correlation`."""
        relative = self.relative(which)
        return [
            float(relative[np.nanargmin(own), place])
            for place, own in enumerate(self._predictions(predicted))
        ]

    def _predictions(self, name: str) -> list[np.ndarray]:
        """Of the methods, by regime."""
        return [
            np.array([getattr(self.outcomes[a, b], name) for a in self.labels])
            for b in self.columns
        ]
