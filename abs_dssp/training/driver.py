"""Takes an engine over a trace: evaluations, limits, checkpoints, progress, result."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from abs_dssp import markup
from abs_dssp.history import traces
from abs_dssp.history.fragments import FragmentedTrace
from abs_dssp.history.traces import Trace
from abs_dssp.tasks.base import Variables, require_accuracy
from abs_dssp.training import engines, evaluation
from abs_dssp.training.checkpoints import Checkpoint, Store
from abs_dssp.training.config import ReplayConfig
from abs_dssp.training.evaluation import History
from abs_dssp.training.fragment_engine import FragmentEngine

Progress = Callable[[int, int, Mapping[str, float]], None]  # done, total, last record


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes:
      trace: the pushes that were replayed.
      variables: `params` and `stats` after the last of them, as pytrees.
      history: what was evaluated on the way: `last("accuracy")`, `column("loss")`,
        `first_reaching(0.9)`, `to_pandas()`.
      stopped: why it ended: `"end"`, `"target"`, or where the loss was not finite.
      missing: which workers a real run was told to expect and lost, and how; empty if
        none.
    """

    trace: Trace
    variables: Variables
    history: History
    stopped: str = "end"
    missing: str = ""

    def __repr__(self) -> str:
        last = self.history.records[-1] if self.history.records else {}
        shown = [f"{k} {last[k]:.4g}" for k in self.history.names if k in last]
        return f"<Result of {self.trace!r}: {self.stopped}; {', '.join(shown)}>"

    def _repr_html_(self) -> str:
        """A small table of what the run came to, which notebooks show."""
        last = self.history.records[-1] if self.history.records else {}
        measured = {k: last[k] for k in self.history.names if k in last}
        known: dict[str, Any] = {"policy": self.trace.policy, "ended by": self.stopped}
        known |= {"task": self.trace.task} | self.trace.figures | measured
        return markup.table([], [(k, markup.number(v)) for k, v in known.items()])

    def plot(self, **settings: Any) -> Any:
        """Draws a measure against time; see `abs_dssp.plot.curves`."""
        from abs_dssp import plot

        return plot.curves([self], **settings)


def columns(trace: Trace) -> dict[str, Any]:
    """What an engine loads of a trace."""
    if isinstance(trace, FragmentedTrace):
        return trace.columns | {"takes": trace.takes, "overlap": trace.overlap}
    return trace.columns | {"begins": begins(trace)}


def begins(trace: Trace) -> Bool[np.ndarray, " P"]:
    """The pushes of workers that had made none since they came, or came back.

    With these their local optimisers start anew.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> trace = simulate.schedule(policies.asp(2), delays.constant([1.0, 2.5]), 4)
      >>> trace.worker.tolist(), begins(trace).tolist()
      ([0, 0, 1, 0], [True, False, True, False])
    """
    first = np.zeros(len(trace), bool)
    for rows in traces.rows_of_workers(trace.worker, trace.num_workers):
        first[rows[:1]] = True
    for event in trace.events:
        if event.kind in ("leave", "join"):
            rest = np.flatnonzero(trace.worker[event.rows :] == event.worker)
            first[event.rows + rest[:1]] = True
    return first


class Run:
    """Drives an engine over a trace: evaluations, limits, checkpoints, progress.

    Attributes:
      engine: computes.
      done: pushes replayed.
      records: evaluations.
      stopped: why the run is over; empty before that.
      notes: what a caller wants to find again after a resume.
    """

    def __init__(
        self,
        engine: engines.Engine | FragmentEngine,
        config: ReplayConfig,
        progress: Progress | None,
    ):
        self.engine, self.done, self.stopped = engine, 0, ""
        self.records: list[dict[str, float]] = []
        self.notes: dict[str, Any] = {}
        self._config, self._progress = config, progress
        target = config.evaluation.target_accuracy
        require_accuracy("train", engine.task, target)
        self._store: Store | None = None
        self._evaluated = (0, -1.0)  # the latest evaluation in (pushes, seconds)
        self._saved = 0  # pushes in the latest checkpoint

    def open(self, identify: Callable[[], str]) -> None:
        """Opens the folder of checkpoints, if one is set, and resumes from it.

        Args:
          identify: gives the run's identity; called only if there is a folder.

        Raises:
          ValueError: if the folder holds another run.
        """
        folder = self._config.checkpoint.folder
        if folder is None:
            return
        self._store = Store(Path(folder), identify())
        saved = self._store.latest()
        if saved is None:
            return
        note = saved.note
        self.engine.restore(Checkpoint(saved.leaves, note["engine"]))
        self.done, self.records = note["done"], note["records"]
        self.stopped, self.notes = note["stopped"], note["notes"]
        self._evaluated = tuple(note["evaluated"])
        self._saved = self.done

    def follow(self, trace: Trace, *, total: int, final: bool) -> None:
        """Replays the rows that have been added, evaluating on the way.

        Args:
          trace: everything that is known of the run.
          total: pushes in all, for the progress.
          final: whether the trace is complete.
        """
        if self.stopped:
            return
        self.engine.load(columns(trace))
        for row, times in self._pieces(trace, final):
            self._advance(trace, row, times)
            self._save(bool(times))
            if self._progress is not None:
                last = self.records[-1] if self.records else {}
                self._progress(self.done, total, last)
            if self.stopped:
                break
        if final:
            self.stopped = self.stopped or "end"
        if self.stopped:
            self._save(True, force=True)

    def _pieces(self, trace: Trace, final: bool) -> list[tuple[int, list[float]]]:
        """Rows to stop at, and the times of the evaluations due there."""
        points = evaluation.points(trace, self._config.evaluation)
        if not final:  # a later row may still arrive at the very time of the last one
            points = [p for p in points if p[1] < trace.seconds]
        due: dict[int, list[float]] = {len(trace): []}
        for row, seconds in points:
            if (row, seconds) > self._evaluated:
                due.setdefault(row, []).append(seconds)
        every = self._config.checkpoint.every
        if every is not None:
            for row in range(every, len(trace), every):
                due.setdefault(row, [])
        return sorted((row, times) for row, times in due.items() if row >= self.done)

    def _advance(self, trace: Trace, row: int, times: list[float]) -> None:
        """Replays up to `row`, and evaluates there for each of `times`."""
        start = self.done
        if row > start:
            self.engine.run(start, row)
            self.done = row
            self.stopped = self._diverged(trace, start, row)
        if times and not self.stopped:
            self._record(times)

    def _diverged(self, trace: Trace, start: int, stop: int) -> str:
        """Says where the loss was not finite; empty if all losses were finite."""
        losses = self.engine.losses(start, stop)
        bad = np.flatnonzero(~np.isfinite(losses))
        if not bad.size:
            return ""
        row = start + int(bad[0])
        return (
            f"loss is {float(losses[bad[0]])} at push {row + 1}: "
            f"worker {trace.worker[row]}, clock {trace.clock[row]}, "
            f"staleness {trace.staleness[row]}, {trace.time[row]:.6g} s"
        )

    def _record(self, times: list[float]) -> None:
        task = self.engine.task
        samples = task.batch_size * self.engine.config.local_steps
        basic = {
            "push": self.done,
            "version": self.engine.version,
            "epoch": self.done * samples / task.samples_per_epoch,
        }
        measures = self.engine.evaluate()
        self.records += [basic | {"seconds": t} | measures for t in sorted(times)]
        self._evaluated = (self.done, max(times))
        target = self._config.evaluation.target_accuracy
        if target is not None and measures.get("accuracy", -math.inf) >= target:
            self.stopped = "target"

    def _save(self, evaluated: bool, force: bool = False) -> None:
        if self._store is None or self.done == self._saved:
            return
        every = self._config.checkpoint.every
        due = evaluated if every is None else self.done - self._saved >= every
        if due or force:
            saved = self.engine.checkpoint()
            names = ("done", "records", "stopped", "notes")
            note = {name: getattr(self, name) for name in names}
            note |= {"engine": saved.note, "evaluated": list(self._evaluated)}
            self._store.save(self.done, saved.leaves, note)
            self._saved = self.done

    def result(self, trace: Trace) -> Result:
        """What has been replayed of a trace."""
        history = History(tuple(self.records), self.engine.losses(0, self.done))
        done = trace[: self.done]
        return Result(done, self.engine.variables(), history, self.stopped)
