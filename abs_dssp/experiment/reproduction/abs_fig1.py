"""ABS's Figure 1: K-async with K = 1 and N = 8 under several fixed tau_max."""

import numpy as np

from abs_dssp.experiment.reproduction import abs_setting, panels, study
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.study import Context, Figure, finals, verdict
from abs_dssp.experiment.statistics import separate, spread, time_text
from abs_dssp.report.document import Claim, Part, Picture, Section, Table

WORKERS = 8
DELAYS = {
    "exponential times": abs_setting.EXPONENTIAL,
    "times 0.5 + exponential": "shifted_exponential(shift=0.5,mean=0.5)",
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
        "0.5 they do."
    ]
    shown: list[Panel] = []
    claims: list[Claim] = []
    for title, delays in DELAYS.items():
        label = f"ABS Figure 1, {title}"
        runs = {
            f"tau_max = {tau}": abs_setting.run(
                context, WORKERS, f"abs(k0=1,a=None,tau_max={tau})", 1, delays
            )
            for tau in scale.abs_taus
        }
        plain = context.over_seeds(runs, label)
        rates, tuning = context.tune(runs, scale.abs_grid, label)
        tuned = context.over_seeds(study.at_rates(runs, rates), f"{label}, tuned")
        kinds = {f"step size {scale.abs_rate:g} for all": plain, "tuned": tuned}
        parts += [_table(title, kinds, scale.abs_target), tuning]
        looks = panels.shades(len(runs))
        for kind, made in kinds.items():
            lines = panels.curves(made, looks)
            shown.append(Panel(f"{title}, {kind}", lines, target=scale.abs_target))
        claims += _claims(title, kinds)
    path = panels.save(shown, context.folder("abs_fig1") / "figure1.png")
    parts.append(
        Picture(
            path,
            f"ABS, Figure 1: fixed tau_max, K = 1, N = {WORKERS}; time in mean "
            "gradient times. Bands: one deviation over seeds.",
        )
    )
    return Section("ABS, Figure 1: fixed staleness bounds", parts, claims)


def _table(title: str, kinds, target: float) -> Table:
    first = next(iter(kinds.values()))
    header = ["tau_max", "commits", "staleness", "cancelled"]
    for kind in kinds:
        header += [f"accuracy, {kind}", "averaged over the run", "s to target"]
    rows = []
    for name, runs in first.items():
        measures = runs[0].measures
        row = [
            name.removeprefix("tau_max = "),
            f"{measures['commits']:.0f}",
            f"{measures['mean_staleness']:.2f}",
            f"{measures['cancelled_share']:.0%}",
        ]
        for made in kinds.values():
            times = study.times_to(made[name], target)
            row += [
                spread(finals(made[name])),
                spread([study.mean_accuracy(o) for o in made[name]]),
                time_text(times),
            ]
        rows.append(row)
    caption = f"{title}: accuracy at the end and on average, seconds to {target:.0%}."
    return Table(caption, header, rows)


def _claims(title: str, kinds) -> list[Claim]:
    claims = []
    for kind, made in kinds.items():
        scores = {
            name: np.array([study.mean_accuracy(o) for o in outcomes])
            for name, outcomes in made.items()
        }
        names = list(scores)
        best = max(names, key=lambda name: scores[name].mean())
        small, large = (separate(scores[best], scores[names[i]]) for i in (0, -1))
        each = ", ".join(
            f"{name.removeprefix('tau_max = ')}: {spread(values)}"
            for name, values in scores.items()
        )
        reasons = [f"best at {best}"]
        if not small:
            reasons.append(
                "the smallest does not hurt: restarts waste nothing that counts here"
            )
        if not large:
            reasons.append(
                "the largest is not worse by two standard errors: at this step size "
                "staleness hurts too little for restarts to pay"
            )
        claims.append(
            Claim(
                f"too small and too large a tau_max both hurt ({title}, {kind})",
                "an inner value is best",
                f"accuracy averaged over the run by tau_max {each}",
                verdict(small and large),
                "; ".join(reasons),
            )
        )
    return claims


FIGURE = Figure("abs_fig1", build)
