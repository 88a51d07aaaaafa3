"""What was measured: kept from run to run, and as one table per problem."""

import dataclasses
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from abs_dssp import files
from abs_dssp.experiment import outputs
from abs_dssp.experiment.methods import Method
from abs_dssp.experiment.optimality import measure
from abs_dssp.experiment.optimality.measure import Limits, Outcome, Times
from abs_dssp.experiment.optimality.problems import Problem
from abs_dssp.experiment.optimality.regimes import Regime
from abs_dssp.policies import rounds


class Kept:
    """Outcomes by their settings, a line of JSON each: none is measured twice.

    Args:
      path: of the lines.
      published: compressed lines that `publish` wrote earlier, if they are there.
    """

    def __init__(self, path: Path, published: Path | None = None):
        self.path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._wanted: list[str] = []  # keys, in the order they were asked for
        lines = path.read_bytes().splitlines() if path.exists() else []
        if published is not None and published.exists():
            lines += lzma.decompress(published.read_bytes()).splitlines()
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # cut off by an interruption
                continue
            if record.get("rules") == measure.RULES:
                self._known[record["key"]] = record

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
            "growth": rounds.GROWTH,  # of rules by default, and of how steps fall
        }
        key = outputs.digest(settings)
        if key not in self._known:
            made = measure.compete(method, regime, problem, limits)
            record = {"key": key, "rules": measure.RULES} | settings
            record |= {"outcome": dataclasses.asdict(made)}
            outputs.append(self.path, record)
            self._known[key] = record
        self._wanted.append(key)
        return _outcome(self._known[key]["outcome"])

    def publish(self, path: Path) -> None:
        """Writes the outcomes that were asked for to a compressed file."""
        keys = dict.fromkeys(self._wanted)
        lines = [json.dumps(self._known[key]) for key in keys]
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as partial:
            partial.write_bytes(lzma.compress("\n".join(lines).encode()))


def _outcome(record: dict[str, Any]) -> Outcome:
    """Of `dataclasses.asdict`, or what JSON makes of it."""
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
