"""What was measured during a run, and when to measure it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from abs_dssp import checks, extras, markup
from abs_dssp.history import traces
from abs_dssp.training.config import EvaluationConfig

_SHOWN = 10  # records in a notebook
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

    def __repr__(self) -> str:
        return f"<History: {len(self.records)} records of {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        """A small table of the last records, which notebooks show."""
        shown = self.records[-_SHOWN:]
        some = f"the last {len(shown)} of " if len(shown) < len(self.records) else ""
        rows = [
            [markup.number(record.get(name, "")) for name in self.names]
            for record in shown
        ]
        return markup.table(self.names, rows, f"{some}{len(self.records)} records")

    def __getitem__(self, name: str) -> Float[np.ndarray, " E"]:
        """`column`.

        Example:
          >>> History(({"push": 4, "loss": 0.5},), np.empty(0))["loss"].tolist()
          [0.5]
        """
        return self.column(name)

    def column(self, name: str) -> Float[np.ndarray, " E"]:
        """One measure over all records, in order; NaN where a record lacks it.

        Raises:
          ValueError: for a name that is none of `names`, if anything was measured.
        """
        if self.records and name not in self.names:
            known = ", ".join(self.names)
            raise ValueError(f"history: unknown measure {name!r}; known: {known}.")
        return np.array([record.get(name, math.nan) for record in self.records], float)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        extra = [k for r in self.records for k in r if k not in BASIC]
        return (*BASIC, *dict.fromkeys(extra))

    def to_pandas(self) -> Any:
        """The records as a `pandas.DataFrame`, a row each.

        Raises:
          MissingExtraError: if pandas is not installed; `records`, a tuple of dicts,
            needs nothing.
        """
        with extras.needed("a DataFrame"):
            import pandas
        return pandas.DataFrame(list(self.records), columns=list(self.names))

    def plot(self, **settings: Any) -> Any:
        """Draws a measure against time; see `abs_dssp.plot.curves`."""
        from abs_dssp import plot

        return plot.curves([self], **settings)

    def last(self, name: str) -> float:
        """The latest value of a measure; NaN without records.

        Raises:
          ValueError: for a name that is none of `names`, if anything was measured.

        Example:
          >>> history = History(({"push": 4, "loss": 0.5},), np.empty(0))
          >>> history.last("loss")
          0.5
          >>> history.last("acc")
          Traceback (most recent call last):
          ValueError: history: unknown measure 'acc'; known: push, version, seconds, \
epoch, loss.
        """
        column = self.column(name)
        return float(column[-1]) if column.size else math.nan

    def first_reaching(
        self, value: float, measure: str = "accuracy"
    ) -> Mapping[str, float] | None:
        """The first record that is as good as this, if any: time to a target.

        Args:
          value: at least this accuracy, or at most this of any other measure.
          measure: one of `names`.

        Returns:
          The record, with its `seconds`, `version`, `epoch` and `push`; None if none is
          as good.

        Raises:
          ValueError: for an accuracy outside 0..1, or a measure that is not among
            `names`.

        Example:
          >>> records = ({"seconds": 1.0, "mae": 0.5}, {"seconds": 2.0, "mae": 0.3})
          >>> History(records, np.empty(0)).first_reaching(0.4, "mae")["seconds"]
          2.0
        """
        higher = measure == "accuracy"
        if higher:
            checks.share("history", "accuracy", value)
        if not self.records:
            return None
        for record, found in zip(self.records, self.column(measure), strict=True):
            if found >= value if higher else found <= value:
                return record
        return None


def points(
    trace: traces.Trace,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008
) -> list[tuple[int, float]]:
    """When to evaluate: at the start, at the end, and where `config` asks for it.

    At a multiple of `every_seconds` the server has the parameters of the pushes that
    arrived up to and including that time, but for one that a deadline commits later.

    Args:
      trace: who pushed when.
      config: the intervals.

    Returns:
      `(pushes received, seconds)` of every evaluation, in order.

    Example:

      >>> from abs_dssp import delays, policies, simulate
      >>> from abs_dssp.training import config, evaluation
      >>> trace = simulate.schedule(policies.asp(1), delays.constant([2.0]), 4)
      >>> evaluation.points(trace, config.EvaluationConfig(every_commits=3))
      [(0, 0.0), (3, 6.0), (4, 8.0)]
    """
    found: dict[tuple[int, float], None] = {(0, 0.0): None}
    times = trace.time.copy()  # at which parameters are those after a row
    times[trace.committed] = trace.commit_times
    if (every := config.every_commits) is not None:
        made = np.cumsum(trace.committed)
        numbers = np.asarray(every)
        wanted = np.isin(made, numbers) if numbers.ndim else made % numbers == 0
        rows = np.flatnonzero(trace.committed & wanted)
        found.update({(int(r) + 1, float(times[r])): None for r in rows})
    if config.every_seconds is not None:
        count = int(trace.seconds / config.every_seconds)
        grid = np.arange(1, count + 1) * config.every_seconds
        rows = np.searchsorted(times, grid, side="right")
        found.update(
            {(int(r), float(s)): None for r, s in zip(rows, grid, strict=True)}
        )
    if len(trace):
        found[(len(trace), trace.seconds)] = None
    return sorted(found)


def versions_epochs(
    committed: Bool[np.ndarray, " P"], samples_per_push: int, samples_per_epoch: int
) -> Float[np.ndarray, " V"]:
    """When each version was made, in epochs of samples processed; version 0 at 0.

    Args:
      committed: which pushes caused a commit, (P,) bool.
      samples_per_push: batch size times local steps.
      samples_per_epoch: training examples in all.
    """
    rows = np.flatnonzero(committed) + 1
    return np.concatenate([[0.0], rows * (samples_per_push / samples_per_epoch)])


def to_rows(
    history: History, names: Sequence[str] | None = None
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for a table; NaN where a record lacks a measure."""
    header = list(names or history.names)
    rows = [
        [record.get(name, math.nan) for name in header] for record in history.records
    ]
    return header, rows
