"""When the work behind every push of a trace began, and how long it took.

A trace times arrivals, waits and computations. The rest follows: a worker begins when
it is released, and again where a computation was cancelled, and what a computation
leaves of the time up to the arrival is communication.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from abs_dssp.history import traces
from abs_dssp.history.traces import Trace, rows_of_workers


class Times(NamedTuple):
    """Seconds of every push, one float64 array per worker, in order of its clock."""

    computation: list[np.ndarray]
    communication: list[np.ndarray]  # transfers, queueing and the server's work


class Starts(NamedTuple):
    """When the work behind every push began; a row of -1: at no row of the trace."""

    released: Float[np.ndarray, " P"]  # seconds; its first computation
    release_row: Int[np.ndarray, " P"]
    started: Float[np.ndarray, " P"]  # seconds; the computation that was not cancelled
    start_row: Int[np.ndarray, " P"]


class Table(NamedTuple):
    """Seconds of the computations that each worker starts, in order; float64 arrays."""

    durations: list[np.ndarray]  # with communication
    computing: list[np.ndarray]  # without


def recorded_times(trace: Trace) -> Times:
    """Splits the time between a worker's start and its arrival in two.

    The computation of a push began when the worker was released; if computations were
    cancelled in between, when the version that it pulled was made. What the
    computation leaves of the time up to the arrival is communication.

    Raises:
      ValueError: for a trace without pushes, or a push of a worker not released.
    """
    starts = starts_of(trace)
    rest = np.maximum(trace.time - starts.started - trace.duration, 0.0)
    rows = rows_of_workers(trace.worker, trace.num_workers)
    return Times([trace.duration[mine] for mine in rows], [rest[mine] for mine in rows])


def table(
    trace: Trace,
    local_steps: int | None = None,
    communication: bool = True,
    replayable: bool = False,
) -> Table:
    """What `whatif.delays_of` describes, worker by worker."""
    if local_steps is not None and local_steps < 1:
        raise ValueError(f"whatif: local_steps must be at least 1, got {local_steps}.")
    starts = starts_of(trace)
    scale = (local_steps or trace.local_steps) / trace.local_steps
    total = exact_seconds(trace, starts)
    computing = np.minimum(trace.duration, total)
    transfers = total - computing
    if not communication:
        total = computing = scale * trace.duration
    elif scale != 1:
        computing = scale * computing
        total = computing + transfers
    rows = rows_of_workers(trace.worker, trace.num_workers)
    usual = np.array([np.median(total[mine]) if mine.size else np.nan for mine in rows])
    usual[np.isnan(usual)] = np.mean([total[mine].mean() for mine in rows if mine.size])
    found = Table([], [])
    for worker, mine in enumerate(rows):
        seen: list[float] = []  # seconds; of one that did not end in a push, so far
        row_of: list[int] = []  # -1 for such a one
        for row in mine.tolist():
            lost = cancelled(trace, starts, row)
            seen += [*lost, 0.0]
            row_of += [-1] * len(lost) + [row]
        lost = [x for x in unfinished(trace, worker, replayable) if x > 0 or replayable]
        seen += lost
        row_of += [-1] * len(lost)
        if not seen:  # gone all the time
            found.durations.append(usual[[worker]])
            found.computing.append(usual[[worker]])
            continue
        number = np.array(row_of)
        if replayable:
            made_up = np.full(len(seen), 2 * trace.seconds + 1)
        else:
            # The margin is enough for any start within the run: it ends after its
            # cancellation.
            margin = 4 * np.spacing(trace.seconds)
            made_up = np.maximum(scale * np.array(seen) + margin, usual[worker])
        spent = total[mine].sum()
        share = computing[mine].sum() / spent if spent > 0 else 1.0
        found.durations.append(np.where(number >= 0, total[number], made_up))
        found.computing.append(
            np.where(number >= 0, computing[number], share * made_up)
        )
    return found


def require_pushes(trace: Trace) -> None:
    """Raises ValueError for a trace without any."""
    if not len(trace):
        raise ValueError("whatif: the trace has no pushes.")


def starts_of(trace: Trace) -> Starts:
    """When the work behind every push began.

    Raises:
      ValueError: as `recorded_times`.
    """
    require_pushes(trace)
    after = trace.version + trace.committed
    released = np.zeros(len(trace))
    release_row = np.full(len(trace), -1)
    rows = rows_of_workers(trace.worker, trace.num_workers)
    for mine in rows:
        for row, following in zip(mine[:-1], mine[1:], strict=True):
            same = trace.restarts[following] == 0
            pulled = int(trace.pulled[following]) if same else None
            place, seconds = _release(trace, after, int(row), int(following), pulled)
            release_row[following], released[following] = place, seconds

    def next_push(event: traces.Event) -> int | None:
        mine = rows[event.worker]
        place = np.searchsorted(mine, event.rows)
        return int(mine[place]) if place < mine.size else None

    for event in trace.events:
        row = next_push(event)
        if event.kind == "join" and row is not None:
            released[row], release_row[row] = event.seconds, -1
    lost = np.flatnonzero(np.isnan(released))
    if lost.size:
        raise ValueError(
            f"whatif: row {lost[0]}: worker {trace.worker[lost[0]]} pushes again "
            "without having been released."
        )
    started, start_row = released.copy(), release_row.copy()
    # Restarts happen at commits: the last one where the pulled version was made.
    made = np.concatenate([[-1], np.flatnonzero(trace.committed)])[trace.pulled]
    again = (trace.restarts > 0) & (made >= 0) & (trace.time[made] >= released)
    started[again], start_row[again] = trace.time[made[again]], made[again]
    for event in trace.events:  # a refused push starts again on the spot
        row = next_push(event)
        if event.kind == "refuse" and row is not None and event.seconds > started[row]:
            started[row], start_row[row] = event.seconds, -1
    return Starts(released, release_row, started, start_row)


def _release(
    trace: Trace, after: np.ndarray, row: int, end: int, pulled: int | None
) -> tuple[int, float]:
    """Row and time at which the worker that pushed in `row` was released.

    A wait is a rounded difference of two times, so that the sum may miss the second
    one by a unit in the last place, and another row's time may lie there.
    """
    wait = trace.wait[row]
    time = float(trace.time[row] + wait)
    if math.isnan(time):
        return -1, math.nan
    reach = 2 * np.spacing(time)
    low = max(row, int(np.searchsorted(trace.time, time - reach)))
    high = min(end, int(np.searchsorted(trace.time, time + reach, side="right")))
    fits = [r for r in range(low, high) if trace.time[r] - trace.time[row] == wait]
    best = [r for r in fits if after[r] == pulled] or fits
    if not best:  # released by a departure, at a time that no row has
        return -1, time
    return best[0], float(trace.time[best[0]])


def exact_seconds(trace: Trace, starts: Starts) -> Float[np.ndarray, " P"]:
    """Seconds from start to arrival whose float64 sum with the start is the arrival.

    The rounded difference need not have this property, and an arrival that is off by
    one unit in the last place may change who comes first. Goes row by row, as the event
    loop does: what is added to a start is added to the arrival that the loop gives.
    """
    seconds = np.empty(len(trace))
    arrivals: list[float] = []
    latest, highest = 0.0, -1  # the last arrival, and the last of those who came then
    for row in range(len(trace)):
        place, worker = int(starts.start_row[row]), int(trace.worker[row])
        start, target = float(starts.started[row]), float(trace.time[row])
        instant = start == target
        if place >= 0:
            start = arrivals[place]
        # Of two who arrive together the loop takes the lower index first.
        least = latest
        if not instant and worker <= highest:
            least = math.nextafter(latest, math.inf)
        seconds[row] = _addend(start, target, least)
        arrival = start + float(seconds[row])
        if arrival > latest:
            highest = -1
        if not instant:
            highest = max(highest, worker)
        latest = arrival
        arrivals.append(arrival)
    return seconds


def _addend(start: float, target: float, least: float) -> float:
    """The x >= 0 whose sum with `start` is next to `target`, and `least` or later."""
    target = max(target, least)
    middle = max(target - start, 0.0)
    if start + middle == target:
        return middle
    near = [math.nextafter(middle, 0.0), middle, math.nextafter(middle, math.inf)]
    late = [x for x in near if start + x >= least] or near[-1:]
    return min(late, key=lambda x: abs(start + x - target))


def cancelled(trace: Trace, starts: Starts, row: int) -> Sequence[float]:
    """How long each computation cancelled before a push was seen to take, at least."""
    count = int(trace.restarts[row])
    begin, end = float(starts.released[row]), float(starts.started[row])
    if not count:
        return []
    first, last = int(starts.release_row[row]), int(starts.start_row[row])
    cuts = _commits(trace, first, begin, last)
    if cuts.size != count:  # which commits they were is not known, or it was no commit
        return [(end - begin) / count] * count
    return np.diff(cuts, prepend=begin).tolist()


def unfinished(trace: Trace, worker: int, replayable: bool) -> Sequence[float]:
    """The same of the computations that had not led to a push when the run ended.

    The last one was still running; those before it had been cancelled. Where the trace
    does not tell how many, `replayable` asks for as many as there can be.
    """
    mine = np.flatnonzero(trace.worker == worker)
    own = [e for e in trace.events if e.worker == worker and e.kind != "refuse"]
    row, begin = -1, 0.0
    if mine.size:
        after = trace.version + trace.committed
        row, begin = _release(trace, after, int(mine[-1]), len(trace), None)
    if own and own[-1].rows > (mine[-1] if mine.size else -1):
        row, begin = -1, own[-1].seconds if own[-1].kind == "join" else math.nan
    if math.isnan(begin):
        return []
    cuts = _commits(trace, row, begin, len(trace) - 1)
    count = trace.open_restarts[worker] if trace.open_restarts else None
    if count is None:  # not known: enough for certain, or the least
        count = cuts.size if replayable else 0
    if cuts.size != count:
        return [(trace.seconds - begin) / (count + 1)] * (count + 1)
    return np.diff([begin, *cuts, trace.seconds]).tolist()


def _commits(
    trace: Trace, first: int, begin: float, last: int
) -> Float[np.ndarray, " C"]:
    """Times of the commits after row `first`, or if that is -1 after time `begin`.

    Up to and including row `last`.
    """
    if first < 0 and begin > 0:
        first = int(np.searchsorted(trace.time, begin, side="right")) - 1
    rows = slice(first + 1, last + 1)
    return trace.time[rows][trace.committed[rows]]
