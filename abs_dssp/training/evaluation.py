"""What was measured during a run, and when to measure it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from abs_dssp.history import traces

# Every record has these; a task's own measures follow.
BASIC = ("push", "version", "seconds", "epoch")


@dataclasses.dataclass(frozen=True)
class History:
    """Evaluations in order of time, and the training loss of every push.

    A record holds `push` (pushes received), `version`, `seconds` (virtual time),
    `epoch` (samples processed / samples per epoch) and what the task's `evaluate`
    gives, such as `loss` and `accuracy` on held-out data.
    """

    records: tuple[Mapping[str, float], ...]
    push_loss: Float[np.ndarray, " P"]  # mean training loss of each push's batches

    def column(self, name: str) -> Float[np.ndarray, " E"]:
        """One measure over all records, in order."""
        return np.array([record.get(name, math.nan) for record in self.records], float)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        extra = [k for r in self.records for k in r if k not in BASIC]
        return (*BASIC, *dict.fromkeys(extra))

    def last(self, name: str) -> float:
        """The latest value of a measure; NaN if there is none."""
        column = self.column(name)
        return float(column[-1]) if column.size else math.nan

    def first_reaching(self, accuracy: float) -> Mapping[str, float] | None:
        """The first record of at least this accuracy, if any."""
        for record in self.records:
            if record.get("accuracy", math.nan) >= accuracy:
                return record
        return None


def points(
    trace: traces.Trace,
    every_commits: int | None,
    every_seconds: float | None,
) -> list[tuple[int, float]]:
    """When to evaluate: `(pushes received, seconds)`, in order.

    After every `every_commits`-th commit, and at every multiple of `every_seconds`
    with the parameters that the server has then; always at the start and at the end.

    Raises:
      ValueError: for an interval that is not above 0.
    """
    for name, value in (("commits", every_commits), ("seconds", every_seconds)):
        if value is not None and not value > 0:
            raise ValueError(f"eval_every_{name} must be above 0, got {value}.")
    found: dict[tuple[int, float], None] = {(0, 0.0): None}
    if every_commits is not None:
        made = np.cumsum(trace.committed)
        rows = np.flatnonzero(trace.committed & (made % every_commits == 0))
        found.update({(int(r) + 1, float(trace.time[r])): None for r in rows})
    if every_seconds is not None:
        grid = np.arange(1, int(trace.seconds / every_seconds) + 1) * every_seconds
        rows = np.searchsorted(trace.time, grid, side="right")
        found.update(
            {(int(r), float(s)): None for r, s in zip(rows, grid, strict=True)}
        )
    if len(trace):
        found[(len(trace), trace.seconds)] = None
    return sorted(found)


def versions_epochs(
    committed: np.ndarray, samples_per_push: int, samples_per_epoch: int
) -> Float[np.ndarray, " V"]:
    """Epochs processed when each version was made; version 0 at 0."""
    rows = np.flatnonzero(committed) + 1
    return np.concatenate([[0.0], rows * (samples_per_push / samples_per_epoch)])


def to_rows(
    history: History, names: Sequence[str] | None = None
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for a table."""
    header = list(names or history.names)
    rows = [
        [record.get(name, math.nan) for name in header] for record in history.records
    ]
    return header, rows


def commits_before(committed: np.ndarray) -> Int[np.ndarray, " P1"]:
    """Commits made before each row, and after the last one."""
    return np.concatenate([[0], np.cumsum(committed)])
