"""Why stale ResNets end below BSP's here, and level with them in the DSSP paper.

One factor at a time around momentum 0.9 with drops by epoch: momentum, the clock of the
drops and whether there are any, a warm-up, BatchNorm's statistics, and the length.
"""

import dataclasses
from typing import Any

from abs_dssp.experiment.reproduction import dssp_fig3_claims as claims
from abs_dssp.experiment.reproduction import panels, papers, study
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.study import Context, Outcomes, finals
from abs_dssp.experiment.reproduction.timing import WORKERS
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import spread
from abs_dssp.report.document import Claim, Part, Picture, Section, Table

_PROBLEM = "table1"
_TIMES = "lognormal(median=1.0,sigma=0.05)"
_PAPER = "0.656 to 0.672 against 0.660 and 0.663"
METHODS = {"BSP": "bsp()", "ASP": "asp()"}


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims."""
    scale, problem = context.scale, context.scale.problems[_PROBLEM]
    made: dict[str, Outcomes] = {}
    rates: dict[str, dict[str, float]] = {}
    tunings: list[Part] = []
    for momentum in scale.momenta:
        title = f"momentum {momentum:g}"
        label = f"Stale ResNets, {title}"
        runs = _runs(context, momentum)
        # A step size acts 1 / (1 - momentum) times; each has the same grid in that.
        effective = (1 - problem.momentum) / (1 - momentum)
        grid = tuple(round(rate / effective, 6) for rate in problem.rates)
        rates[title], tuning = context.tune(
            runs, dataclasses.replace(problem, rates=grid), label
        )
        tunings.append(tuning)
        made[title] = context.over_seeds(study.at_rates(runs, rates[title]), label)
    last = f"momentum {scale.momenta[-1]:g}"
    base = study.at_rates(_runs(context, scale.momenta[-1]), rates[last])
    for factor, runs in _factors(context, base).items():
        title = f"{last}, {factor}"
        made[title] = context.over_seeds(runs, f"Stale ResNets, {title}")
    parts: list[Part] = [
        f"{problem.describe()}; {WORKERS} workers, jitter of 5 %, staleness of about "
        f"{WORKERS - 1} for ASP, communication takes no time. Each momentum has step "
        "sizes of its own, tuned for BSP and for ASP; the other rows change one thing "
        f"of the row `{last}`, whose drops of the step size follow the epoch.",
        _table(made),
        *tunings,
        _picture(context, made),
    ]
    found = [_claim(title, outcomes) for title, outcomes in made.items()]
    return Section("DSSP: why stale ResNets differ from BSP", parts, found)


def _runs(context: Context, momentum: float) -> dict[str, Run]:
    problem = context.scale.problems[_PROBLEM]
    drops = study.epoch_drops(problem)
    run = study.freely(context, problem, _TIMES, drops=drops, momentum=momentum)
    return study.under(run, METHODS)


def _factors(context: Context, base: dict[str, Run]) -> dict[str, dict[str, Run]]:
    """The same runs with one thing changed, by what it is."""
    problem = context.scale.problems[_PROBLEM]
    assert problem.epochs is not None
    pushes = problem.epochs * problem.samples / problem.batch_size
    counted = tuple(round(at / papers.EPOCHS * pushes / WORKERS) for at in papers.DROPS)
    changes: dict[str, dict[str, Any]] = {
        "drops by server updates": {"clock": "server_updates", "drops": counted},
        "no drops": {"drops": ()},
        "warm-up over a twelfth": {"warmup": problem.epochs / 12},
    }
    if problem.model.startswith("resnet("):
        model = problem.model.replace(")", ',norm="group")')
        changes["GroupNorm"] = {"model": model}
    changed = {
        name: {m: dataclasses.replace(run, **change) for m, run in base.items()}
        for name, change in changes.items()
    }
    longer = context.scale.trained_out
    changed[f"{longer:g} times as many epochs"] = {
        name: study.lengthened(run, longer) for name, run in base.items()
    }
    return changed


def _table(made: dict[str, Outcomes]) -> Table:
    rows = []
    for title, outcomes in made.items():
        bsp, asp = (finals(outcomes[name]) for name in METHODS)
        off = spread(asp - bsp, "{:+.3f}", "{:.3f}")
        rows.append([title, spread(bsp), spread(asp), off])
    header = ["", "BSP", "ASP", "ASP - BSP"]
    return Table("Accuracy at the end, and differences by seed.", header, rows)


def _picture(context: Context, made: dict[str, Outcomes]) -> Picture:
    last = f"momentum {context.scale.momenta[-1]:g}"
    shown = [
        Panel(
            title.removeprefix(f"{last}, "),
            panels.curves(outcomes),
            "epoch",
            "epochs of samples",
        )
        for title, outcomes in made.items()
    ]
    path = panels.save(shown, context.folder("dssp_resnets") / "factors.png", 3)
    return Picture(
        path,
        "BSP and ASP by momentum, and with one thing changed at the last momentum: "
        "schedule, warm-up, norm, length. Bands: one deviation over seeds.",
    )


def _claim(title: str, outcomes: Outcomes) -> Claim:
    return claims.is_level(
        outcomes["ASP"], outcomes["BSP"], f"Stale ResNet, {title}", _PAPER
    )
