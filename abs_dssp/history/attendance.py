"""Who was there in a run, and what departures cost, from its trace."""

from abs_dssp.history.traces import Trace, rows_of_workers


def away_seconds(trace: Trace) -> float:
    """Worker seconds between departures and returns, up to the last arrival.

    Example:
      >>> from abs_dssp import simulate
      >>> gone = "given([(0, 1.5, 4.0)])"
      >>> trace = simulate.schedule("asp()", "constant([1, 3])", 4, absences=gone)
      >>> away_seconds(trace), lost_seconds(trace)  # from 1.5 to 4, and from 1 to 1.5
      (2.5, 0.5)
    """
    total, left = 0.0, dict[int, float]()
    for event in trace.events:
        if event.kind == "leave":
            left[event.worker] = event.seconds
        elif event.kind == "join" and event.worker in left:
            total += event.seconds - left.pop(event.worker)
    return total + sum(max(trace.seconds - since, 0.0) for since in left.values())


def lost_seconds(trace: Trace) -> float:
    """Worker seconds in computations that a departure ended.

    They count from the release, or the return, to the departure: also what was
    cancelled in between, and the time in which a dead worker was thought to compute.
    """
    total = 0.0
    rows = rows_of_workers(trace.worker, trace.num_workers)
    begun = dict.fromkeys(range(trace.num_workers), 0.0)  # by who joined last
    before = dict.fromkeys(range(trace.num_workers), 0)  # rows before that
    for event in trace.events:
        worker = event.worker
        if event.kind == "join":
            begun[worker], before[worker] = event.seconds, event.rows
        elif event.kind == "leave":
            mine = rows[worker]
            mine = mine[(mine >= before[worker]) & (mine < event.rows)]
            since = begun[worker]
            if mine.size:
                since = float(trace.time[mine[-1]] + trace.wait[mine[-1]])
            if since < event.seconds:  # not NaN either: it waited
                total += event.seconds - since
    return total
