"""ABS's Figure 1: K-async with K = 1 and N = 8 under several fixed tau_max."""

import numpy as np

from abs_dssp.experiment.reproduction import abs_setting, panels, study
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.study import Context, finals, verdict
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
        runs = {}
        for tau in scale.abs_taus:
            policy = f"abs(k0=1,a=None,tau_max={tau})"
            run = abs_setting.run(context, WORKERS, policy, 1, delays)
            runs[f"tau_max = {tau}"] = run
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
    caption = (
        f"ABS, Figure 1: fixed tau_max, K = 1, N = {WORKERS}; time in mean "
        "gradient times. Bands: one deviation over seeds."
    )
    parts.append(Picture(path, caption))
    return Section("ABS, Figure 1: fixed staleness bounds", parts, claims)


def _table(title: str, kinds, target: float) -> Table:
    first = next(iter(kinds.values()))
    header = ["tau_max", "commits", "staleness", "cancelled"]
    for kind in kinds:
        header += [f"accuracy, {kind}", "averaged over the run", "s to target"]
    rows = []
    for name, outcomes in first.items():
        measures = outcomes[0].measures
        row = [
            name.removeprefix("tau_max = "),
            f"{measures['commits']:.0f}",
            f"{measures['mean_staleness']:.2f}",
            f"{measures['cancelled_share']:.0%}",
        ]
        for runs in (made[name] for made in kinds.values()):
            means = spread([study.mean_accuracy(o) for o in runs])
            row += [
                spread(finals(runs)),
                means,
                time_text(study.times_to(runs, target)),
            ]
        rows.append(row)
    caption = f"{title}: accuracy at the end and on average, seconds to {target:.0%}."
    return Table(caption, header, rows)


def _claims(title: str, kinds) -> list[Claim]:
    claims = []
    for kind, made in kinds.items():
        scores = {
            name: np.array([study.mean_accuracy(o) for o in runs])
            for name, runs in made.items()
        }
        names = list(scores)
        best = max(names, key=lambda name: scores[name].mean())
        small, large = (separate(scores[best], scores[names[i]]) for i in (0, -1))
        each = ", ".join(
            f"{name.removeprefix('tau_max = ')}: {spread(values)}"
            for name, values in scores.items()
        )
        why = f"best at {best}"
        if not small:
            why += (
                "; the smallest does not hurt: restarts waste nothing that counts here"
            )
        if not large:
            why += (
                "; the largest is not worse by two standard errors: at this step size "
                "staleness hurts too little for restarts to pay"
            )
        claim = f"too small and too large a tau_max both hurt ({title}, {kind})"
        ours = f"accuracy averaged over the run by tau_max {each}"
        agrees = verdict(small and large)
        claims.append(Claim(claim, "an inner value is best", ours, agrees, why))
    return claims
