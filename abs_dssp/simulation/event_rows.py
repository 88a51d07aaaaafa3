"""The rows that the event loop writes, and the trace that they make."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from abs_dssp.history import builder, traces
from abs_dssp.history.events import KINDS

PUSH = KINDS.index("push")


class DeadlockError(ValueError):
    """A run that cannot go on: everybody waits, or nobody is there or returns."""


STILL = 10_000  # pushes at one time, before a run that time ends is given up


def refuse_standstill(pushes: int, seconds: float) -> None:
    """Ends a run that only time would end, and in which time has stopped.

    Raises:
      ValueError: always.
    """
    raise ValueError(
        f"train: {pushes} pushes came at {seconds:g} s, so that until_seconds is never "
        "reached; give some computation a time above 0, or num_pushes."
    )


def width(with_absences: bool) -> int:
    """Columns of the rows: `builder.ROW`, and the kind where workers die."""
    return len(builder.ROW) + with_absences


def kinds(rows: Float[np.ndarray, "E W"]) -> Int[np.ndarray, " E"]:
    """The kind of each row, as a number of `events.KINDS`.

    Example:
      >>> rows = np.zeros((2, width(with_absences=False)))
      >>> rows[1, builder.ROW.index("worker")] = -1  # NOBODY
      >>> [KINDS[number] for number in kinds(rows)]
      ['push', 'timer']
    """
    if rows.shape[1] > len(builder.ROW):
        return rows[:, -1].astype(np.int64)
    by_timer = rows[:, builder.ROW.index("worker")] < 0
    return np.where(by_timer, builder.TIMER, PUSH)


def to_trace(
    rows: Float[np.ndarray, "E W"], last: builder.Ending, settings: dict[str, Any]
) -> traces.Trace:
    """The trace of the loop's rows.

    Args:
      rows: what `advance` or `advance_events` returned, up to the last event.
      last: the state after the last row.
      settings: the trace's remaining fields, `num_workers` and `policy` among them.

    Raises:
      DeadlockError: if there is a push at which nobody computes.
    """
    of_kind = kinds(rows)
    settings = dict(settings)
    count = settings.pop("num_workers")
    stuck = np.flatnonzero(np.isinf(rows[:, 0]))
    if stuck.size:
        before = of_kind[: stuck[0]]
        joins, leaves = (
            int((before == KINDS.index(kind)).sum()) for kind in ("join", "leave")
        )
        push = int((before == PUSH).sum()) + 1
        if leaves - joins == count:
            raise DeadlockError(
                f"every worker has died and none returns, at push {push}; give "
                "absences that end, or fewer pushes."
            )
        raise DeadlockError(
            f"every worker waits, nobody computes, at push {push}: "
            f"{settings['policy']} releases nobody any more; check its release rule."
        )
    made = builder.Builder(count)
    made.extend(rows[:, : len(builder.ROW)], of_kind)
    return made.trace(last, **settings)
