"""ABS's Figure 1: K-async with K = 1 and N = 8 under several fixed tau_max.

    python experiments/abs_fig1.py --scale=laptop --data_dir=../shared/data
"""

from abs_dssp.report.document import Claim, Part, Picture, Section, Table
from reproduction import abs_setting, panels, study
from reproduction.panels import Curve, Panel
from reproduction.study import Context, finals, spread, verdict

NAME = "abs_fig1"
WORKERS = 8


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of the figure."""
    scale = context.scale
    place = study.folder(context, NAME)
    runs = {
        f"tau_max = {tau}": abs_setting.run(
            context, WORKERS, f"abs(k0=1,a=None,tau_max={tau})", local_steps=1
        )
        for tau in scale.abs_taus
    }
    outcomes = context.over_seeds(runs, "ABS Figure 1")
    rates, tuning = context.tune(runs, scale.abs_grid, "ABS Figure 1")
    tuned = context.over_seeds(study.at_rates(runs, rates), "ABS Figure 1, tuned")
    fast = max(scale.abs_grid)
    rough = context.over_seeds(
        study.at_rates(runs, dict.fromkeys(runs, fast)), f"ABS Figure 1, step {fast:g}"
    )
    parts: list[Part] = [
        f"{abs_setting.NOTE} K-async with K = 1, N = {WORKERS}, a worker staler than "
        "tau_max restarts. tau_max = 0 restarts everybody at every commit, so the "
        "fastest of N fresh computations makes each step; a large one never restarts, "
        "which is ASP.",
    ]
    kinds = {
        f"step size {scale.abs_rate:g}": outcomes,
        f"step size {fast:g}": rough,
        "tuned": tuned,
    }
    parts += [
        Table(
            f"Accuracy at the end, and seconds to {scale.abs_target:.0%}.",
            [
                "tau_max", "staleness", "cancelled",
                *(x for kind in kinds for x in (f"accuracy, {kind}", "s to target")),
            ],
            [
                [
                    name.removeprefix("tau_max = "),
                    f"{runs_[0].measures['mean_staleness']:.2f}",
                    f"{runs_[0].measures['cancelled_share']:.0%}",
                    *(
                        x
                        for kind in kinds.values()
                        for x in (
                            spread(finals(kind[name])),
                            study.time_text(
                                study.times_to(kind[name], scale.abs_target)
                            ),
                        )
                    ),
                ]
                for name, runs_ in outcomes.items()
            ],
        ),
        tuning,
    ]  # fmt: skip
    looks = panels.shades(len(runs))
    shown = [
        Panel(
            kind,
            [
                Curve(name, [o.history for o in made[name]], looks[i])
                for i, name in enumerate(runs)
            ],
            target=scale.abs_target,
        )
        for kind, made in kinds.items()
    ]
    path = panels.save(shown, place / "figure1.png", columns=3)
    parts.append(
        Picture(
            path,
            f"ABS, Figure 1: fixed tau_max, K = 1, N = {WORKERS}; time in mean "
            "gradient times. Bands: one deviation over seeds.",
        )
    )
    return Section("ABS, Figure 1: fixed staleness bounds", parts, _claims(kinds))


def _claims(kinds) -> list[Claim]:
    found = []
    for kind, made in kinds.items():
        score = {
            name: float(sum(map(study.mean_accuracy, outcomes)) / len(outcomes))
            for name, outcomes in made.items()
        }
        names = list(score)
        best = max(score, key=lambda name: score[name])
        inside = names[0] != best != names[-1]
        each = ", ".join(
            f"{name.removeprefix('tau_max = ')}: {value:.3f}"
            for name, value in score.items()
        )
        found.append(
            Claim(
                f"too small and too large a tau_max both hurt ({kind})",
                "an inner value is best",
                f"accuracy averaged over the run by tau_max {each}",
                verdict(inside),
                f"best at {best}"
                + (
                    ""
                    if inside
                    else "; at this step size staleness does not hurt enough for "
                    "restarts to pay"
                    if best == names[-1]
                    else "; restarts waste nothing that counts here"
                ),
            )
        )
    return found


if __name__ == "__main__":
    study.main(build, NAME)
