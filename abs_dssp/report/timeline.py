"""What every worker did when: spans, a Chrome/Perfetto file, and a picture."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abs_dssp import files
from abs_dssp.history.traces import Trace
from abs_dssp.report import style

_COLORS = {
    "computing": style.COLORS["blue"],
    "sending": style.COLORS["sky"],
    "waiting": style.COLORS["light grey"],
    "cancelled": style.COLORS["vermilion"],
    "unfinished": style.COLORS["pale blue"],
}
KINDS = tuple(_COLORS)
MOST = 50_000  # pushes in a file for Chrome, some 30 MB
_TOLD = ("clock", "pulled", "staleness", "weight")  # of a push, in Chrome's file


class Span(NamedTuple):
    """One worker's activity over an interval of time."""

    worker: int
    start: float  # seconds
    end: float  # seconds
    kind: str  # one of KINDS
    row: int  # row of the trace that it belongs to; -1: it led to no push


def spans(trace: Trace, rows: Iterable[int] | None = None) -> Iterator[Span]:
    """The activities of all workers, in order of the trace's rows.

    A trace counts cancelled computations and does not time them, so those before one
    push are a single span; where pushes travel, it includes the push's transfer.

    Args:
      trace: of the run.
      rows: only what belongs to these, and what led to no push; all by default.
    """
    started, (waits_from, waits_until) = trace.started, trace.waits
    tolerance = 1e-9 * max(trace.seconds, 1e-12)
    for row in range(len(trace)) if rows is None else rows:
        worker = int(trace.worker[row])
        arrival, duration = float(trace.time[row]), float(trace.duration[row])
        begin = float(started[row])
        if trace.restarts[row] > 0:
            yield Span(worker, begin, arrival - duration, "cancelled", row)
            begin = arrival - duration
        end = min(begin + duration, arrival)
        yield Span(worker, begin, end, "computing", row)
        since, until = float(waits_from[row]), float(waits_until[row])
        if since - end > tolerance:
            yield Span(worker, end, since, "sending", row)
        if until - since > tolerance:
            yield Span(worker, since, until, "waiting", row)
    for worker, begin in trace.unfinished.items():
        some = worker < len(trace.open_restarts) and trace.open_restarts[worker] > 0
        kind = "cancelled" if some else "unfinished"
        yield Span(worker, begin, trace.seconds, kind, -1)


def chrome_events(trace: Trace, most: int = MOST) -> Iterator[dict[str, Any]]:
    """The trace in Chrome's Trace Event Format: a lane per worker, one for commits.

    Args:
      trace: of the run.
      most: pushes, the last ones; the name of the process says if there were more.
    """
    server = trace.num_workers
    lanes = [f"worker {i}" for i in range(server)] + ["server"]

    def event(ph: str, name: str, **more: Any) -> dict[str, Any]:
        return {"ph": ph, "name": name, "pid": 0} | more

    first = max(0, len(trace) - most)
    which = f" (the last {most:,} of {len(trace):,} pushes)" if first else ""
    yield event("M", "process_name", args={"name": trace.policy + which})
    for lane, name in enumerate(lanes):
        yield event("M", "thread_name", tid=lane, args={"name": name})
        yield event("M", "thread_sort_index", tid=lane, args={"sort_index": lane})
    columns = {name: getattr(trace, name) for name in _TOLD}
    for worker, start, end, kind, row in spans(trace, range(first, len(trace))):
        name = kind
        if kind == "cancelled":
            many = trace.restarts[row] if row >= 0 else trace.open_restarts[worker]
            name = f"cancelled x{many}"
        told = {what: told[row].item() for what, told in columns.items() if row >= 0}
        times = {"ts": start * 1e6, "dur": (end - start) * 1e6}  # microseconds
        yield event("X", name, cat=kind, tid=worker, **times, args=told)
    rows = first + np.flatnonzero(trace.committed[first:])
    made = trace.commit_times[int(trace.committed[:first].sum()) :]
    for row, seconds in zip(rows.tolist(), made.tolist(), strict=True):
        moment = {"ts": seconds * 1e6, "s": "t"}
        version = f"version {trace.version[row] + 1}"
        yield event("i", version, cat="commit", tid=server, **moment)


def save_chrome(trace: Trace, path: str | os.PathLike[str]) -> Path:
    """Writes a JSON file that chrome://tracing and ui.perfetto.dev open.

    It holds the last `MOST` pushes at most: what a browser can show.
    """
    with files.whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
        before = '{"displayTimeUnit": "ms", "traceEvents": ['
        for event in chrome_events(trace):
            file.write(before + json.dumps(event))
            before = ",\n"
        file.write("]}")
    return Path(path)


def draw(axes, trace: Trace, start: float, end: float) -> None:
    """Draws the workers' lanes between two times, in seconds, on Matplotlib axes."""
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for span in _begun(trace, end):
        if span.end > start and span.start < end:
            bar = (span.start, span.end - span.start)
            bars.setdefault((span.worker, span.kind), []).append(bar)
    for (worker, kind), pieces in bars.items():
        look = {"facecolor": _COLORS[kind], "edgecolor": "white", "linewidth": 0.4}
        axes.broken_barh(pieces, (worker - 0.38, 0.76), **look)
    commits = trace.commit_times
    commits = commits[(commits >= start) & (commits <= end)]
    top = np.full(len(commits), -0.62)
    axes.plot(commits, top, "v", color="black", markersize=2.5, clip_on=False)
    axes.set_xlim(start, end)
    axes.set_ylim(trace.num_workers - 0.5, -0.75)
    axes.set_yticks(range(trace.num_workers))
    axes.set_ylabel("worker")


def _begun(trace: Trace, end: float) -> Iterator[Span]:
    """The spans that may have begun before a time, without a walk over all others."""
    return spans(trace, np.flatnonzero(trace.started < end).tolist())


def window(
    traces: Sequence[Trace], rounds: int = 12, start: float = 0.0
) -> tuple[float, float]:
    """A stretch of the run in which a worker makes about `rounds` pushes."""
    per_push = [t.seconds * t.num_workers / max(len(t), 1) for t in traces]
    length = rounds * float(np.median(per_push))
    return start, min(start + length, max(t.seconds for t in traces))


def save_picture(traces: Sequence[Trace], path: str | os.PathLike[str]) -> Path:
    """One panel per trace, over the same stretch of time."""
    with style.figure():
        return style.save(picture(traces), path)


def picture(traces: Sequence[Trace], rounds: int = 12, start: float = 0.0) -> Any:
    """The figure that `save_picture` saves.

    Args:
      traces: of the runs, at least one.
      rounds: pushes of a worker that are shown, about.
      start: seconds at which the picture begins.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    with style.figure() as canvas:
        height = 0.75 + sum(0.32 + 0.16 * t.num_workers for t in traces)
        ratios = {"height_ratios": [t.num_workers + 1.5 for t in traces]}
        look = {"figsize": (7.0, height), "sharex": True, "gridspec_kw": ratios}
        figure, panels = canvas.subplots(len(traces), 1, squeeze=False, **look)
        start, end = window(traces, rounds, start)
        for axes, trace in zip(panels[:, 0], traces, strict=True):
            draw(axes, trace, start, end)
            share = f"waiting {100 * trace.waiting_share:.0f} %"
            if trace.cancelled_share > 0:
                share += f", cancelled {100 * trace.cancelled_share:.0f} %"
            name = trace.policy
            if trace.local_steps > 1:
                name += f", {trace.local_steps} local steps"
            axes.set_title(f"{name}   ({share} of the run)", loc="left")
        real = all(trace.recorded for trace in traces)
        label = "time (s)" if real else "virtual time (s)"
        longest = max(trace.seconds for trace in traces)
        if start > 0 or end < longest:
            part = "a part" if start > 0 else "the beginning"
            label += f": {part} of {longest:.3g} s"
        panels[-1, 0].set_xlabel(label)
        used = {
            span.kind
            for trace in traces
            for span in _begun(trace, end)
            if span.start < end and span.end > start
        }
        shown = {kind: color for kind, color in _COLORS.items() if kind in used}
        handles: list[Any] = [Patch(color=c, label=kind) for kind, c in shown.items()]
        mark: dict[str, Any] = {"color": "black", "marker": "v", "ls": "", "ms": 3}
        handles.append(Line2D([], [], label="commit", **mark))
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
        return figure
