"""DSSP's Figure 4 and Table I: two workers, one 2.6 times as fast as the other.

Three parts: Table I predicted from schedules alone, with the speed ratio as the only
free parameter; what timing jitter does to the printed rule of DSSP; and the table
trained, with the learning-rate schedule on either clock.
"""

from pathlib import Path

from abs_dssp.experiment.reproduction import dssp_table1_schedules as schedules
from abs_dssp.experiment.reproduction import panels, papers, study
from abs_dssp.experiment.reproduction.dssp_table1_schedules import (
    DROP,
    IN_PAPER,
    LOOKS,
    POLICIES,
    paper_ratios,
)
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.study import Context, Outcomes, finals, verdict
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import mean_time, separate, spread, time_text
from abs_dssp.report.document import Claim, Part, Picture, Section, Table

TITLES = {
    "epoch": "drops by epoch, same step size for all",
    "server_updates": "drops by server updates, same step size for all",
    "tuned": "drops by epoch, tuned step sizes",
}
_TOLERANCE = 0.15  # of the times relative to ASP


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of Figure 4 and Table I."""
    folder = context.folder("dssp_fig4_table1")
    predicted, claims = schedules.predicted(context)
    fragile, fragile_claim = schedules.fragility(context, folder)
    made, tuning = _train(context)
    tables: list[Part] = []
    for kind, outcomes in made.items():
        targets = _targets(outcomes)
        tables.append(_table(outcomes, targets, TITLES[kind]))
        if kind == "epoch":
            trained_claims = _claims(outcomes, targets[0])
    parts: list[Part] = [
        "Table I from schedules alone. When has the server got two thirds of a run's "
        "pushes, where the first drop of the learning rate lies (epoch 200 of 300)? "
        "With the slow worker taking r times as long, everybody whom it gates takes "
        "(r + 1)/2 times as long as ASP.",
        *predicted,
        "The printed rule asks for perfectly regular times: with r* = 0 the fast "
        "worker must wait out its whole lead.",
        *fragile,
        f"Trained: {context.scale.networks['resnet110']} in place of ResNet-110, "
        f"r = {context.ratio:g}, drops at the same shares of the run. The targets are "
        "chosen by a rule and not by eye: with the paper's methods, 40 and 80 % of the "
        "way from the highest accuracy before a drop to the lowest at the end.",
        *tables,
        tuning,
        _picture(made, context.ratio, folder),
    ]
    title = "DSSP, Figure 4 and Table I: two unequal workers"
    return Section(title, parts, [*claims, fragile_claim, *trained_claims])


def _train(context: Context) -> tuple[dict[str, Outcomes], Table]:
    """All trained runs, by a kind of `TITLES`, and how the step sizes were tuned."""
    label, grid = "Table I", context.scale.grid["resnet110"]
    made = {
        clock: context.over_seeds(_runs(context, clock), f"{label}, drops by {clock}")
        for clock in ("epoch", "server_updates")
    }
    runs = _runs(context, "epoch")
    rates, tuning = context.tune(runs, grid, label)
    made["tuned"] = context.over_seeds(study.at_rates(runs, rates), f"{label}, tuned")
    return made, tuning


def _runs(context: Context, clock: str) -> dict[str, Run]:
    scale, ratio = context.scale, context.ratio
    pushes = scale.epochs * scale.samples / scale.batch_size
    shares = [drop / papers.EPOCHS for drop in papers.DROPS]
    # By server updates a rate's drop is set in epochs of a worker's half, as MXNet
    # does it, so that BSP meets it at the same share of its run.
    total = scale.epochs if clock == "epoch" else pushes / 2
    drops = [share * total for share in shares]
    asp = pushes / (1 + 1 / ratio)  # seconds, with a fast computation of 1 s
    run = scale.dssp_run(
        "resnet110",
        workers=2,
        delays=f"constant(seconds=[1.0,{ratio!r}])",
        eval_seconds=asp / scale.evaluations,
        clock=clock,
        drops=tuple(drops if clock == "epoch" else map(round, drops)),
    )
    return study.under(run, POLICIES)


def _targets(outcomes: Outcomes) -> tuple[float, float]:
    """Two accuracies that only the drop of the learning rate makes reachable."""
    before, after = [], []
    for name in IN_PAPER:
        _, values = panels.together([o.history for o in outcomes[name]])
        mean = values.mean(axis=0)
        before.append(mean[: round(DROP * len(mean)) - 1].max(initial=0.0))
        after.append(finals(outcomes[name]).mean())
    low, high = max(before), min(after)
    if high <= low:  # no drop shows: levels that everybody reaches
        low, high = 0.8 * high, high
    return round(low + 0.4 * (high - low), 3), round(low + 0.8 * (high - low), 3)


def _table(outcomes: Outcomes, targets: tuple[float, float], title: str) -> Table:
    paper = paper_ratios()
    rows = []
    for name, runs in outcomes.items():
        row = [name, f"{paper[name]:.2f}" if name in paper else ""]
        for target in targets:
            asp = mean_time(study.times_to(outcomes["ASP"], target))
            times = study.times_to(runs, target)
            mean = mean_time(times)
            ratio = "" if mean is None or asp is None else f"{mean / asp:.2f}"
            row += [time_text(times), ratio]
        lead = max(outcome.measures["max_gap"] for outcome in runs)
        rows.append([*row, spread(finals(runs)), f"{lead:.0f}"])
    low, high = (f"to {target:.1%}" for target in targets)
    header = ["method", "paper / ASP", low, "/ ASP", high, "/ ASP", "accuracy"]
    return Table(
        f"Table I, {title}: virtual seconds {low} and {high}, "
        "relative to ASP, and the accuracy at the end.",
        [*header, "largest lead"],
        rows,
    )


def _claims(outcomes: Outcomes, target: float) -> list[Claim]:
    times = {n: mean_time(study.times_to(outcomes[n], target)) for n in IN_PAPER}
    against_asp = [_time_claim(name, times) for name in IN_PAPER if name != "ASP"]
    return [*against_asp, _order_claim(times), *_accuracy_claims(outcomes)]


def _time_claim(name: str, times: dict[str, float | None]) -> Claim:
    paper = paper_ratios()[name]
    own, asp = times[name], times["ASP"]
    if own is None or asp is None:
        ours, near = "never, in some seed", False
    else:
        off = own / asp / paper - 1
        ours, near = f"{own / asp:.2f} ({off:+.1%})", abs(off) <= _TOLERANCE
    claim = f"Table I trained: {name} against ASP, time to the first target"
    return Claim(claim, f"{paper:.2f}", ours, verdict(near))


def _order_claim(times: dict[str, float | None]) -> Claim:
    known = {name: time for name, time in times.items() if time is not None}
    fast = [known[name] for name in ("ASP", "DSSP") if name in known]
    slow = [time for name, time in known.items() if name not in ("ASP", "DSSP")]
    order = len(fast) == 2 and bool(slow) and max(fast) < min(slow)
    by_time = sorted(known, key=lambda name: known[name])
    return Claim(
        "DSSP is about as fast as ASP and about twice as fast as SSP and BSP",
        "ASP, DSSP < SSP < BSP",
        ", ".join(f"{name} {known[name]:.0f} s" for name in by_time),
        verdict(order),
        "the drop comes when two thirds of all samples have been seen, and nothing "
        "else decides; DSSP's lead has no bound here",
    )


def _accuracy_claims(outcomes: Outcomes) -> list[Claim]:
    bsp, asp, dssp = (finals(outcomes[name]) for name in ("BSP", "ASP", "DSSP"))
    return [
        Claim(
            "DSSP ends no less accurate than ASP",
            "both reach 0.68",
            f"{spread(dssp)} against {spread(asp)}",
            verdict(not separate(asp, dssp)),
        ),
        Claim(
            "BSP ends less accurate than ASP and DSSP (never reaches 0.68)",
            "below 0.68 against above",
            f"{spread(bsp)} against {spread(asp)}",
            verdict(separate(asp, bsp)),
            "with the same step size and averaged pushes BSP makes half as many "
            "updates",
        ),
    ]


def _picture(made: dict[str, Outcomes], ratio: float, folder: Path) -> Picture:
    shown = []
    for kind, outcomes in made.items():
        title = "tuned step sizes" if kind == "tuned" else TITLES[kind].split(",")[0]
        shown.append(Panel(title, panels.curves(outcomes, list(LOOKS.values()))))
    path = panels.save(shown, folder / "figure4.png", columns=3)
    return Picture(
        path,
        f"Figure 4: two workers, speed ratio {ratio:g}; the schedule's clock "
        "decides when accuracy jumps. Bands: one deviation over seeds.",
    )
