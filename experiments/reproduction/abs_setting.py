"""What the figures of ABS share. Its own setting is not known to us.

We start from the same group's later one (STSyn, IEEE TSP 2024, and its public code):
times of a local step i.i.d. exponential, SGD without momentum, CIFAR-10.
"""

import dataclasses
import math

from abs_dssp.report.document import Claim, Part, Picture, Section, Table
from reproduction import panels, study
from reproduction.panels import Curve, Panel
from reproduction.runs import Outcome, Run
from reproduction.study import Context, finals, mean_time, spread, verdict

NOTE = (
    "Our setting: ABS's delays, model, step sizes and U are not in the text available "
    "to us. Times of a local step are i.i.d. exponential with mean 1, as in the same "
    "group's STSyn."
)
EXPONENTIAL = "exponential(mean=1.0)"
LATENCY = 2.0  # of a push, where communication takes time; in mean local steps


def run(
    context: Context,
    workers: int,
    policy: str,
    local_steps: int,
    delays: str = EXPONENTIAL,
) -> Run:
    """One method in that setting."""
    scale = context.scale
    return Run(
        policy=policy,
        task=scale.abs_task,
        model=scale.abs_model,
        workers=workers,
        delays=delays,
        batch_size=scale.abs_batch,
        learning_rate=scale.abs_rate,
        epochs=None,
        eval_seconds=scale.abs_seconds / scale.evaluations,
        until_seconds=scale.abs_seconds,
        local_steps=local_steps,
        augment=scale.augmented(scale.abs_task),
        limit_train=scale.limit_train,
        limit_test=scale.limit_test,
        shrink=scale.shrink,
    )


def contenders(context: Context, workers: int) -> dict[str, Run]:
    """ABS and its three rivals, in the paper's order."""
    scale = context.scale
    interval, steps = scale.abs_interval, scale.abs_local_steps
    loss_every = 2 * workers  # pushes between two estimates of the loss

    def adaptive(name):
        text = f"{name}(k0=1,interval={interval!r})"
        made = run(context, workers, text, local_steps=1)
        return dataclasses.replace(made, loss_every=loss_every)

    return {
        "ABS": run(context, workers, f"abs(k0=1,a={scale.abs_a})", steps),
        "AdaSync": adaptive("adasync"),
        "SA-AdaSync": adaptive("sa_adasync"),
        "Local SGD": run(context, workers, "local_sgd()", steps),
    }


def compare(context: Context, name: str, number: int, workers: int) -> Section:
    """ABS against its rivals: Figures 2 and 3."""
    place = study.folder(context, name)
    label = f"ABS Figure {number}"
    runs = contenders(context, workers)
    plain = context.over_seeds(runs, label)
    rates, tuning = context.tune(runs, context.scale.abs_grid, label)
    best = study.at_rates(runs, rates)
    slow = {
        name: dataclasses.replace(
            run, communication=f"link(bandwidth=1.0,num_bytes=0,latency={LATENCY})"
        )
        for name, run in best.items()
    }
    kinds = {
        "tuned": context.over_seeds(best, f"{label}, tuned"),
        f"tuned, a push takes {LATENCY:g}": context.over_seeds(
            slow, f"{label}, slow communication"
        ),
        f"step size {context.scale.abs_rate:g} for all": plain,
    }
    steps = context.scale.abs_local_steps
    parts: list[Part] = [
        f"{NOTE} N = {workers}; ABS (k0 = 1, a = {context.scale.abs_a}, growth by "
        f"rounds, tau_max = ceil(N/K)) and Local SGD make U = {steps} local steps per "
        "push, AdaSync and SA-AdaSync one. Every method runs for the same time. "
        "Communication is counted in rounds and takes no time, or, in the second "
        f"comparison, {LATENCY:g} mean local steps per push.",
        *(results(made, kind) for kind, made in kinds.items()),
        tuning,
        picture(
            kinds,
            place / f"figure{number}.png",
            f"ABS, Figure {number}: N = {workers}, against time and against rounds "
            "(commits). Bands: one deviation over seeds.",
        ),
    ]
    claims = [
        claim for kind, made in kinds.items() for claim in _claims(made, workers, kind)
    ]
    return Section(f"ABS, Figure {number}: N = {workers}", parts, claims)


def common_target(made: dict[str, list[Outcome]]) -> float:
    """The highest whole percentage that every seed of every method reached.

    A rule and not a choice: with it every method has a time.
    """
    best = [
        float(outcome.history.column("accuracy").max())
        for outcomes in made.values()
        for outcome in outcomes
    ]
    return math.floor(100 * min(best)) / 100


def results(made: dict[str, list[Outcome]], kind: str) -> Table:
    """One row per method."""
    target = common_target(made)
    return Table(
        f"To {target:.0%} test accuracy, the highest that every seed of every method "
        f"reached, {kind}.",
        ["method", "seconds", "rounds", "pushes", "accuracy at the end", "staleness",
         "waiting", "cancelled"],
        [
            [
                name,
                study.time_text(study.times_to(runs, target)),
                study.time_text(study.times_to(runs, target, "version")),
                study.time_text(study.times_to(runs, target, "push")),
                spread(finals(runs)),
                f"{runs[0].measures['mean_staleness']:.2f}",
                f"{runs[0].measures['waiting_share']:.0%}",
                f"{runs[0].measures['cancelled_share']:.0%}",
            ]
            for name, runs in made.items()
        ],
    )  # fmt: skip


def picture(kinds, path, caption: str) -> Picture:
    """Two panels per kind: accuracy against time and against rounds."""
    names = list(next(iter(kinds.values())))
    shown = []
    for kind, made in kinds.items():
        target = common_target(made)
        lines = [
            Curve(name, [o.history for o in made[name]], panels.look(i))
            for i, name in enumerate(names)
        ]
        shown += [
            Panel(f"{kind}: time", lines, target=target),
            Panel(f"{kind}: rounds", lines, "version",
                  "communication rounds (commits)", log=True, target=target),
        ]  # fmt: skip
    return Picture(panels.save(shown, path), caption)


def _claims(made, workers: int, kind: str) -> list[Claim]:
    """Two claims: sooner, and in fewer rounds, than each of the three rivals."""
    target = common_target(made)
    found = []
    for column, what, unit in (
        ("seconds", "sooner", "s"), ("version", "in fewer rounds", "rounds")
    ):  # fmt: skip
        times = {
            name: mean_time(study.times_to(runs, target, column))
            for name, runs in made.items()
        }
        mine = times["ABS"]
        assert mine is not None  # everybody reached it
        rivals = {name: t for name, t in times.items() if name != "ABS"}
        lost = [name for name, theirs in rivals.items() if mine >= (theirs or 0)]
        found.append(
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
    return found


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
