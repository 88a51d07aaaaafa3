"""The rules that every trace obeys; the first row that breaks one is named."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from abs_dssp.history.trace_format import COLUMNS, TraceError


def require_lawful(trace: Any) -> None:
    """Checks a `Trace` of one history.

    Raises:
      TraceError: naming the first row that breaks a rule.
    """
    rows = len(trace)
    require_columns(trace, COLUMNS)
    if trace.num_workers < 1:
        raise TraceError(f"num_workers must be at least 1, got {trace.num_workers}.")
    refuse(~(trace.time >= 0), "time={time} is not a time since the start", trace)
    refuse(
        np.diff(trace.time, prepend=0) < 0,
        "time={time} is before the row above",
        trace,
    )
    outside = (trace.worker < 0) | (trace.worker >= trace.num_workers)
    refuse(outside, "worker={worker} is not one of 0..N-1", trace)
    expected = np.empty(rows, np.int64)
    for mine in rows_of_workers(trace.worker, trace.num_workers):
        expected[mine] = np.arange(1, len(mine) + 1)
    refuse(
        trace.clock != expected,
        "clock={clock} does not count the pushes of worker {worker}",
        trace,
    )
    refuse(trace.pulled < 0, "pulled={pulled} is negative", trace)
    refuse(
        trace.pulled > trace.version,
        "pulled={pulled} exceeds version={version}",
        trace,
    )
    start = trace.version[0] if rows else 0
    made = start + np.cumsum(trace.committed) - trace.committed
    refuse(
        trace.version != made,
        "version={version} does not rise by one after each committed row",
        trace,
    )
    refuse(start != 0 and np.arange(rows) == 0, "version={version} must be 0", trace)
    refuse(~(trace.weight >= 0), "weight={weight} is negative or NaN", trace)
    refuse(trace.wait < 0, "wait={wait} is negative", trace)
    refuse(~(trace.duration >= 0), "duration={duration} is negative or NaN", trace)
    refuse(trace.restarts < 0, "restarts={restarts} is negative", trace)


def require_columns(trace: Any, columns: Mapping[str, Any]) -> None:
    """Refuses a trace whose columns are not of its length and their dtypes.

    Args:
      trace: that has them.
      columns: their dtypes, by name.

    Raises:
      TraceError: naming the first that differs.
    """
    rows = len(trace)
    for name, dtype in columns.items():
        column = getattr(trace, name)
        if column.shape != (rows,) or column.dtype != dtype:
            raise TraceError(
                f"column {name}: must be {rows} values of {dtype}, "
                f"got {column.shape} of {column.dtype}."
            )


def refuse(broken, message: str, trace: Any) -> None:
    """Refuses a trace with a row where `broken` holds, bool (P,).

    Args:
      broken: by row.
      message: what is wrong, with the names of columns in braces.
      trace: that has them.

    Raises:
      TraceError: naming the first such row.
    """
    rows = np.flatnonzero(broken)
    if rows.size:
        row = int(rows[0])
        values = {name: each[row].item() for name, each in trace.columns.items()}
        raise TraceError(f"row {row}: {message.format(**values)}.")


def rows_of_workers(
    worker: Int[np.ndarray, " P"], num_workers: int
) -> list[Int[np.ndarray, " _"]]:
    """The rows of each worker, in order.

    Example:
      >>> [mine.tolist() for mine in rows_of_workers(np.array([1, 0, 1]), 2)]
      [[1], [0, 2]]
    """
    order = np.argsort(worker, kind="stable")
    ends = np.searchsorted(worker[order], np.arange(1, num_workers))
    return np.split(order, ends)
