"""ABS's Figure 1: K-async with K = 1 and N = 8 under several fixed tau_max."""

import numpy as np

from abs_dssp.experiment import verdicts
from abs_dssp.experiment.reproduction import abs_setting, panels, study
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.study import Context, Outcomes, finals
from abs_dssp.experiment.statistics import spread, time_text
from abs_dssp.report.document import Claim, Part, Picture, Section, Table

WORKERS = 8
_SHIFTED = "0.5 + exponential"
# Title: times of a local step, and whether a push has U of them.
SETTINGS = {
    "exponential times": (abs_setting.MAIN, False),
    "times 0.5 + exponential": (_SHIFTED, False),
    "times 0.5 + exponential, U local steps": (_SHIFTED, True),
    "stragglers, U local steps": ("stragglers", True),
}


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of the figure."""
    scale = context.scale
    parts: list[Part] = [
        f"{abs_setting.NOTE} K-async with K = 1, N = {WORKERS}, a worker staler than "
        "tau_max restarts. tau_max = 0 restarts everybody at every commit, so the "
        "fastest of N fresh computations makes each step; a large one never restarts, "
        "which is ASP. Exponential times have no memory: a computation that starts "
        "again ends no later, in distribution, than the one that was cancelled, so "
        "restarts cost nothing at all. With times of 0.5 plus an exponential of mean "
        "0.5 they do, and where some workers are slow for good. That an inner value "
        "is best is our reading of the figure; no text says it."
    ]
    problem = scale.problems["abs"]
    target = problem.targets[-1]
    shown: list[Panel] = []
    claims: list[Claim] = []
    for title, (timing, several) in SETTINGS.items():
        local_steps = scale.abs_local_steps if several else 1
        label = f"ABS Figure 1, {title}"
        runs = {}
        for tau in scale.abs_taus:
            policy = f"abs(k0=1,a=None,tau_max={tau})"
            run = abs_setting.run(context, WORKERS, policy, local_steps, timing)
            runs[f"tau_max = {tau}"] = run
        rates, tuning = context.tune(runs, problem, label)
        tuned = context.over_seeds(
            study.at_rates(runs, rates), f"{label}, tuned", scale.seeds_of_abs
        )
        parts += [_table(title, tuned, target), tuning]
        looks = panels.shades(len(runs))
        lines = panels.curves(tuned, looks)
        shown.append(Panel(title, lines, target=target))
        claims += _claims(title, tuned)
    path = panels.save(shown, context.folder("abs_fig1") / "figure1.png")
    caption = (
        f"ABS, Figure 1: fixed tau_max, K = 1, N = {WORKERS}; time in mean "
        "gradient times. Bands: one deviation over seeds."
    )
    parts.append(Picture(path, caption))
    return Section("ABS, Figure 1: fixed staleness bounds", parts, claims)


def _table(title: str, made: Outcomes, target: float) -> Table:
    header = ["tau_max", "commits", "staleness", "cancelled", "accuracy at the end"]
    header += ["averaged over the run", f"s to {target:.0%}"]
    rows = []
    for name, runs in made.items():
        measures = runs[0].measures
        row = [
            name.removeprefix("tau_max = "),
            f"{measures['commits']:.0f}",
            f"{measures['mean_staleness']:.2f}",
            f"{measures['cancelled_share']:.0%}",
            spread(finals(runs)),
            spread([study.mean_accuracy(o) for o in runs]),
        ]
        rows.append([*row, time_text(study.times_to(runs, target))])
    return Table(f"{title}, each at its own best step size.", header, rows)


def _claims(title: str, made: Outcomes) -> list[Claim]:
    scores = {
        name: np.array([study.mean_accuracy(o) for o in runs])
        for name, runs in made.items()
    }
    each = ", ".join(
        f"{name.removeprefix('tau_max = ')}: {spread(values)}"
        for name, values in scores.items()
    )
    names = list(scores)
    inner = _best_of_others([scores[name] for name in names[1:-1]])
    return [
        verdicts.claim(
            f"too {word} a tau_max hurts: {end} is worse than an inner one ({title})",
            "curves for several; that an inner value is best is our reading",
            f"accuracy averaged over the run by tau_max {each}",
            verdicts.above(inner - scores[end]),
            "the inner value was chosen for each seed on all the others",
        )
        for end, word in ((names[0], "small"), (names[-1], "large"))
    ]


def _best_of_others(scores: list[np.ndarray]) -> np.ndarray:
    """For every seed, the score of the value that is best on the other seeds."""
    table = np.array(scores)
    seeds = table.shape[1]
    if seeds == 1:
        return table.max(axis=0)
    others = (table.sum(axis=1, keepdims=True) - table) / (seeds - 1)
    return table[others.argmax(axis=0), np.arange(seeds)]
