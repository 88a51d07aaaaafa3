"""ABS's Figures 2 and 3: ABS against AdaSync, SA-AdaSync and Local SGD."""

import dataclasses

from abs_dssp.experiment.reproduction import abs_setting, study
from abs_dssp.experiment.reproduction.study import Context, Outcomes, verdict
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import mean_time
from abs_dssp.report.document import Claim, Part, Section

_CRITERIA = (("seconds", "sooner", "s"), ("version", "in fewer rounds", "rounds"))
LATENCY = 2.0  # of a push, where communication takes time; in mean local steps


def _methods(context: Context, workers: int) -> dict[str, Run]:
    """ABS and its three rivals, in the paper's order."""
    scale = context.scale
    interval, steps = scale.abs_interval, scale.abs_local_steps
    loss_every = 2 * workers  # pushes between two estimates of the loss

    def adaptive(name):
        text = f"{name}(k0=1,interval={interval!r})"
        made = abs_setting.run(context, workers, text, local_steps=1)
        return dataclasses.replace(made, loss_every=loss_every)

    return {
        "ABS": abs_setting.run(context, workers, f"abs(k0=1,a={scale.abs_a})", steps),
        "AdaSync": adaptive("adasync"),
        "SA-AdaSync": adaptive("sa_adasync"),
        "Local SGD": abs_setting.run(context, workers, "local_sgd()", steps),
    }


def build(context: Context, number: int, workers: int) -> Section:
    """All runs, pictures, tables and claims of a figure.

    Args:
      context: scale, and where runs are made.
      number: of the figure, 2 or 3.
      workers: N.
    """
    path = context.folder(f"abs_fig{number}") / f"figure{number}.png"
    label = f"ABS Figure {number}"
    runs = _methods(context, workers)
    plain = context.over_seeds(runs, label)
    rates, tuning = context.tune(runs, context.scale.abs_grid, label)
    best = study.at_rates(runs, rates)
    link = f"link(bandwidth=1.0,num_bytes=0,latency={LATENCY})"
    slow = {n: dataclasses.replace(r, communication=link) for n, r in best.items()}
    slower = context.over_seeds(slow, f"{label}, slow communication")
    kinds = {
        "tuned": context.over_seeds(best, f"{label}, tuned"),
        f"tuned, a push takes {LATENCY:g}": slower,
        f"step size {context.scale.abs_rate:g} for all": plain,
    }
    steps = context.scale.abs_local_steps
    parts: list[Part] = [
        f"{abs_setting.NOTE} N = {workers}; ABS (k0 = 1, a = {context.scale.abs_a}, "
        f"growth by rounds, tau_max = ceil(N/K)) and Local SGD make U = {steps} local "
        "steps per push, AdaSync and SA-AdaSync one. Every method runs for the same "
        "time. Communication is counted in rounds and takes no time, or, in the second "
        f"comparison, {LATENCY:g} mean local steps per push.",
        *(abs_setting.results(made, kind) for kind, made in kinds.items()),
        tuning,
        abs_setting.picture(
            kinds,
            path,
            f"ABS, Figure {number}: N = {workers}, against time and against rounds "
            "(commits). Bands: one deviation over seeds.",
        ),
    ]
    claims = [
        claim for kind, made in kinds.items() for claim in _claims(made, workers, kind)
    ]
    return Section(f"ABS, Figure {number}: N = {workers}", parts, claims)


def _claims(made: Outcomes, workers: int, kind: str) -> list[Claim]:
    """Two claims: sooner, and in fewer rounds, than each of the three rivals."""
    target = abs_setting.common_target(made)
    claims = []
    for column, what, unit in _CRITERIA:
        times = {
            name: mean_time(study.times_to(runs, target, column))
            for name, runs in made.items()
        }
        mine = times["ABS"]
        assert mine is not None  # everybody reached it
        rivals = {name: t for name, t in times.items() if name != "ABS"}
        lost = [name for name, theirs in rivals.items() if mine >= (theirs or 0)]
        claims.append(
            Claim(
                f"ABS reaches the same accuracy {what} than its three rivals "
                f"(N = {workers}, {kind})",
                "yes (no number in the text)",
                f"{unit} to {target:.0%}: "
                + ", ".join(f"{name} {t:.0f}" for name, t in times.items()),
                verdict(not lost),
                "; ".join(_why(made, rival, column) for rival in lost),
            )
        )
    return claims


def _why(made, rival: str, column: str) -> str:
    mine, theirs = (made[name][0].measures for name in ("ABS", rival))
    if column == "version":
        return (
            f"{rival} combines {theirs['pushes'] / max(theirs['commits'], 1):.1f} "
            f"pushes in a round, ABS {mine['pushes'] / max(mine['commits'], 1):.1f}"
        )
    return (
        f"ABS: {mine['commits']} commits, {mine['waiting_share']:.0%} waiting, "
        f"{mine['cancelled_share']:.0%} cancelled; {rival}: {theirs['commits']}, "
        f"{theirs['waiting_share']:.0%}, {theirs['cancelled_share']:.0%}"
    )
