"""When the work behind every push of a trace began, and how long it took.

A trace has the times of arrivals, the waits and the durations of computations. From
these follow the starts, since a worker begins when it is released and again where a
computation was cancelled, and the communication, which is what remains between the end
of a computation and the arrival.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from abs_dssp import checks
from abs_dssp.history import traces
from abs_dssp.history.traces import Trace, rows_of_workers


class Times(NamedTuple):
    """What every push took; one float64 array per worker, in order of its clock.

    Attributes:
      computation: seconds of the computation that led to the push.
      communication: seconds of transfers, queueing and the server's work.
    """

    computation: list[Float64[np.ndarray, " M"]]
    communication: list[Float64[np.ndarray, " M"]]


class Starts(NamedTuple):
    """When the work behind every push began; arrays of P rows, as the trace.

    Attributes:
      released: seconds; start of the first computation since the last push.
      release_row: row of the trace at which the worker was released; -1 for none.
      started: seconds; start of the computation that was not cancelled.
      start_row: row of the trace at which that computation started; -1 for none.
    """

    released: Float64[np.ndarray, " P"]
    release_row: Int[np.ndarray, " P"]
    started: Float64[np.ndarray, " P"]
    start_row: Int[np.ndarray, " P"]


class Table(NamedTuple):
    """The computations that each worker starts, in order; one float64 array per worker.

    Attributes:
      durations: seconds with communication.
      computing: seconds without.
    """

    durations: list[Float64[np.ndarray, " M"]]
    computing: list[Float64[np.ndarray, " M"]]


def recorded_times(trace: Trace) -> Times:
    """Splits the time between a worker's start and its arrival in two.

    The computation of a push began when the worker was released or, if computations
    were cancelled in between, when the version that it pulled was made. What remains
    between its end and the arrival is communication.

    Args:
      trace: of a run, real or virtual.

    Raises:
      ValueError: for a trace without pushes, or a push of a worker not released.

    Example:
      >>> from abs_dssp import communication, delays, policies, simulate, whatif
      >>> link = communication.link(num_bytes=1, bandwidth=2)
      >>> trace = simulate.schedule(
      ...     policies.asp(2), delays.constant([1.0, 3.0]), 4, communication=link)
      >>> trace.time.tolist()
      [1.5, 3.0, 3.5, 4.5]
      >>> times = whatif.recorded_times(trace)
      >>> [seconds.tolist() for seconds in times.computation]
      [[1.0, 1.0, 1.0], [3.0]]
      >>> [seconds.tolist() for seconds in times.communication]
      [[0.5, 0.5, 0.5], [0.5]]
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
    """The durations of all computations of a run, for `whatif.delays_of`.

    A computation that did not lead to a push, because it was cancelled or the run
    ended, gets a duration that is at least as long as it was seen to take and at least
    the worker's median, so that it ends later than it was cancelled. A worker that
    never started gets the mean of the others.

    Args:
      trace: of a run, real or virtual.
      local_steps: U of the pushes to come; computations are scaled by U over the
        trace's own U. The trace's own by default.
      communication: False for the computations alone.
      replayable: whether every computation that did not lead to a push lasts longer
        than the run instead, so that the run's own policy gives the same rows; those
        that a departure ended are then among them.

    Returns:
      One array of seconds per worker, with an entry for each computation that it was
      seen to run. Start plus duration is the recorded arrival in float64.

    Raises:
      ValueError: for `local_steps` below 1, or as `recorded_times`.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> from abs_dssp.simulation import recording
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 3.0]), 3)
      >>> trace.time.tolist()
      [1.0, 3.0, 4.0]
      >>> [seconds.tolist() for seconds in recording.table(trace).durations]
      [[1.0, 1.0], [3.0, 3.0]]

      The second computation of worker 1 was seen to take one second; the median is 3.
    """
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
    result = Table([], [])
    for worker, mine in enumerate(rows):
        # Of each computation: how long it was seen to take, and the row of its push, -1
        # where it did not lead to one.
        seen: list[float] = []
        row_of: list[int] = []
        left = lost_at(trace, worker, mine) if replayable else {}
        for row in mine.tolist():
            for before in [each for each in left if each <= row]:
                seen += [0.0] * left[before]
                row_of += [-1] * left.pop(before)
            lost = cancelled(trace, starts, row)
            seen += [*lost, 0.0]
            row_of += [-1] * len(lost) + [row]
        rest = sum(left.values())
        seen, row_of = seen + [0.0] * rest, row_of + [-1] * rest
        lost = [x for x in unfinished(trace, worker, replayable) if x > 0 or replayable]
        seen += lost
        row_of += [-1] * len(lost)
        if not seen:  # it never started a computation
            for seconds in result:
                seconds.append(usual[[worker]])
            continue
        number = np.array(row_of)
        if replayable:
            made_up = np.full(len(seen), 2 * trace.seconds + 1)
        else:
            # With this margin it ends after its cancellation, whenever it starts.
            margin = 4 * np.spacing(trace.seconds)
            made_up = np.maximum(scale * np.array(seen) + margin, usual[worker])
        spent = total[mine].sum()
        share = computing[mine].sum() / spent if spent > 0 else 1.0
        result.durations.append(np.where(number >= 0, total[number], made_up))
        made_up = share * made_up
        result.computing.append(np.where(number >= 0, computing[number], made_up))
    return result


def require_pushes(trace: Trace) -> None:
    """Refuses what is no trace, and a trace without pushes."""
    checks.kind("whatif", "trace", trace, Trace, "traces.Trace.load('trace.npz')")
    traces.require_one_history("whatif", trace)
    if not len(trace):
        raise ValueError("whatif: the trace has no pushes.")


def starts_of(trace: Trace) -> Starts:
    """When the work behind every push began.

    Args:
      trace: of a run, real or virtual.

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
            release_row[following], released[following] = _release(
                trace, after, int(row), int(following), pulled
            )

    def next_push(event: traces.Event) -> int | None:
        mine = rows[event.worker]
        position = np.searchsorted(mine, event.rows)
        return int(mine[position]) if position < mine.size else None

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
    # Computations restart at commits; the last restart made the version pulled.
    made = np.concatenate([[-1], np.flatnonzero(trace.committed)])[trace.pulled]
    times = np.concatenate([[0.0], trace.commit_times])[trace.pulled]
    again = (trace.restarts > 0) & (made >= 0) & (times >= released)
    by_push = times == trace.time[made]  # a timer's time is no row's
    started[again], start_row[again] = times[again], np.where(by_push, made, -1)[again]
    timed = any(event.kind == "timer" for event in trace.events)
    kinds = ("timer", "leave")
    others = np.array([e.seconds for e in trace.events if e.kind in kinds])
    for row in np.flatnonzero(trace.restarts > 0) if timed else ():
        # At one that made no version, if the computation took just the time since.
        off = np.abs(others + trace.duration[row] - trace.time[row])
        near = others[off <= 2 * np.spacing(trace.time[row])]
        if near.size and near[-1] > started[row]:
            started[row], start_row[row] = near[-1], -1
    for event in trace.events:  # a refused worker starts again at once
        row = next_push(event)
        if event.kind == "refuse" and row is not None and event.seconds > started[row]:
            started[row], start_row[row] = event.seconds, -1
    return Starts(released, release_row, started, start_row)


def _release(
    trace: Trace, after: Int[np.ndarray, " P"], row: int, end: int, pulled: int | None
) -> tuple[int, float]:
    """Row and time at which the worker that pushed in `row` was released.

    A wait is a rounded difference of two times. Adding it to the first may therefore
    miss the second by a unit in the last place, and hit the time of another row.
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
    if not best:  # a departure or a timer released it, at a time that no row has
        others = [e.seconds for e in trace.events if e.kind in ("timer", "leave")]
        exact = [t for t in others if t - trace.time[row] == wait]
        return -1, exact[0] if exact else time
    return best[0], float(trace.time[best[0]])


def exact_seconds(trace: Trace, starts: Starts) -> Float[np.ndarray, " P"]:
    """Seconds from start to arrival whose float64 sum with the start is the arrival.

    The rounded difference need not have this property, and an arrival that is off by
    one unit in the last place may change who comes first. Rows are processed in order,
    because a start is the arrival in an earlier row, as the event loop computes it.

    Args:
      trace: of a run, real or virtual.
      starts: as `starts_of` gives them.

    Returns:
      (P,) seconds.
    """
    seconds = np.empty(len(trace))
    arrivals: list[float] = []
    latest, highest = 0.0, -1  # the last arrival, and its highest worker index
    for row in range(len(trace)):
        start_row, worker = int(starts.start_row[row]), int(trace.worker[row])
        start, target = float(starts.started[row]), float(trace.time[row])
        instant = start == target
        if start_row >= 0:
            start = arrivals[start_row]
        # Of two workers that arrive together the loop takes the lower index first.
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
    """How long each computation ran that was cancelled before a push.

    Args:
      trace: of a run, real or virtual.
      starts: as `starts_of` gives them.
      row: of the push.

    Returns:
      Seconds of every cancelled computation, in order. Where the trace does not show
      at which commits they were cancelled, the time is divided evenly.
    """
    count = int(trace.restarts[row])
    begin, end = float(starts.released[row]), float(starts.started[row])
    if not count:
        return []
    first, last = int(starts.release_row[row]), int(starts.start_row[row])
    cuts = _commits(trace, first, begin, last)
    if cuts.size != count:  # it is not known at which commits, or it was at none
        return [(end - begin) / count] * count
    return np.diff(cuts, prepend=begin).tolist()


def lost_at(trace: Trace, worker: int, mine: Int[np.ndarray, " M"]) -> dict[int, int]:
    """Computations that a worker's departures ended, and those cancelled before.

    Args:
      trace: of a run, real or virtual.
      worker: index of the worker.
      mine: its rows.

    Returns:
      How many, by the number of rows before a departure.
    """
    found: dict[int, int] = {}
    joined = True  # it computes at the start
    before = 0
    for event in trace.events:
        if event.worker != worker or event.kind not in ("leave", "join"):
            continue
        pushed = mine[(mine >= before) & (mine < event.rows)]
        before = event.rows
        if event.kind == "leave":
            computes = (
                joined if not pushed.size else not np.isnan(trace.wait[pushed[-1]])
            )
            found[event.rows] = found.get(event.rows, 0) + event.restarts + computes
        joined = event.kind == "join"
    return found


def unfinished(trace: Trace, worker: int, replayable: bool) -> Sequence[float]:
    """How long each computation ran that had not led to a push when the run ended.

    The last one was still running; those before it had been cancelled.

    Args:
      trace: of a run, real or virtual.
      worker: index of the worker.
      replayable: whether to count as many as there can be, rather than the fewest,
        where the trace does not tell how many were cancelled.

    Returns:
      Seconds of every such computation, in order; none for a worker that had left.
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
    if count is None:
        count = cuts.size if replayable else 0
    if cuts.size != count:
        return [(trace.seconds - begin) / (count + 1)] * (count + 1)
    return np.diff([begin, *cuts, trace.seconds]).tolist()


def _commits(
    trace: Trace, first: int, begin: float, last: int
) -> Float[np.ndarray, " C"]:
    """Times of the commits after row `first`, up to and including row `last`.

    If `first` is -1, those after the time `begin`.
    """
    if first < 0 and begin > 0:
        first = int(np.searchsorted(trace.time, begin, side="right")) - 1
    rows = slice(first + 1, last + 1)
    return trace.time[rows][trace.committed[rows]]
