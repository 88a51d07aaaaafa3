"""What the figures of ABS share. The paper's own setting is not known to us.

We start from the same group's later one (STSyn, IEEE TSP 2024, and its public code):
times of a local step i.i.d. exponential, SGD without momentum, CIFAR-10.
"""

from abs_dssp.experiment.reproduction import panels, study
from abs_dssp.experiment.reproduction.panels import Panel
from abs_dssp.experiment.reproduction.study import Context, Outcomes, finals
from abs_dssp.experiment.run import Run
from abs_dssp.experiment.statistics import spread, time_text
from abs_dssp.report.document import Picture, Table

NOTE = (
    "Our setting: ABS's delays, model, step sizes and U are not in the text available "
    "to us. Times are nearly those of the same group's STSyn: exponential with mean 1 "
    "for a local step, one draw for all local steps of a push."
)
EXPONENTIAL = "exponential(mean=1.0)"


def run(
    context: Context,
    workers: int,
    policy: str,
    local_steps: int,
    delays: str = EXPONENTIAL,
) -> Run:
    """One method in that setting."""
    scale = context.scale
    return scale.run(
        scale.abs_task,
        policy=policy,
        model=scale.abs_model,
        workers=workers,
        delays=delays,
        batch_size=scale.abs_batch,
        learning_rate=scale.abs_rate,
        epochs=None,
        eval_seconds=scale.abs_seconds / scale.evaluations,
        until_seconds=scale.abs_seconds,
        local_steps=local_steps,
        redraw=False,
    )


def results(context: Context, made: Outcomes, kind: str) -> Table:
    """One row per method."""
    target = context.scale.abs_target
    header = ["method", "seconds", "rounds", "pushes", "accuracy at the end"]
    shares = ("waiting_share", "cancelled_share")
    rows = []
    for name, runs in made.items():
        columns = ("seconds", "version", "push")
        times = (time_text(study.times_to(runs, target, c)) for c in columns)
        stale = f"{runs[0].measures['mean_staleness']:.2f}"
        lost = (f"{runs[0].measures[share]:.0%}" for share in shares)
        rows.append([name, *times, spread(finals(runs)), stale, *lost])
    caption = f"To {target:.0%} test accuracy, which was fixed beforehand, {kind}."
    return Table(caption, [*header, "staleness", "waiting", "cancelled"], rows)


def picture(context: Context, kinds, path, caption: str) -> Picture:
    """Three panels per kind: accuracy against time, rounds and uploads."""
    shown, target = [], context.scale.abs_target
    for kind, made in kinds.items():
        lines = panels.curves(made)
        rounds = "communication rounds (commits)"
        shown += [
            Panel(f"{kind}: time", lines, target=target),
            Panel(f"{kind}: rounds", lines, "version", rounds, True, target),
            Panel(f"{kind}: uploads", lines, "push", "uploads (pushes)", True, target),
        ]
    return Picture(panels.save(shown, path, columns=3), caption)
