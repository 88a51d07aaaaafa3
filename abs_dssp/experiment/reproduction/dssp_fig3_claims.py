"""What the DSSP paper says of its Figure 3, beside what was measured."""

import dataclasses

import numpy as np

from abs_dssp.experiment import statistics, verdicts
from abs_dssp.experiment.reproduction import papers, study
from abs_dssp.experiment.reproduction.runs import Outcome
from abs_dssp.experiment.reproduction.study import Outcomes, finals
from abs_dssp.experiment.statistics import spread, time_text
from abs_dssp.experiment.verdicts import MARGIN
from abs_dssp.report.document import UNTESTED, Claim

TITLES = {"alexnet": "AlexNet", "resnet50": "ResNet-50", "resnet110": "ResNet-110"}
_FALLING = ("resnet50", "resnet110")  # networks whose step size falls
_JUMP = 0.1  # of a run, within which an accuracy step is in its place


@dataclasses.dataclass
class Trained:
    """All runs of the figure, by network."""

    plain: dict[str, Outcomes] = dataclasses.field(default_factory=dict)
    tuned: dict[str, Outcomes] = dataclasses.field(default_factory=dict)
    variants: dict[str, Outcomes] = dataclasses.field(default_factory=dict)
    rough: Outcomes = dataclasses.field(default_factory=dict)  # of ResNet-50 alone

    @property
    def by_network(self) -> tuple[dict[str, Outcomes], ...]:
        """The kinds of runs that every network has."""
        return self.plain, self.tuned, self.variants


def ssp_names(outcomes: Outcomes) -> list[str]:
    """The SSPs, from the smallest threshold to the largest."""
    return [name for name in outcomes if name.startswith("SSP")]


def check(trained: Trained, target: float) -> list[Claim]:
    """All claims about trained runs.

    Args:
      trained: the runs.
      target: accuracy that decides who is faster, fixed beforehand.
    """
    claims = [_asp_is_less_accurate(trained)]
    for network, title in TITLES.items():
        plain = trained.plain[network]
        claims += [
            _dssp_is_more_accurate(plain, network),
            _dssp_is_average(plain, title),
            _dssp_is_faster(plain, title, target),
            _dssp_is_more_stable(plain, title),
        ]
    claims += _dssp_is_average_where_thresholds_act(trained.rough)
    for network in _FALLING:
        claims += _stale_is_level(trained.plain[network], network)
        claims += _jumps(trained.plain[network], network)
    claims.append(_the_clock_matters(trained))
    claims += [_sums_and_means(trained, n) for n in ("alexnet", "resnet50")]
    return claims


def _asp_is_less_accurate(trained: Trained) -> Claim:
    paper = papers.FIGURE_3["alexnet"]
    bsp, asp = (finals(trained.plain["alexnet"][name]) for name in ("BSP", "ASP"))
    tuned = trained.tuned["alexnet"]
    tuned_bsp, tuned_asp = (finals(tuned[name]) for name in ("BSP", "ASP"))
    return verdicts.claim(
        "ASP ends less accurate than BSP with fully connected layers",
        f"{paper.asp_accuracy:.2f} against {paper.bsp_accuracy:.2f}",
        f"{spread(asp)} against {spread(bsp)} untuned; tuned "
        f"{spread(tuned_asp)} against {spread(tuned_bsp)}",
        verdicts.above(tuned_bsp - tuned_asp),
        "judged by the tuned runs; at the small untuned step ASP's four times as "
        "many updates count for more than their staleness of 3",
    )


def _dssp_is_more_accurate(outcomes: Outcomes, network: str) -> Claim:
    paper = papers.FIGURE_3[network]
    sides = outcomes["DSSP"], outcomes["ASP"]
    dssp, asp = map(finals, sides)
    return study.compared(
        f"DSSP is more accurate than ASP ({TITLES[network]})",
        f"{paper.dssp_accuracy:.3f} against {paper.asp_accuracy:.3f}",
        f"{spread(dssp)} against {spread(asp)}",
        sides,
        verdicts.above(dssp - asp),
    )


def _dssp_is_average(outcomes: Outcomes, title: str) -> Claim:
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


def _dssp_is_faster(outcomes: Outcomes, title: str, target: float) -> Claim:
    sides = outcomes["DSSP"], outcomes["BSP"]
    dssp, bsp = (time_text(study.times_to(each, target), "{:.1f}") for each in sides)
    return study.compared(
        f"DSSP converges faster than BSP: to {target:.0%} ({title})",
        "stated for all three networks",
        f"{dssp} s against {bsp} s",
        sides,
        study.sooner(*sides, target),
    )


def _dssp_is_more_stable(outcomes: Outcomes, title: str) -> Claim:
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


def _unrest(outcome: Outcome) -> float:
    accuracy = outcome.history.column("accuracy")
    off = (accuracy - statistics.smoothed(accuracy))[len(accuracy) // 2 : -2]
    return float(off.std()) if off.size else float("nan")


def _dssp_is_average_where_thresholds_act(rough: Outcomes) -> list[Claim]:
    dssp = finals(rough["DSSP"])
    return [
        study.compared(
            f"DSSP's range does as well as {name}, up to {MARGIN:g} (ResNet-50, jitter "
            "of 60 %)",
            "DSSP near or above the average",
            f"{spread(dssp)} against {spread(finals(rough[name]))}",
            (rough["DSSP"], rough[name]),
            verdicts.above(dssp - finals(rough[name]) + MARGIN),
            "thresholds act here",
        )
        for name in ssp_names(rough)
    ]


def _stale_is_level(outcomes: Outcomes, network: str) -> list[Claim]:
    paper = papers.FIGURE_3[network]
    printed = {"DSSP": paper.dssp_accuracy, "ASP": paper.asp_accuracy}
    bsp = finals(outcomes["BSP"])
    return [
        verdicts.claim(
            f"{name} ends level with BSP, within {2 * MARGIN:g} ({TITLES[network]})",
            f"{accuracy:.3f} against {paper.bsp_accuracy:.3f}",
            f"{spread(finals(outcomes[name]))} against {spread(bsp)}",
            verdicts.within(finals(outcomes[name]) - bsp, 2 * MARGIN),
        )
        for name, accuracy in printed.items()
    ]


def _jumps(outcomes: Outcomes, network: str) -> list[Claim]:
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
                f"{_JUMP:g} ({TITLES[network]})",
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
    counted = trained.plain["resnet50"]["ASP"]
    by_epoch = trained.variants["resnet50"]["ASP, drops by epoch"]
    ours = f"ASP {spread(finals(counted))} with drops by server updates, "
    ours += f"{spread(finals(by_epoch))} by epoch"
    why = "the paper does not name its clock: ours is a measurement, not a check"
    return Claim("the schedule's clock matters", "not discussed", ours, UNTESTED, why)


def _sums_and_means(trained: Trained, network: str) -> Claim:
    averaged = trained.plain[network]["BSP"]
    summed = trained.variants[network]["BSP, pushes summed"]
    claim = f"summed against averaged pushes ({TITLES[network]})"
    ours = f"BSP {spread(finals(averaged))} averaged, {spread(finals(summed))} summed"
    why = "a sum is a step four times as long, and so the total step of ASP"
    return Claim(claim, "not discussed", ours, UNTESTED, why)
