"""What another policy would have done: a run's recorded times, scheduled again.

A trace tells for every push how long its computation took and how long it travelled.
Handed out again, in order, to the computations that a worker starts, these times are a
model of worker speed, under which virtual time schedules another policy.

Three things are assumed. Computations and pushes would have taken as long under the
other policy, which is not so where workers share cores or a network. A cancelled
computation would have lasted at least until its cancellation, and as long as the
worker's median if that is longer. Workers that left or joined are there all the time,
unless the run's own deaths and returns are given too (`absences.recorded`).

A computation that a rule cancels at a deadline without a commit is not seen to begin
again: its time counts with that of the next one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from abs_dssp import checks, policies
from abs_dssp.history import loss_estimate
from abs_dssp.history.traces import Trace, rows_of_workers
from abs_dssp.policies import Policy
from abs_dssp.simulation import absences as absences_lib
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delays as delays_lib
from abs_dssp.simulation import recording, running, scheduling
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.delays import Delays
from abs_dssp.simulation.recording import Times, recorded_times

__all__ = ["Times", "recorded_times", "delays_of", "reschedule", "caveats"]
__all__ += ["FIELDS", "figures", "table", "staleness_seconds", "version_times"]

_FIGURES: dict[str, Callable[[Trace], Any]] = {
    "policy": lambda trace: trace.policy,
    "local_steps": lambda trace: trace.local_steps,
    "pushes": len,
    "seconds": lambda trace: trace.seconds,
    "pushes_per_second": lambda trace: trace.pushes_per_second,
    "steps_per_second": lambda trace: trace.pushes_per_second * trace.local_steps,
    "commits": lambda trace: trace.commits,
    "waiting_share": lambda trace: trace.waiting_share,
    "cancelled_share": lambda trace: trace.cancelled_share,
    "discarded_share": lambda trace: trace.discarded_share,
    "mean_staleness": lambda trace: float(trace.staleness.mean()),
    "max_staleness": lambda trace: int(trace.staleness.max()),
    "mean_staleness_seconds": lambda trace: float(staleness_seconds(trace).mean()),
    "max_staleness_seconds": lambda trace: float(staleness_seconds(trace).max()),
}
FIELDS = tuple(_FIGURES)

_TABLE = (  # field, heading, format
    ("pushes_per_second", "pushes/s", "{:.4g}"),
    ("steps_per_second", "steps/s", "{:.4g}"),
    ("commits", "commits", "{:.0f}"),
    ("waiting_share", "waiting", "{:.1%}"),
    ("cancelled_share", "cancelled", "{:.1%}"),
    ("discarded_share", "discarded", "{:.1%}"),
    ("mean_staleness", "staleness", "{:.2f}"),
    ("max_staleness", "max", "{:.0f}"),
    ("mean_staleness_seconds", "staleness (s)", "{:.3g}"),
    ("max_staleness_seconds", "max (s)", "{:.3g}"),
)


def delays_of(
    trace: Trace,
    *,
    local_steps: int | None = None,
    communication: bool = True,
    replayable: bool = False,
) -> Delays:
    """The recorded times as a model of worker speed, for `simulate.schedule`.

    A duration of the model is a computation with its communication, such that start
    plus duration is the recorded arrival in float64. (Very early in a run there may be
    no such number; the arrival then moves by one unit in the last place.) So the
    run's own policy gives the same rows. A worker that never pushed gets the mean of
    the others, or the time that it was seen to compute, if longer.

    Args:
      trace: of a run.
      local_steps: U of the pushes to come; computations are scaled by U over the
        trace's own U. The same by default.
      communication: False for the computations alone.
      replayable: every cancelled or unfinished computation lasts longer than the run,
        so that the run's own policy gives the same rows for certain; for other
        policies, such durations mean nothing. By default a cancelled computation
        lasts as the module says, and where the trace does not tell the times of
        several cancellations before one push, they are spread evenly.

    Raises:
      ValueError: for a trace without pushes, a push of a worker not released, or
        `local_steps` below 1.
    """
    table = recording.table(trace, local_steps, communication, replayable)
    return _padded(delays_lib.recorded(table.durations))


def reschedule(
    trace: Trace,
    policy: Policy | str,
    *,
    num_pushes: int | None = None,
    local_steps: int | None = None,
    communication: bool = True,
    replayable: bool = False,
    absences: Absences | str | None = None,
    losses: np.ndarray | None = None,
    first: float = math.nan,
) -> Trace:
    """The recorded times under a policy, in virtual time.

    The run's own policy with `replayable` and `absences.recorded(trace)` gives the
    recorded rows, if no push was refused.

    Args:
      trace: of a run.
      policy: the rule, for as many workers, or its text.
      num_pushes: rows of the new trace; as many gradient steps as recorded by default.
      local_steps: see `delays_of`.
      communication: see `delays_of`.
      replayable: see `delays_of`.
      absences: who dies and returns meanwhile; nobody by default.
      losses: recorded training loss of every push, for a policy that reads it; without
        them it sees none. For another policy than the run's they are an assumption.
      first: the objective at version 0, for such a policy.

    Raises:
      ValueError: as `delays_of`; for `num_pushes` below 1, a policy for another number
        of workers, or other than one loss per push.
      DeadlockError: if at some push every worker waits.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.5]), 4)
      >>> again = reschedule(trace, policies.asp(2))
      >>> again.time.tolist(), again.worker.tolist()
      ([1.0, 2.0, 2.5, 3.0], [0, 0, 1, 0])
    """
    table = recording.table(trace, local_steps, communication, replayable)
    model = _padded(delays_lib.recorded(table.durations))
    policy = policies.resolve(policy, trace.num_workers, "whatif")
    if num_pushes is not None:
        num_pushes = checks.whole("whatif", "num_pushes", num_pushes, least=1)
    steps = local_steps or trace.local_steps
    if num_pushes is None:
        num_pushes = max(1, round(len(trace) * trace.local_steps / steps))
    if losses is None:
        made = scheduling.schedule(
            policy,
            model,
            num_pushes,
            trace.seed,
            absences=absences,
            local_steps=steps,
            task=trace.task,
        )
        return _computing_alone(made, table)
    if len(losses) != len(trace):
        raise ValueError(
            f"whatif: losses must be one per push ({len(trace)}), got {len(losses)}."
        )
    origin, none = (trace.seed, steps, trace.task), communication_lib.none()
    absences = absences_lib.resolve(absences, trace.num_workers, "whatif")
    source = running.Source(policy, model, none, num_pushes, None, *origin, absences)
    return _computing_alone(_with_losses(source, losses, first), table)


def version_times(trace: Trace) -> Float[np.ndarray, " V"]:
    """Seconds at which every version was made, 0 for version 0; float64.

    A commit that a departure caused counts at the push before it, as in the trace.
    """
    return np.concatenate([[0.0], trace.commit_times])


def staleness_seconds(trace: Trace) -> Float[np.ndarray, " P"]:
    """Seconds between the making of the pulled version and the push's arrival."""
    return trace.time - version_times(trace)[trace.pulled]


def figures(trace: Trace) -> dict[str, Any]:
    """A run in the numbers of `FIELDS`; None where there is no value.

    Raises:
      ValueError: for a trace without pushes.
    """
    recording.require_pushes(trace)
    return {name: finite(figure(trace)) for name, figure in _FIGURES.items()}


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """What `figures` gave as aligned text, one line per entry."""
    rows = [["policy", *(heading for _, heading, _ in _TABLE)]]
    for entry in entries:
        values = [(entry[name], form) for name, _, form in _TABLE]
        cells = ["-" if value is None else form.format(value) for value, form in values]
        rows.append([entry["policy"], *cells])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A header and rows in columns of equal width, the first aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = [c.rjust(w) for c, w in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite has no value."""
    odd = isinstance(value, float) and not math.isfinite(value)
    return None if odd else value


def caveats(trace: Trace) -> list[str]:
    """What the re-scheduling of this trace leaves out or makes up, in sentences."""
    rows = rows_of_workers(trace.worker, trace.num_workers)
    silent = [str(worker) for worker, mine in enumerate(rows) if not mine.size]
    sentences = []
    if silent:
        sentences.append(
            f"no push of worker {', '.join(silent)} is recorded: computations there "
            "take the mean of the other workers', or what they were seen to take."
        )
    gone = sorted({e.worker for e in trace.events if e.kind in ("leave", "join")})
    if gone:
        sentences.append(
            f"worker {', '.join(map(str, gone))} left or joined during the run: "
            "re-scheduled, everybody works from the start to the end."
        )
    refused = sum(event.kind == "refuse" for event in trace.events)
    if refused:
        sentences.append(
            f"{refused} refused pushes count as computations that were cancelled."
        )
    return sentences


def _computing_alone(trace: Trace, table: recording.Table) -> Trace:
    """A schedule of the table, whose durations then count no communication."""
    duration = trace.duration.copy()
    for worker, mine in enumerate(rows_of_workers(trace.worker, trace.num_workers)):
        parts = table.computing[worker]
        number = np.cumsum(trace.restarts[mine] + 1) - 1  # of the computations begun
        for rows, count in recording.lost_at(trace, worker, mine).items():
            number[mine >= rows] += count
        duration[mine] = parts[number % len(parts)]
    return dataclasses.replace(trace, duration=duration)


def _padded(model: Delays) -> Delays:
    """The same with a longer table: runs of similar length share a compiled program."""
    cells = model.parameters["durations"]
    size = max(delays_lib.BLOCK, 1 << (cells.shape[1] - 1).bit_length())
    cells = np.pad(cells, ((0, 0), (0, size - cells.shape[1])))
    parameters = model.parameters | {"durations": cells}
    return dataclasses.replace(model, parameters=parameters)


def _with_losses(source: running.Source, losses, first: float) -> Trace:
    """All pushes of a source whose policy is told the recorded losses on the way."""
    every = 10 * source.delays.num_workers  # pushes between which the estimate stays
    estimate = loss_estimate.LossEstimate(source.delays.num_workers, first)
    done = 0
    while not source.ended:
        source.more(every, estimate.value)
        for loss in losses[done : done + every]:
            estimate.add(float(loss))
        done += every
    return source.trace().validate()
