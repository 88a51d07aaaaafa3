"""The trace: what happened, one row per push, and what can be derived from it.

Virtual time writes it and a cluster writes the same; together with a seed it
determines the parameters (`replay`). Saved as one `.npz` with a JSON header.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32

from abs_dssp import checks, extras, markup
from abs_dssp.history import trace_format, trace_rules
from abs_dssp.history.trace_format import (
    COLUMNS,
    FORMAT,
    FORMAT_VERSION,
    Event,
    TraceError,
    package_versions,
)
from abs_dssp.history.trace_rules import rows_of_workers


@dataclasses.dataclass(frozen=True)
class Trace:
    """One row per push, in order of arrival, and the settings of the run."""

    time: Float64[np.ndarray, " P"]  # seconds since the start; arrival
    worker: Int32[np.ndarray, " P"]  # 0..N-1
    clock: Int32[np.ndarray, " P"]  # pushes of that worker, this one included
    pulled: Int32[np.ndarray, " P"]  # version the gradients were taken at
    version: Int32[np.ndarray, " P"]  # version on arrival, before any commit
    weight: Float32[np.ndarray, " P"]  # weight in the next commit; 0: discarded
    committed: Bool[np.ndarray, " P"]  # whether a commit follows this row
    wait: Float64[np.ndarray, " P"]  # seconds until released; NaN if never
    duration: Float64[np.ndarray, " P"]  # seconds the computation took
    restarts: Int32[np.ndarray, " P"]  # computations cancelled before this push
    num_workers: int  # N
    policy: str = ""  # as policies.parse reads it
    local_steps: int = 1  # U
    seed: int = 0
    task: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)  # of packages
    # Computations of each worker cancelled after its last push; () where not known.
    open_restarts: tuple[int, ...] = ()
    recorded: bool = False  # by a cluster, in real time
    events: tuple[Event, ...] = ()  # what happened beside pushes, in order
    # How workers with several devices divided the parameters: "devices", a number, and
    # "axes", the number of an axis or None by the name of a parameter. {}: one device.
    split: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_fragments: int = 1  # F; more than 1 only of a `FragmentedTrace`

    def __len__(self) -> int:
        return len(self.time)

    @property
    def columns(self) -> dict[str, Any]:
        """All columns, by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def __repr__(self) -> str:
        parts = [f"{len(self)} pushes", f"{self.commits} commits"]
        parts += [f"{self.num_workers} workers", f"{self.seconds:.6g} s"]
        return f"<Trace {self.policy or 'of no policy'}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        """A small table, which notebooks show."""
        known = {"policy": self.policy, "task": self.task} | self.figures
        return markup.table([], [(k, markup.number(v)) for k, v in known.items()])

    @property
    def figures(self) -> dict[str, Any]:
        """The run in a few numbers, by what they are, shares in percent."""
        stale = self.staleness
        return {
            "workers": self.num_workers,
            "pushes": len(self),
            "commits": self.commits,
            "seconds": self.seconds,
            "pushes per second": self.pushes_per_second,
            "mean staleness": float(stale.mean()) if len(self) else 0.0,
            "max staleness": int(stale.max(initial=0)),
            "waiting": f"{self.waiting_share:.1%}",
            "cancelled": f"{self.cancelled_share:.1%}",
            "discarded": f"{self.discarded_share:.1%}",
        }

    def to_pandas(self) -> Any:
        """The columns, and the staleness, as a `pandas.DataFrame`: a row each push.

        Raises:
          MissingExtraError: if pandas is not installed.

        Example:
          >>> from abs_dssp import simulate
          >>> trace = simulate.schedule("asp()", "constant([1, 2.7])", 3)
          >>> trace.to_pandas()[["time", "worker", "staleness"]].values.tolist()
          [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.7, 1.0, 2.0]]
        """
        with extras.needed("a DataFrame"):
            import pandas
        return pandas.DataFrame(self.columns | {"staleness": self.staleness})

    def plot(self, **settings: Any) -> Any:
        """Draws what every worker did; see `abs_dssp.plot.timeline`."""
        from abs_dssp import plot

        return plot.timeline(self, **settings)

    def __getitem__(self, rows: slice) -> "Trace":
        """The first rows of a run, with the same settings: the run until then.

        Raises:
          TypeError: for anything else than a slice.
          ValueError: for a slice that leaves out rows, other than at the end.
        """
        if not isinstance(rows, slice):
            raise TypeError(
                f"trace[...]: expected a slice of rows such as trace[:100], got "
                f"{rows!r}; one row's values are in the columns, as in trace.time[5]."
            )
        if rows.step not in (None, 1):
            raise ValueError(
                f"trace[...]: rows of a run follow each other, got step {rows.step}."
            )
        if rows.start not in (None, 0):
            raise ValueError(
                f"trace[...]: a trace begins where its run does, got rows from "
                f"{rows.start} on; take rows of its columns, such as trace.time[9:99], "
                "and plot.timeline(trace, start=...) for a picture."
            )
        columns = {name: column[rows] for name, column in self.columns.items()}
        _, after, _ = rows.indices(len(self))
        left = list(self.open_restarts)
        for worker in range(len(left)):  # what the first push left out tells of it
            rest = np.flatnonzero(self.worker[after:] == worker)
            if rest.size:
                left[worker] = int(self.restarts[after + rest[0]])
        events = tuple(event for event in self.events if event.rows <= after)
        return dataclasses.replace(
            self, **columns, open_restarts=tuple(left), events=events
        )

    # Derived quantities.

    @property
    def staleness(self) -> Int[np.ndarray, " P"]:
        """Versions between pull and arrival."""
        return self.version - self.pulled

    @property
    def accepted(self) -> Bool[np.ndarray, " P"]:
        """Pushes that count in a commit."""
        return self.weight > 0

    @property
    def commits(self) -> int:
        """Parameter updates: the communication rounds."""
        return int(self.committed.sum())

    @property
    def commit_times(self) -> Float[np.ndarray, " V"]:
        """Seconds at which each version after the first was made; float64.

        A commit that a departure caused counts at the push before it.
        """
        times = self.time[self.committed]
        made = np.cumsum(self.committed)
        for event in self.events:
            if event.commit and event.rows:
                times[made[event.rows - 1] - 1] = event.seconds
        return times

    @property
    def seconds(self) -> float:
        """Arrival of the last push."""
        return float(self.time[-1]) if len(self) else 0.0

    @property
    def pushes_per_second(self) -> float:
        """Throughput; NaN where no time passed."""
        return len(self) / self.seconds if self.seconds > 0 else float("nan")

    @property
    def gaps(self) -> Int[np.ndarray, " P"]:
        """Clocks by which the pusher leads the slowest living worker, push counted.

        Clocks are those that the policy sees: who joins again has the clock of the
        slowest, and not the number of its pushes, which `clock` is. A rule bounds the
        lead at a release, before the next push is counted: with `max_gap=2` there may
        be 3 here.
        """
        clocks = np.zeros(self.num_workers, np.int64)
        alive = np.ones(self.num_workers, bool)
        beside = iter([e for e in self.events if e.kind in ("leave", "join")])
        event = next(beside, None)
        gaps = np.empty(len(self), np.int64)
        for row, worker in enumerate(self.worker):
            while event is not None and event.rows <= row:
                alive[event.worker] = False
                if event.kind == "join":
                    if alive.any():
                        clocks[event.worker] = clocks[alive].min()
                    alive[event.worker] = True
                event = next(beside, None)
            clocks[worker] += 1
            gaps[row] = clocks[worker] - clocks[alive].min()
        return gaps

    @property
    def waits(self) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """From when until when, in seconds, each pusher then waited for a release.

        Up to the last arrival; who leaves waits no more.
        """
        end = np.full(len(self), self.seconds)
        for event in self.events:
            if event.kind == "leave":
                mine = np.flatnonzero(self.worker[: event.rows] == event.worker)
                if mine.size:
                    end[mine[-1]] = min(end[mine[-1]], event.seconds)
        return self.time, np.where(np.isnan(self.wait), end, self.time + self.wait)

    @property
    def waiting_seconds(self) -> float:
        """Worker seconds between a push and its release; see `waits`."""
        begin, end = self.waits
        return float((end - begin).sum())

    @property
    def waiting_share(self) -> float:
        """Share of all worker seconds spent waiting."""
        return self._share(self.waiting_seconds)

    @property
    def cancelled_seconds(self) -> float:
        """Worker seconds in computations that were cancelled.

        After a worker's last push, all is counted if `open_restarts` tells that a
        computation was cancelled there, since the trace does not tell when. Where
        pushes travel (`communication`), the transfer of a push that follows a cancelled
        computation is counted with it: the trace does not tell them apart.
        """
        lost = self.time - self.duration - self.started
        open_ended = sum(
            self.seconds - begin
            for worker, begin in self.unfinished.items()
            if worker < len(self.open_restarts) and self.open_restarts[worker] > 0
        )
        return float(lost[self.restarts > 0].sum()) + open_ended

    @property
    def unfinished(self) -> dict[int, float]:
        """For workers that compute at the end: when they began, in seconds."""
        begun = {}
        later = {e.worker: e for e in self.events if e.kind in ("leave", "join")}
        for worker, rows in enumerate(rows_of_workers(self.worker, self.num_workers)):
            begin = float(self.time[rows[-1]] + self.wait[rows[-1]]) if rows.size else 0
            event = later.get(worker)
            if event is not None and (not rows.size or event.rows > rows[-1]):
                begin = event.seconds if event.kind == "join" else float("nan")
            if begin < self.seconds:  # not NaN either: released for good
                begun[worker] = begin
        return begun

    @property
    def cancelled_share(self) -> float:
        """Share of all worker seconds in cancelled computations."""
        return self._share(self.cancelled_seconds)

    @property
    def discarded_share(self) -> float:
        """Share of the pushes that arrived and count in no commit: of weight 0."""
        return float(np.mean(~self.accepted)) if len(self) else 0.0

    @property
    def wasted_share(self) -> float:
        """Share of all worker seconds in work that no commit used."""
        discarded = float(self.duration[~self.accepted].sum())
        return self._share(self.cancelled_seconds + discarded)

    @property
    def started(self) -> Float[np.ndarray, " P"]:
        """Seconds; when the pusher was released before this push (0 at first)."""
        started = np.zeros(len(self))
        for rows in rows_of_workers(self.worker, self.num_workers):
            released = self.time[rows[:-1]] + self.wait[rows[:-1]]
            started[rows[1:]] = released
        for event in self.events:
            if event.kind == "join":
                rest = np.flatnonzero(self.worker[event.rows :] == event.worker)
                if rest.size:
                    started[event.rows + rest[0]] = event.seconds
        return started

    @property
    def pulls(self) -> int:
        """Times that a worker received parameters, the first ones included."""
        released = int((~np.isnan(self.wait)).sum())
        restarts = int(self.restarts.sum()) + sum(self.open_restarts)
        return self.num_workers + released + restarts

    @property
    def row_shares(self) -> Float[np.ndarray, " P"]:
        """The part of all parameters that each push carries; float64."""
        return np.ones(len(self))

    def bytes_sent(self, parameter_bytes: int) -> int:
        """Bytes of all pushes and pulls, of `parameter_bytes` each.

        Raises:
          ValueError: unless that is a whole number of at least 0.
        """
        checks.whole("bytes_sent", "parameter_bytes", parameter_bytes)
        return (len(self) + self.pulls) * parameter_bytes

    def _share(self, seconds: float) -> float:
        total = self.seconds * self.num_workers
        return seconds / total if total > 0 else 0.0

    # Rules.

    def validate(self) -> "Trace":
        """Checks the rules that every trace obeys, and returns the trace.

        Raises:
          TraceError: naming the first row that breaks a rule.
        """
        trace_rules.require_lawful(self)
        return self

    # File format.

    @property
    def header(self) -> dict[str, Any]:
        """What the file says beside the columns."""
        split = {"split": self.split} if self.split else {}
        return split | {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "policy": self.policy,
            "num_workers": self.num_workers,
            "local_steps": self.local_steps,
            "seed": self.seed,
            "task": self.task,
            "versions": self.versions or package_versions(),
            "open_restarts": list(self.open_restarts),
            "recorded": self.recorded,
            "events": [_event_fields(event) for event in self.events],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the trace; the file appears whole or not at all."""
        return trace_format.write(path, self.header, self.columns)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trace":
        """Reads and validates a trace; of fragments, a `FragmentedTrace`.

        Raises:
          TraceError: if the file is missing, damaged, or not a trace of this format.
        """
        from abs_dssp.history import fragments

        if os.path.isdir(path):
            raise TraceError(f"{path} is a folder; give the file in it, trace.npz.")
        found = trace_format.read(path)
        kind = fragments.FragmentedTrace if "fragment" in found else cls
        if "takes" in found:
            found["takes"] = fragments.read_takes(found["takes"])
        try:
            return kind(**found).validate()
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from error


def _event_fields(event: Event) -> list[Any]:
    """As few as tell it, so that files are as before there was more to tell."""
    fields = list(event)
    while len(fields) > 4 and not fields[-1]:
        fields.pop()
    return fields


def require_one_history(where: str, trace: Trace) -> None:
    """Refuses a trace of several fragments, each of which has versions of its own.

    Raises:
      ValueError: naming their number.
    """
    if trace.num_fragments > 1:
        raise ValueError(
            f"{where}: the trace must be of one history of versions, got one of "
            f"{trace.num_fragments} fragments; take one of them, trace.of_fragment(0)."
        )


def fingerprint(trace: Trace) -> str:
    """A digest of columns and settings: equal for equal traces."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in trace.header.items() if k != "versions"}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for column in trace.columns.values():
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
