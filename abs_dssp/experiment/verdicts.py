"""Verdicts on claims, by rules that were fixed before any run was looked at.

A claim is about a mean over seeds, and runs that are compared are paired by seed. What
speaks for a claim and against it is two p-values: of the data if its contrary held, and
if it held itself. The smaller of the two takes part in Holm's procedure over all rows
of a report (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979), and
decides where it is below a level after it, 5 % unless the report says so:

    agrees           the contrary of the claim is rejected
    differs          the claim is rejected
    inconclusive     neither is: more seeds, or longer runs, are needed
    by construction  the number was put in, or both sides are one and the same run
    not tested       the paper gives nothing to compare with

A claim of equality is that of a difference below a margin that was named beforehand,
tested from both sides (Schuirmann's two one-sided tests, 1987).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from abs_dssp.report import document
from abs_dssp.report.document import Claim, Section

LEVEL = 0.05
MARGIN = 0.01  # of accuracies that count as level: plots are read off about as well


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What runs say about a claim."""

    effect: float  # mean over the seeds
    low: float  # of the 95 % interval of the mean; not adjusted for many rows
    high: float
    seeds: int
    against_contrary: float  # p-value; small where the claim holds
    against_claim: float  # p-value; small where it does not
    show: Callable[[float], str] = "{:+.3f}".format  # an effect as text

    @property
    def text(self) -> str:
        """Effect, interval and number of seeds."""
        if not self.seeds:
            return "no seed says"
        if not math.isfinite(self.high - self.low):
            return f"{self.show(self.effect)} (n = {self.seeds})"
        low, high = self.show(self.low), self.show(self.high)
        return f"{self.show(self.effect)} [{low}, {high}] (n = {self.seeds})"


def above(
    differences: Sequence[float] | Float[np.ndarray, " S"],
    show: Callable[[float], str] = "{:+.3f}".format,
) -> Evidence:
    """The claim that a mean difference is above 0: Student's test, two-sided.

    Args:
      differences: one per seed; NaN ones are left out.
      show: writes an effect.

    Example:
      >>> found = above([0.010, 0.012, 0.011, 0.009])
      >>> found.text, found.against_contrary < 0.001 < found.against_claim
      ('+0.011 [+0.008, +0.013] (n = 4)', True)
    """
    mean, low, high, seeds = interval(differences)
    below, over = _tails(differences, 0.0)
    return Evidence(
        mean, low, high, seeds, min(1.0, 2 * over), min(1.0, 2 * below), show
    )


def within(
    differences: Sequence[float] | Float[np.ndarray, " S"],
    margin: float,
    show: Callable[[float], str] = "{:+.3f}".format,
) -> Evidence:
    """The claim that a mean difference is nearer to 0 than a margin.

    Args:
      differences: one per seed; NaN ones are left out.
      margin: above 0, named beforehand.
      show: writes an effect.

    Example:
      >>> found = within([0.001, -0.002, 0.000, 0.001], margin=0.01)
      >>> found.against_contrary < 0.001 < found.against_claim
      True
    """
    mean, low, high, seeds = interval(differences)
    _, above_low = _tails(differences, -margin)
    below_high, _ = _tails(differences, margin)
    inside = max(above_low, below_high)
    outside = min(1 - above_low, 1 - below_high)
    if seeds < 2:
        outside = 1.0
    return Evidence(mean, low, high, seeds, inside, outside, show)


def ratio_within(
    ratios: Sequence[float] | Float[np.ndarray, " S"], paper: float, tolerance: float
) -> Evidence:
    """The claim that a ratio is that of the paper, up to a factor of 1 + tolerance.

    Args:
      ratios: ours, one per seed, above 0.
      paper: the paper's.
      tolerance: relative, above 0.

    Example:
      >>> found = ratio_within([1.90, 1.92, 1.91], paper=1.86, tolerance=0.1)
      >>> found.text, found.against_contrary < 0.05
      ('1.910 [1.885, 1.935] (n = 3)', True)
    """
    off = np.log(np.asarray(ratios, float) / paper)
    return within(off, math.log1p(tolerance), lambda e: f"{paper * math.exp(e):.3f}")


def sooner(
    mine: Sequence[float] | Float[np.ndarray, " S"],
    rival: Sequence[float] | Float[np.ndarray, " S"],
) -> Evidence:
    """The claim that one takes less than the other, by the mean logarithmic ratio.

    Args:
      mine: when each seed reached the target; the end of the run where it did not.
      rival: of the other method. A time that is cut off makes the difference smaller
        than it is, and so the verdict no bolder, whichever side it is on.

    Example:
      >>> sooner([10.0, 11.0, 9.0], [20.0, 21.0, 19.0]).effect > math.log(1.9)
      True
    """
    ratio = np.log(np.asarray(rival, float) / np.asarray(mine, float))
    return above(ratio, lambda effect: f"{math.exp(effect):.2f}x")


def exactly(
    holds: bool, effect: float, show: Callable[[float], str] = "{:.3f}".format
) -> Evidence:
    """What has no chance in it, such as a schedule with constant times."""
    p = (0.0, 1.0) if holds else (1.0, 0.0)
    return Evidence(effect, -math.inf, math.inf, 1, *p, show)


def interval(
    values: Sequence[float] | Float[np.ndarray, " S"],
) -> tuple[float, float, float, int]:
    """Mean, 95 % interval of the mean by Student's t, and number of values.

    Example:
      >>> [round(x, 2) for x in interval([1.0, 2.0, 3.0])]
      [2.0, -0.48, 4.48, 3]
    """
    values = _known(values)
    mean = float(values.mean()) if values.size else math.nan
    if len(values) < 2:
        return mean, -math.inf, math.inf, len(values)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half, len(values)


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def judged(sections: Sequence[Section], level: float = LEVEL) -> list[Section]:
    """The sections of a report with every claim's evidence turned into a verdict.

    Claims whose verdict is known (by construction, not tested) stay as they are and
    take no part in Holm's procedure.

    Args:
      sections: with claims.
      level: that p-values must be below, after the procedure.
    """
    open_ = [c for s in sections for c in s.claims if c.evidence is not None]
    best = [min(c.evidence.against_contrary, c.evidence.against_claim) for c in open_]
    said = {
        id(claim): _word(claim.evidence, adjusted, level)
        for claim, adjusted in zip(open_, holm(best), strict=True)
    }
    return [
        dataclasses.replace(
            section,
            claims=[
                dataclasses.replace(c, verdict=said[id(c)]) if id(c) in said else c
                for c in section.claims
            ],
        )
        for section in sections
    ]


def claim(
    text: str, paper: str, ours: str, evidence: Evidence, reason: str = ""
) -> Claim:
    """A row of the report whose verdict `judged` finds."""
    return Claim(text, paper, ours, "", reason, evidence.text, evidence)


def _word(evidence: Evidence, adjusted: float, level: float) -> str:
    if not adjusted < level:
        return document.INCONCLUSIVE
    holds = evidence.against_contrary < evidence.against_claim
    return document.AGREES if holds else document.DIFFERS


def _known(values) -> Float[np.ndarray, " S"]:
    values = np.asarray(values, float)
    return values[~np.isnan(values)]


def _tails(values, point: float) -> tuple[float, float]:
    """P-values of a mean at most, and at least, as large as this one.

    If the true mean were `point`: the first is small for means far below it, the
    second for those far above. 1 where there are too few values to say.
    """
    values = _known(values)
    if len(values) < 2:
        return 1.0, 1.0
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    distance = float(values.mean()) - point
    if error == 0:
        return float(distance >= 0), float(distance <= 0)
    t, freedom = distance / error, len(values) - 1
    return float(stats.t.cdf(t, freedom)), float(stats.t.sf(t, freedom))
