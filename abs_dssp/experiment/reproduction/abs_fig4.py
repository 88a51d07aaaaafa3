"""ABS's Figure 4: the parameter a, at K^0 = 5 and N = 20.

What a means is not in the text available to us; two readings are shown: rounds per
additional worker, and the power of the loss ratio.
"""

import dataclasses

from abs_dssp.experiment import verdicts
from abs_dssp.experiment.reproduction import abs_setting, study
from abs_dssp.experiment.reproduction.study import Context, Outcomes, finals
from abs_dssp.experiment.statistics import spread, time_text
from abs_dssp.report.document import Claim, Part, Section

WORKERS, K0 = 20, 5
POWERS = (0.25, 0.5, 1.0)


def build(context: Context) -> Section:
    """All runs, pictures, tables and claims of the figure."""
    scale = context.scale
    folder = context.folder("abs_fig4")
    steps = scale.abs_local_steps

    def run(text):
        return abs_setting.run(context, WORKERS, text, steps)

    readings = {
        "a = rounds per worker": {
            f"a = {a}": run(f"abs(k0={K0},a={a})") for a in scale.abs_as
        }
        | {"K fixed": run(f"abs(k0={K0})")},
        "a = power of the loss ratio": {
            f"a = {a}": dataclasses.replace(
                run(f'abs(k0={K0},a={a},growth="loss")'), loss_every=2 * WORKERS
            )
            for a in POWERS
        },
    }
    parts: list[Part] = [
        f"{abs_setting.NOTE} N = {WORKERS}, K^0 = {K0}, U = {steps}, step size "
        "tuned for a fixed K and used for every a, so that only a differs."
    ]
    first = {"K fixed": readings["a = rounds per worker"]["K fixed"]}
    rates, tuning = context.tune(first, scale.problems["abs"], "ABS Figure 4")
    kinds = {}
    for kind, runs in readings.items():
        tuned = study.at_rates(runs, dict.fromkeys(runs, rates["K fixed"]))
        label = f"ABS Figure 4, {kind}"
        kinds[kind] = context.over_seeds(tuned, label, scale.seeds_of_abs)
    parts += [abs_setting.results(context, made, kind) for kind, made in kinds.items()]
    parts.append(tuning)
    for letter, (kind, made) in zip("ab", kinds.items(), strict=True):
        caption = f"ABS, Figure 4: K^0 = {K0}, N = {WORKERS}; {kind}."
        path = folder / f"figure4{letter}.png"
        parts.append(abs_setting.picture(context, {kind: made}, path, caption))
    target = abs_setting.targets(context)[-1]
    claims = [_claim(kind, made, target) for kind, made in kinds.items()]
    return Section("ABS, Figure 4: the effect of a", parts, claims)


def _claim(kind: str, made: Outcomes, target: float) -> Claim:
    grown = [name for name in made if name != "K fixed"]  # from the smallest a on
    shown = "; ".join(
        f"{name}: {time_text(study.times_to(made[name], target), unit='s')}, "
        f"{time_text(study.times_to(made[name], target, 'version'), unit='rounds')}, "
        f"{spread(finals(made[name]))} at the end"
        for name in grown
    )
    # A small number of rounds per worker grows fast, and so does a large power.
    fast, slow = (made[grown[place]] for place in (0, -1))
    if kind.startswith("a = power"):
        fast, slow = slow, fast
    return verdicts.claim(
        f"faster growth needs fewer rounds ({kind})",
        "curves for several a; no number in the text",
        f"to {target:.0%}: {shown}",
        study.sooner(fast, slow, target, "version"),
        "each of them longer",
    )
