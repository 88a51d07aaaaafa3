"""The log: what the server has decided, on disk before anybody is told.

A header line of JSON, then one record per event with a checksum. A record that was cut
short by a crash, the last one only, is dropped at opening: nobody had been told of it.
"""

import contextlib
import dataclasses
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp.cluster import run_config
from abs_dssp.history import traces
from abs_dssp.history.traces import Event, Trace

NAME = "pushes.log"
_FORMAT = "abs_dssp.log 1"
_FIXED = struct.Struct("<BidiifBdfi")
_KINDS = ("push", "leave", "join", "refuse")


class LogError(ValueError):
    """A log that cannot be read, or written."""


@dataclasses.dataclass(slots=True)
class Record:
    """One event; fields that do not apply are 0."""

    kind: str  # "push", "leave", "join" or "refuse"
    worker: int
    time: float  # seconds since the start
    pulled: int = 0  # version that the push was computed from
    version: int = 0  # before the commit
    weight: float = 0.0
    commit: bool = False
    duration: float = 0.0  # seconds of computation
    loss: float = 0.0
    code: int = 0  # of a leave: index into REASONS
    release: Sequence[int] = ()  # workers
    restart: Sequence[int] = ()


REASONS = ("died", "finished", "silent", "stuck", "expelled", "absent", "replaced")


class Log:
    """An open log. Appends; not thread-safe."""

    def __init__(self, folder: Path, header: dict[str, Any], *, sync: bool = False):
        """Opens or makes the log of a run.

        Args:
          folder: of the run; must exist.
          header: settings; must equal those in a log found there.
          sync: wait for the disk at every record, so that a loss of power loses no
            more than a crash of the process does.

        Raises:
          LogError: if a log of another run lies there, or it cannot be written.
        """
        self.path = folder / NAME
        self._sync = sync
        self.records: list[Record] = []  # found when it was opened
        self.num_workers = int(header["num_workers"])
        self._mask = (self.num_workers + 7) // 8
        line = json.dumps({"format": _FORMAT, **header}, sort_keys=True) + "\n"
        self.idle = 0.0  # seconds since the last record was written, at opening
        try:
            if self.path.exists() and self.path.stat().st_size:
                self.idle = max(0.0, time.time() - self.path.stat().st_mtime)
                found, self.records, end = read(self.path)
                differs = run_config.first_difference(json.loads(line), found)
                if differs is not None:
                    name, mine, old = differs
                    raise LogError(
                        f"{self.path} was written with {name}={old!r}, this run has "
                        f"{mine!r}; use the same settings, or another --out."
                    )
                self._file = os.open(self.path, os.O_WRONLY)
                os.ftruncate(self._file, end)
                os.lseek(self._file, end, os.SEEK_SET)
            else:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
                self._write(line.encode())
        except OSError as error:
            raise LogError(f"{self.path}: {error.strerror}.") from error
        self._end = os.lseek(self._file, 0, os.SEEK_CUR)

    def append(self, record: Record) -> None:
        """Writes a record; returns when a crash of this process cannot lose it.

        Raises:
          LogError: if the disk is full or fails; the log then ends before the record.
        """
        body = b"".join(
            (
                _FIXED.pack(
                    _KINDS.index(record.kind), record.worker, record.time,
                    record.pulled, record.version, record.weight, record.commit,
                    record.duration, record.loss, record.code,
                ),
                _bits(record.release, self._mask),
                _bits(record.restart, self._mask),
            )
        )  # fmt: skip
        try:
            self._write(body + zlib.crc32(body).to_bytes(4, "little"))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
                os.lseek(self._file, self._end, os.SEEK_SET)
            raise LogError(
                f"{self.path}: {error.strerror}; make room and start the same command "
                "again: it goes on from the last logged push."
            ) from error

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        if self._sync:
            os.fdatasync(self._file)
        self._end = os.lseek(self._file, 0, os.SEEK_CUR)


def read(path: Path) -> tuple[dict[str, Any], list[Record], int]:
    """Header, whole records and the length in bytes that they take.

    Raises:
      LogError: if there is no log, or it is damaged before its last record.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}.") from error
    line, newline, rest = data.partition(b"\n")
    try:
        header = json.loads(line)
        if not newline or header["format"] != _FORMAT:
            raise ValueError
        num_workers = int(header["num_workers"])
    except (ValueError, KeyError, TypeError):
        raise LogError(f"{path} is not a log of abs_dssp.") from None
    records: list[Record] = []
    at = 0
    mask = (num_workers + 7) // 8
    size = _FIXED.size + 2 * mask + 4
    while at + size <= len(rest):
        body, check = rest[at : at + size - 4], rest[at + size - 4 : at + size]
        if zlib.crc32(body) != int.from_bytes(check, "little"):
            if at + 2 * size <= len(rest):
                raise LogError(f"{path} is damaged at record {len(records) + 1}.")
            break
        (kind, worker, time, pulled, version, weight, commit, duration, loss,
         code) = _FIXED.unpack_from(body)  # fmt: skip
        bits = body[_FIXED.size :]
        records.append(
            Record(
                _KINDS[kind], worker, time, pulled, version, weight, bool(commit),
                duration, loss, code, _workers(bits[:mask]), _workers(bits[mask:]),
            )
        )  # fmt: skip
        at += size
    return header, records, len(line) + 1 + at


def rows(records: Sequence[Record]) -> Iterator[tuple[Record, bool]]:
    """The pushes, and whether a commit follows each, be it caused by a leave."""
    last: Record | None = None
    committed = False
    for record in records:
        if record.kind == "push":
            if last is not None:
                yield last, committed
            last, committed = record, record.commit
        elif record.commit:
            committed = True
    if last is not None:
        yield last, committed


def to_trace(records: Sequence[Record], settings: dict[str, Any]) -> Trace:
    """The trace of a run.

    Args:
      records: in order.
      settings: the trace's other fields: `num_workers`, `policy`, and so on.
    """
    num_workers = settings["num_workers"]
    pushes = list(rows(records))
    columns: dict[str, list[Any]] = {name: [] for name in traces.COLUMNS}
    clocks = [0] * num_workers
    restarts = [0] * num_workers
    place: list[int | None] = [None] * num_workers  # row of a push not yet released
    events: list[Event] = []
    waits: list[float] = []
    for record in records:
        worker = record.worker
        if record.kind == "push":
            push, committed = pushes[len(waits)]
            clocks[worker] += 1
            values = {
                "time": record.time, "worker": worker, "clock": clocks[worker],
                "pulled": record.pulled, "version": record.version,
                "weight": record.weight, "committed": committed,
                "wait": np.nan, "duration": record.duration,
                "restarts": restarts[worker],
            }  # fmt: skip
            for name, value in values.items():
                columns[name].append(value)
            place[worker] = len(waits)
            waits.append(np.nan)
            restarts[worker] = 0
        else:
            events.append(Event(len(waits), record.time, record.kind, worker))
        if record.kind in ("join", "leave"):
            restarts[worker] = 0
            place[worker] = None
        elif record.kind == "refuse":
            restarts[worker] += 1
        for i in record.release:
            row = place[i]
            if row is not None:
                waits[row] = record.time - columns["time"][row]
                place[i] = None
        for i in record.restart:
            restarts[i] += 1
    columns["wait"] = waits
    arrays: dict[str, Any] = {
        name: np.array(columns[name], dtype) for name, dtype in traces.COLUMNS.items()
    }
    return Trace(
        **arrays,
        **settings,
        open_restarts=tuple(restarts),
        recorded=True,
        events=tuple(events),
    )


def _bits(workers: Sequence[int], length: int) -> bytes:
    value = 0
    for worker in workers:
        value |= 1 << worker
    return value.to_bytes(length, "little")


def _workers(bits: bytes) -> list[int]:
    value = int.from_bytes(bits, "little")
    found = []
    while value:
        low = value & -value
        found.append(low.bit_length() - 1)
        value ^= low
    return found
