"""What the DSSP paper says of its Figure 3, beside what was measured."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from abs_dssp.experiment import statistics, verdicts
from abs_dssp.experiment.reproduction import papers, study
from abs_dssp.experiment.reproduction.runs import Outcome
from abs_dssp.experiment.reproduction.study import Outcomes, finals
from abs_dssp.experiment.statistics import spread, time_text
from abs_dssp.experiment.verdicts import MARGIN
from abs_dssp.report.document import UNTESTED, Claim

_FALLING = ("resnet50", "resnet110")  # networks whose step size falls
_JUMP = 0.1  # of a run, within which an accuracy step is in its place


@dataclasses.dataclass
class Trained:
    """All runs of the figure, by network."""

    made: dict[str, Outcomes] = dataclasses.field(default_factory=dict)
    variants: dict[str, Outcomes] = dataclasses.field(default_factory=dict)
    longer: dict[str, list[Outcome]] = dataclasses.field(default_factory=dict)  # BSP
    titles: dict[str, str] = dataclasses.field(default_factory=dict)  # what was trained


def ssp_names(outcomes: Outcomes) -> list[str]:
    """The SSPs, from the smallest threshold to the largest."""
    return [name for name in outcomes if name.startswith("SSP")]


def check(trained: Trained, targets: Mapping[str, float]) -> list[Claim]:
    """All claims about trained runs.

    Args:
      trained: the runs.
      targets: accuracies that decide who is faster, by network, fixed beforehand.
    """
    claims = [_asp_is_less_accurate(trained)]
    for network, title in trained.titles.items():
        made = trained.made[network]
        claims += [
            is_more_accurate(made, title, _printed(network)),
            is_average(made, title),
            is_faster(made, "BSP", title, targets[network]),
            is_steadier(made, title),
        ]
    for network in _FALLING:
        of = (trained.made[network], network, trained.titles[network])
        claims += [*_stale_is_level(*of), *_jumps(*of)]
    claims.append(_the_clock_matters(trained))
    claims.append(_sums_and_means(trained, "resnet50"))
    return claims


def _asp_is_less_accurate(trained: Trained) -> Claim:
    paper = papers.FIGURE_3["alexnet"]
    sides = (trained.made["alexnet"][name] for name in ("BSP", "ASP"))
    bsp, asp = map(finals, sides)
    return verdicts.claim(
        "ASP ends less accurate than BSP with fully connected layers "
        f"({trained.titles['alexnet']})",
        f"{paper.asp_accuracy:.2f} against {paper.bsp_accuracy:.2f}",
        f"{spread(asp)} against {spread(bsp)}",
        verdicts.above(bsp - asp),
    )


def _printed(network: str) -> str:
    paper = papers.FIGURE_3[network]
    return f"{paper.dssp_accuracy:.3f} against {paper.asp_accuracy:.3f}"


def is_more_accurate(outcomes: Outcomes, title: str, paper: str) -> Claim:
    """DSSP against ASP."""
    sides = outcomes["DSSP"], outcomes["ASP"]
    dssp, asp = map(finals, sides)
    return study.compared(
        f"DSSP ends more accurate than ASP ({title})",
        paper,
        f"{spread(dssp)} against {spread(asp)}",
        sides,
        verdicts.above(dssp - asp),
    )


def is_average(outcomes: Outcomes, title: str) -> Claim:
    """DSSP against the mean over SSP's thresholds."""
    names = ssp_names(outcomes)
    each = np.array([finals(outcomes[name]) for name in names])
    dssp = finals(outcomes["DSSP"])
    others = [outcomes[name] for name in names]
    different = [o for o in others if not study.is_same(outcomes["DSSP"], o)]
    return study.compared(
        f"DSSP's range does as well as the average SSP, up to {MARGIN:g} ({title})",
        "DSSP near or above the average",
        f"DSSP {spread(dssp)}; SSP on average {each.mean():.3f}, from "
        f"{each.mean(axis=1).min():.3f} to {each.mean(axis=1).max():.3f}",
        (outcomes["DSSP"], next(iter(different), others[0])),
        verdicts.above(dssp - each.mean(axis=0) + MARGIN),
    )


def is_faster(
    outcomes: Outcomes,
    rival: str,
    title: str,
    target: float,
    paper: str = "stated for all three networks",
) -> Claim:
    """DSSP against another method, by seconds to a target."""
    sides = outcomes["DSSP"], outcomes[rival]
    own, theirs = (
        time_text(study.times_to(each, target), "{:.1f}", "s") for each in sides
    )
    return study.compared(
        f"DSSP converges faster than {rival}: to {target:.0%} ({title})",
        paper,
        f"{own} against {theirs}",
        sides,
        study.sooner(*sides, target),
    )


def is_steadier(outcomes: Outcomes, title: str) -> Claim:
    """How far DSSP's and BSP's curves are from smooth ones."""
    sides = outcomes["DSSP"], outcomes["BSP"]
    dssp, bsp = (np.array([_unrest(o) for o in each]) for each in sides)
    return study.compared(
        f"DSSP converges more steadily than BSP ({title})",
        "stated, without a number",
        f"{spread(dssp, '{:.4f}')} against {spread(bsp, '{:.4f}')}: deviation of the "
        "accuracy from its smoothed curve, last half of the run",
        sides,
        verdicts.above(bsp - dssp, "{:+.4f}".format),
    )


def is_level(
    one: Sequence[Outcome], bsp: Sequence[Outcome], title: str, paper: str
) -> Claim:
    """A stale paradigm's accuracy at the end against BSP's."""
    own, theirs = finals(one), finals(bsp)
    return verdicts.claim(
        f"{title}: level with BSP, within {2 * MARGIN:g}",
        paper,
        f"{spread(own)} against {spread(theirs)}",
        verdicts.within(own - theirs, 2 * MARGIN),
    )


def _unrest(outcome: Outcome) -> float:
    accuracy = outcome.history.column("accuracy")
    off = (accuracy - statistics.smoothed(accuracy))[len(accuracy) // 2 : -2]
    return float(off.std()) if off.size else float("nan")


def _stale_is_level(outcomes: Outcomes, network: str, title: str) -> list[Claim]:
    paper = papers.FIGURE_3[network]
    printed = {"DSSP": paper.dssp_accuracy, "ASP": paper.asp_accuracy}
    return [
        is_level(
            outcomes[name],
            outcomes["BSP"],
            f"{name} ends ({title})",
            f"{accuracy:.3f} against {paper.bsp_accuracy:.3f}",
        )
        for name, accuracy in printed.items()
    ]


def _jumps(outcomes: Outcomes, network: str, title: str) -> list[Claim]:
    paper = papers.FIGURE_3[network]
    assert paper.stale_jump is not None and paper.bsp_jump is not None
    shares = {
        "DSSP": ("a sixth", paper.stale_jump / paper.dssp_end),
        "BSP": ("two thirds", paper.bsp_jump / paper.bsp_end),
    }
    claims = []
    for name, (words, theirs) in shares.items():
        ours = np.array([_jump(outcome) for outcome in outcomes[name]])
        claims.append(
            verdicts.claim(
                f"{name}'s accuracy step comes at {words} of the run, within "
                f"{_JUMP:g} ({title})",
                f"{theirs:.2f}",
                f"{spread(ours, '{:.2f}')} with drops by server updates",
                verdicts.within(ours - theirs, _JUMP, "{:+.2f}".format),
                "the schedule's clock puts the drops at 0.167 and 0.667 of the run",
            )
        )
    return claims


def _jump(outcome: Outcome) -> float:
    """When accuracy rises most over a tenth of the run, as a share of the run."""
    times = outcome.history.column("seconds")
    curve = statistics.smoothed(outcome.history.column("accuracy"))
    width = max(2, len(curve) // 10)
    skip = len(curve) // 10  # the first steep part
    rises = curve[skip + width :] - curve[skip:-width]
    if not rises.size:
        return float("nan")
    return float(times[skip + int(np.argmax(rises)) + width // 2] / times[-1])


def _the_clock_matters(trained: Trained) -> Claim:
    counted = trained.made["resnet50"]["ASP"]
    by_epoch = trained.variants["resnet50"]["ASP, drops by epoch"]
    ours = f"ASP {spread(finals(counted))} with drops by server updates, "
    ours += f"{spread(finals(by_epoch))} by epoch"
    why = "the paper does not name its clock: ours is a measurement, not a check"
    return Claim("the schedule's clock matters", "not discussed", ours, UNTESTED, why)


def _sums_and_means(trained: Trained, network: str) -> Claim:
    averaged = trained.made[network]["BSP"]
    summed = trained.variants[network]["BSP, pushes summed"]
    claim = f"summed against averaged pushes ({trained.titles[network]})"
    ours = f"BSP {spread(finals(averaged))} averaged, {spread(finals(summed))} summed"
    why = "a sum is a step four times as long, and so the total step of ASP"
    return Claim(claim, "not discussed", ours, UNTESTED, why)
