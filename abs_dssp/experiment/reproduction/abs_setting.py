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
from abs_dssp.simulation import public_times

NOTE = (
    "Our setting: ABS's delays, model, step sizes and U are not in the text available "
    "to us. Times are nearly those of the same group's STSyn: exponential with mean 1 "
    "for a local step, one draw for all local steps of a push."
)
EXPONENTIAL = "exponential(mean=1.0)"
MAIN = "one draw per push"


def _job(name: str) -> str:
    """A published job; the text is a part of the names of kept runs."""
    path = public_times.find(name).path
    return f'csv("traces/{path}",seconds="batch_time_norm",mean=1.0)'


# Times of a local step, and whether each step of a push has a time of its own.
TIMINGS = {
    MAIN: (EXPONENTIAL, False),
    "a draw per step": (EXPONENTIAL, True),
    "0.5 + exponential": ("shifted_exponential(shift=0.5,mean=0.5)", False),
    "stragglers": ("exponential(mean={})", False),
    "job 1": (_job("alibaba-job1"), True),
    "job 4": (_job("alibaba-job4"), True),
}
_STRAGGLERS = 5  # every so many workers one is slow
_SLOWNESS = 5.0
# Commits after which runs are evaluated beside their regular times: evenly spaced on a
# logarithmic axis.
_COMMITS = tuple(sorted({round(10 ** (k / 5)) for k in range(26)}))


def run(
    context: Context,
    workers: int,
    policy: str,
    local_steps: int,
    timing: str = MAIN,
    latency: float = 0.0,
) -> Run:
    """One method in that setting.

    Args:
      context: scale, and where runs are made.
      workers: N.
      policy: as text.
      local_steps: U.
      timing: of `TIMINGS`.
      latency: of a push, in mean local steps. Runs last the longer.
    """
    scale = context.scale
    seconds = scale.abs_seconds * (1 + latency / 5)
    link = f"link(bandwidth=1.0,num_bytes=0,latency={latency!r})"
    delays, redraw = TIMINGS[timing]
    slow = [i % _STRAGGLERS == _STRAGGLERS - 1 for i in range(workers)]
    means = [_SLOWNESS if late else 1.0 for late in slow]
    return scale.problems["abs"].run(
        policy=policy,
        workers=workers,
        delays=delays.format(means).replace(" ", ""),
        epochs=None,
        communication=link if latency else "none()",
        eval_seconds=seconds / scale.evaluations,
        eval_commits=_COMMITS,
        until_seconds=seconds,
        local_steps=local_steps,
        redraw=redraw,
    )


def targets(context: Context) -> tuple[float, ...]:
    """Accuracies that decide who is sooner."""
    return context.scale.problems["abs"].targets


def results(context: Context, made: Outcomes, kind: str) -> Table:
    """One row per method."""
    header = ["method"]
    for target in targets(context):
        header += [f"{target:.0%}: s", "rounds", "messages"]
    shares = ("waiting_share", "cancelled_share", "discarded_share")
    rows = []
    for name, runs in made.items():
        row = [name]
        for target in targets(context):
            columns = ("seconds", "version", "messages")
            row += [time_text(study.times_to(runs, target, c)) for c in columns]
        stale = f"{runs[0].measures['mean_staleness']:.2f}"
        known = (runs[0].measures.get(share) for share in shares)  # of kept runs
        lost = ("-" if share is None else f"{share:.0%}" for share in known)
        rows.append([*row, spread(finals(runs)), stale, *lost])
    caption = (
        f"To test accuracies that were fixed beforehand, {kind}. Messages are uploads "
        "and downloads, those of cancelled computations included."
    )
    more = ["accuracy at the end", "staleness", "waiting", "cancelled"]
    more += ["discarded"]
    return Table(caption, [*header, *more], rows)


def picture(context: Context, kinds, path, caption: str) -> Picture:
    """Four panels per kind: accuracy against time, rounds (two axes) and messages."""
    shown, target = [], targets(context)[-1]
    for kind, made in kinds.items():
        lines = panels.curves(made)
        rounds, messages = "rounds (commits)", "uploads and downloads"
        shown += [
            Panel(f"{kind}: time", lines, target=target),
            Panel("rounds", lines, "version", rounds, False, target),
            Panel("rounds, logarithmic", lines, "version", rounds, True, target),
            Panel("messages", lines, "messages", messages, False, target),
        ]
    return Picture(panels.save(shown, path, columns=4), caption)
