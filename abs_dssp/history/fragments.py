"""A trace of fragments: parts of the parameters, each with a history of its own.

Every fragment has its own clocks, versions and state of the policy, by the unchanged
state machine. A worker's pushes are of the fragments in turn. What one fragment's rule
decides reads nothing of another's, so any order of all pushes in which those of every
fragment and those of every worker keep theirs leads to the same parameters; a trace
holds one.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from abs_dssp import checks
from abs_dssp.history import builder, trace_rules, traces
from abs_dssp.history.events import Event
from abs_dssp.history.trace_format import (
    FRAGMENTS_VERSION,
    OF_FRAGMENTS,
    OVERLAP_VERSION,
    TraceError,
)
from abs_dssp.history.traces import Trace


class Take(NamedTuple):
    """What a worker took before a push, where that is not its latest release alone."""

    row: int  # of the push
    begins: bool  # whether a process began: it took everything, and its optimiser anew
    versions: tuple[tuple[int, int], ...]  # (fragment, version)


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclasses.dataclass(frozen=True, repr=False)
class FragmentedTrace(Trace):
    """One row per push of a fragment, in order of arrival.

    Times, workers, waits and durations mean what they mean in a `Trace`, and so do the
    measures that are made of them; a duration is that of the local steps since the
    worker's push before. `clock` counts the pushes of a worker to all fragments.
    `pulled`, `version` and `committed` are of the row's fragment, so that staleness
    counts versions of that fragment. Where several servers recorded it, times are those
    of the fragment's server, and rise within a fragment alone.
    """

    # 0..F-1
    fragment: Int32[np.ndarray, " P"] = dataclasses.field(default_factory=_none)
    # Version of the fragment that the worker was released with; -1 if it was not.
    taken: Int32[np.ndarray, " P"] = dataclasses.field(default_factory=_none)
    # Pushes that a worker makes of other fragments before it takes what it was given.
    overlap: int = 0
    takes: tuple[Take, ...] = ()  # beside `taken`; in order
    # What happened beside pushes, of each fragment, with its own rows.
    beside: tuple[tuple[traces.Event, ...], ...] = ()
    names: tuple[tuple[str, ...], ...] = ()  # of each fragment's arrays; () if unknown
    sizes: tuple[int, ...] = ()  # values of each; () if unknown

    @property
    def columns(self) -> dict[str, Any]:
        """All columns, by name."""
        mine = {name: getattr(self, name) for name in OF_FRAGMENTS}
        return super().columns | mine

    def of_fragment(self, fragment: int) -> Trace:
        """The history of one fragment: an ordinary trace.

        A worker computes for a fragment from its release to its next push of it, other
        fragments' pushes in between; the durations are those of the last U steps.

        Args:
          fragment: 0..F-1.

        Raises:
          ValueError: if there is none of this number.

        Example:
          >>> from abs_dssp import simulate
          >>> trace = simulate.schedule("ssp(s=1)", "constant([1, 2])", 9, fragments=2)
          >>> trace.fragment.tolist()
          [0, 1, 0, 0, 1, 1, 0, 0, 1]
          >>> trace.of_fragment(1).version.tolist()
          [0, 1, 2, 3]
        """
        checks.whole("of_fragment", "fragment", fragment)
        if fragment >= self.num_fragments:
            raise ValueError(
                f"of_fragment: fragment must be below {self.num_fragments}, "
                f"got {fragment}."
            )
        mine = self.fragment == fragment
        rows = np.flatnonzero(mine)
        columns = {name: column[rows] for name, column in super().columns.items()}
        columns["clock"] = clocks(columns["worker"], self.num_workers)
        fields = {field.name: getattr(self, field.name) for field in _SETTINGS}
        fields["events"] = self.beside[fragment] if self.beside else ()
        return Trace(**columns, **fields)

    def bytes_sent(self, parameter_bytes: int) -> int:
        """Bytes of all pushes and pulls; a worker's first pull is of all fragments.

        Args:
          parameter_bytes: of all parameters and statistics. Where the sizes of the
            fragments are not known, each has an equal part.

        Raises:
          ValueError: unless that is a whole number of at least 0.
        """
        checks.whole("bytes_sent", "parameter_bytes", parameter_bytes)
        pushed = self.row_shares
        sent = pushed.sum() + pushed[self.taken >= 0].sum() + self.num_workers
        return round(float(sent) * parameter_bytes)

    @property
    def started(self) -> Float[np.ndarray, " P"]:
        """Seconds; when the computation that led to each push began."""
        return self._computations[0] if self.overlap else super().started

    @property
    def waits(self) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """See `Trace`; with `overlap`, of the release that a computation needed."""
        return self._computations[1:] if self.overlap else super().waits

    @property
    def unfinished(self) -> dict[int, float]:
        """See `Trace`."""
        if not self.overlap:
            return super().unfinished
        end, found = self.waits[1], dict.fromkeys(range(self.num_workers), 0.0)
        found |= zip(self.worker.tolist(), end.tolist(), strict=True)  # the last counts
        return {worker: at for worker, at in found.items() if at < self.seconds}

    @functools.cached_property
    def _computations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """When each push's computation began, and the wait before the next one."""
        began, since, until = np.zeros((3, len(self)))
        free = np.zeros(self.num_workers)  # of each worker: when its next one begins
        released = np.where(np.isnan(self.wait), self.seconds, self.time + self.wait)
        # The push whose release the next computation needs.
        needed = rows_before(self.worker, self.overlap)
        for row, worker in enumerate(self.worker.tolist()):
            began[row], other = free[worker], needed[row]
            since[row] = until[row] = began[row] + self.duration[row]
            if other >= 0:
                since[row] = max(since[row], self.time[other])
                until[row] = max(since[row], released[other])
            free[worker] = until[row]
        return began, since, until

    @property
    def row_shares(self) -> Float[np.ndarray, " P"]:
        """The part of all parameters and statistics that each push carries."""
        sizes = np.array(self.sizes or [1] * self.num_fragments, float)
        return (sizes / sizes.sum())[self.fragment]

    def validate(self) -> "FragmentedTrace":
        """Checks the rules of every fragment's trace and those between fragments.

        Raises:
          TraceError: naming the first row that breaks a rule.
        """
        trace_rules.require_columns(self, OF_FRAGMENTS)
        if not 0 <= self.overlap < max(self.num_fragments, 1):
            raise TraceError(
                f"overlap={self.overlap} is not one of 0..F-1 for "
                f"{self.num_fragments} fragments."
            )
        known = len(self.sizes), len(self.names)
        if self.num_fragments < 1 or not set(known) <= {0, self.num_fragments}:
            raise TraceError(
                f"num_fragments={self.num_fragments} does not fit the sizes of "
                f"{known[0]} fragments and the names of {known[1]}."
            )
        outside = (self.fragment < 0) | (self.fragment >= self.num_fragments)
        trace_rules.refuse(outside, "fragment={fragment} is not one of 0..F-1", self)
        for fragment in range(self.num_fragments):
            try:
                self.of_fragment(fragment).validate()
            except TraceError as error:
                raise TraceError(f"fragment {fragment}: {error}") from None
        if not self.recorded:  # servers of different fragments have their own clocks
            falls = np.diff(self.time, prepend=0) < 0
            trace_rules.refuse(falls, "time={time} is before the row above", self)
        wrong = self.clock != clocks(self.worker, self.num_workers)
        message = "clock={clock} does not count its worker's pushes"
        trace_rules.refuse(wrong, message, self)
        others = {take.row: take for take in self.takes}
        held: dict[tuple[int, int], int] = {}  # version by worker and fragment
        latest: dict[int, int] = {}  # row by worker
        given = rows_before(self.worker, 1 + self.overlap).tolist()
        for row, (worker, fragment) in enumerate(
            zip(self.worker.tolist(), self.fragment.tolist(), strict=True)
        ):
            before, take = latest.get(worker), others.get(row)
            follows = 0 if before is None else int(self.fragment[before]) + 1
            if take is not None:
                held |= {(worker, f): version for f, version in take.versions}
            elif (earlier := given[row]) >= 0:
                held[worker, int(self.fragment[earlier])] = int(self.taken[earlier])
            if fragment != follows % self.num_fragments and take is None:
                raise TraceError(f"row {row}: fragment={fragment} is not in turn.")
            if held.get((worker, fragment), 0) != self.pulled[row]:
                raise TraceError(
                    f"row {row}: pulled={self.pulled[row]}, yet worker {worker} was "
                    f"given version {held.get((worker, fragment), 0)} of fragment "
                    f"{fragment}."
                )
            latest[worker] = row
        return self

    def __getitem__(self, rows: slice) -> "FragmentedTrace":
        """The rows of a slice from the first on, with the same settings.

        Raises:
          TypeError: for anything else than a slice.
          ValueError: for a slice that leaves out rows, other than at the end.
        """
        cut = super().__getitem__(rows)
        assert isinstance(cut, FragmentedTrace)
        if len(cut) == len(self):
            return self
        numbers = range(self.num_fragments)
        counts = [int((cut.fragment == number).sum()) for number in numbers]
        beside = tuple(
            tuple(event for event in events if event.rows <= counts[number])
            for number, events in enumerate(self.beside)
        )
        takes = tuple(take for take in self.takes if take.row < len(cut))
        return dataclasses.replace(cut, beside=beside, takes=takes)

    @property
    def header(self) -> dict[str, Any]:
        """What the file says beside the columns."""
        divided: dict[str, Any] = {
            "count": self.num_fragments,
            "names": [list(each) for each in self.names],
            "sizes": list(self.sizes),
        }
        if self.overlap:
            divided["overlap"] = self.overlap
        if self.takes:
            divided["takes"] = [list(take) for take in self.takes]
        if self.beside:
            divided["beside"] = [
                [list(event) for event in events] for events in self.beside
            ]
        return super().header | {
            "format_version": OVERLAP_VERSION if self.overlap else FRAGMENTS_VERSION,
            "fragments": divided,
        }


def read_takes(records: Sequence[Any]) -> tuple[Take, ...]:
    """The takes that a header's lists say."""
    return tuple(
        Take(int(row), bool(begins), tuple((int(f), int(v)) for f, v in versions))
        for row, begins, versions in records
    )


_SETTINGS = [
    field
    for field in dataclasses.fields(Trace)
    if field.name not in ("num_fragments", "events", "open_restarts")
    and field.name not in traces.COLUMNS
]


def clocks(worker: Int32[np.ndarray, " P"], num_workers: int) -> np.ndarray:
    """Pushes of each row's worker so far, this one included; int32 (P,).

    Example:
      >>> clocks(np.array([1, 0, 1], np.int32), 2).tolist()
      [1, 1, 2]
    """
    counts = np.empty(len(worker), np.int32)
    for mine in trace_rules.rows_of_workers(worker, num_workers):
        counts[mine] = np.arange(1, len(mine) + 1)
    return counts


def rows_before(worker: Int[np.ndarray, " P"], count: int) -> np.ndarray:
    """The row of each row's worker so many of its pushes before; -1 if there is none.

    Args:
      worker: of every row.
      count: at least 0.

    Returns:
      int32 (P,).

    Example:
      >>> worker = np.array([0, 1, 0, 0])
      >>> rows_before(worker, 1).tolist(), rows_before(worker, 2).tolist()
      ([-1, -1, 0, 2], [-1, -1, -1, 0])
    """
    found = np.full(len(worker), -1, np.int32)
    for mine in trace_rules.rows_of_workers(worker, int(worker.max(initial=-1)) + 1):
        found[mine[count:]] = mine[: len(mine) - count]
    return found


def merged(
    fragment: Int32[np.ndarray, " P"], histories: Sequence[Trace]
) -> dict[str, Any]:
    """The columns of all fragments' traces, in one order.

    Args:
      fragment: of every row.
      histories: of each fragment, which has as many rows there.
    """
    columns: dict[str, Any] = {}
    for name, dtype in traces.COLUMNS.items():
        columns[name] = np.empty(len(fragment), dtype)
        for number, history in enumerate(histories):
            columns[name][fragment == number] = getattr(history, name)
    columns["clock"] = clocks(columns["worker"], histories[0].num_workers)
    return columns


class Builder:
    """Collects the rows of a run of several fragments, in order.

    Args:
      num_workers: N.
      num_fragments: F.
    """

    def __init__(self, num_workers: int, num_fragments: int):
        self.num_workers = num_workers
        self._histories = [builder.Builder(num_workers) for _ in range(num_fragments)]
        self._fragment: list[int] = []
        self._taken: list[int] = []
        self._row: dict[tuple[int, int], int] = {}  # latest, by worker and fragment

    def __len__(self) -> int:
        return len(self._fragment)

    def push(self, fragment: int, event: Event, done: Any) -> None:
        """A push of a fragment.

        Args:
          fragment: 0..F-1.
          event: what happened.
          done: what was decided; a `HostTransition`.
        """
        self._histories[fragment].add(event, done)
        self._row[event.worker, fragment] = len(self._fragment)
        self._fragment.append(fragment)
        self._taken.append(-1)
        for worker in done.release:
            self._taken[self._row[worker, fragment]] = done.version + done.commit

    def trace(
        self,
        endings: Sequence[builder.Ending],
        **settings: Any,
    ) -> FragmentedTrace:
        """The trace of all rows so far.

        Args:
          endings: of each fragment's state after them.
          **settings: the trace's remaining fields, such as `policy` and `seed`.

        Returns:
          A `FragmentedTrace`, not validated.
        """
        histories = [
            history.trace(ending)
            for history, ending in zip(self._histories, endings, strict=True)
        ]
        fragment = np.array(self._fragment, np.int32)
        return FragmentedTrace(
            **merged(fragment, histories),
            num_workers=self.num_workers,
            num_fragments=len(histories),
            fragment=fragment,
            taken=np.array(self._taken, np.int32),
            **settings,
        )
