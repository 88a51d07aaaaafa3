"""DSSP where its thresholds act: equal workers whose server is no bottleneck.

In Figure 3's calibrated cluster the server serves equal workers in turn, and all stale
paradigms make one schedule. Here communication takes no time, and workers drift apart:
by a jitter of 30 %, or by step times recorded from this project's own worker processes
on a busy machine.
"""

from abs_dssp.experiment.reproduction import dssp_fig3_claims as claims
from abs_dssp.experiment.reproduction import panels, papers, study
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.scales import Problem
from abs_dssp.experiment.reproduction.study import Context, Outcomes, finals
from abs_dssp.experiment.reproduction.timing import WORKERS
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import spread
from abs_dssp.report.document import Claim, Part, Picture, Section, Table

POLICIES = {
    "BSP": "bsp()",
    "ASP": "asp()",
    "SSP s = 3": "ssp(s=3)",
    "SSP s = 9": "ssp(s=9)",
    "SSP s = 15": "ssp(s=15)",
    "DSSP": papers.DSSP,
    "DSSP, bounded": papers.BOUNDED,
}
_JITTER = "lognormal(median=1.0,sigma=0.3)"
_RECORDED = 'csv("busy_machine.csv",mean=1.0)'
# The problem of the scale, and the times of a gradient.
SETTINGS = (
    ("small", "jitter of 30 %", _JITTER),
    ("small", "recorded times", _RECORDED),
    ("resnet50", "jitter of 30 %", _JITTER),
)


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims."""
    parts: list[Part] = [
        f"{WORKERS} equal workers, communication takes no time, drops of the ResNet's "
        "step size by epoch. BSP and ASP have tuned step sizes; the other stale "
        "paradigms take ASP's, so that only the schedule differs. Recorded times are "
        "those of four worker processes on two busy cores."
    ]
    found: list[Claim] = []
    shown: list[Panel] = []
    for name, kind, times in SETTINGS:
        problem = context.scale.problems[name]
        title = f"{_network(name, problem)}, {kind}"
        label = f"DSSP's thresholds, {title}"
        runs, tuning = study.tuned_by_kind(
            context, _runs(context, name, times), problem, label
        )
        made = context.over_seeds(runs, label)
        out = study.trained_out(context, runs["BSP"], label)
        most = f"BSP with {context.scale.trained_out:g} times as many epochs"
        note = f"{problem.describe()}. {most}: {spread(finals(out))}."
        parts += [_table(title, note, made), tuning]
        target = problem.targets[0]
        shown.append(Panel(title, panels.curves(made), target=target))
        found += _claims(made, title, target)
    path = panels.save(shown, context.folder("dssp_thresholds") / "accuracy.png", 3)
    caption = "Accuracy against time where thresholds act. Bands: one deviation."
    parts.append(Picture(path, caption))
    return Section("DSSP where thresholds act", parts, found)


def _network(name: str, problem: Problem) -> str:
    """What is trained, in a title."""
    if name != "small":
        return problem.title(name)
    kind = problem.model.partition("(")[0]
    return f"small {kind.upper() if kind in ('cnn', 'mlp') else kind}"


def _runs(context: Context, name: str, times: str) -> dict[str, Run]:
    problem = context.scale.problems[name]
    drops = study.epoch_drops(problem) if name.startswith("resnet") else ()
    return study.under(study.freely(context, problem, times, drops=drops), POLICIES)


def _table(title: str, note: str, made: Outcomes) -> Table:
    rows = []
    for name, runs in made.items():
        names = ("seconds", "max_gap", "mean_staleness", "waiting_share")
        ends, lead, stale, wait = ([o.measures[n] for o in runs] for n in names)
        row = [name, spread(ends, "{:.1f}"), spread(finals(runs)), f"{max(lead):.0f}"]
        rows.append([*row, spread(stale, "{:.2f}"), spread(wait, "{:.2f}")])
    header = ["method", "end (s)", "accuracy", "largest lead", "staleness", "waiting"]
    return Table(f"{title}: {note}", header, rows)


def _claims(made: Outcomes, title: str, target: float) -> list[Claim]:
    return [
        claims.is_more_accurate(made, title, "0.635 against 0.620 (AlexNet)"),
        claims.is_average(made, title),
        claims.is_faster(made, "BSP", title, target),
        claims.is_faster(made, "SSP s = 3", title, target, "sooner in Table I"),
        claims.is_steadier(made, title),
        claims.is_level(
            made["DSSP"],
            made["BSP"],
            f"DSSP ends ({title})",
            "level (ResNets)" if "ResNet" in title else "0.635 against 0.66",
        ),
    ]
