"""The log: what the server has decided, on disk before anybody is told.

A header line of JSON, then one record per entry of the history, with a checksum. A
record that was cut short by a crash, the last one only, is dropped at opening: nobody
had been told of it.
"""

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abs_dssp.cluster import run_config
from abs_dssp.history import builder, events
from abs_dssp.history.events import Entry, Event
from abs_dssp.history.traces import Trace

NAME = "pushes.log"
_FORMAT = "abs_dssp.log 1"
_FIXED = struct.Struct("<BidiifBdfi")


class LogError(ValueError):
    """A log that cannot be read, or written."""


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
        self.entries: list[Entry] = []  # found when it was opened
        self.num_workers = int(header["num_workers"])
        self._mask = (self.num_workers + 7) // 8
        line = json.dumps({"format": _FORMAT, **header}, sort_keys=True) + "\n"
        self.idle = 0.0  # seconds since the last record was written, at opening
        try:
            if self.path.exists() and self.path.stat().st_size:
                self.idle = max(0.0, time.time() - self.path.stat().st_mtime)
                found, self.entries, end = read(self.path)
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

    def append(self, entry: Entry) -> None:
        """Writes an entry; returns when a crash of this process cannot lose it.

        Raises:
          LogError: if the disk is full or fails; the log then ends before the entry.
        """
        event = entry.event
        reason = events.REASONS.index(event.reason) if event.reason else 0
        body = b"".join(
            (
                _FIXED.pack(
                    events.KINDS.index(event.kind),
                    event.worker,
                    event.time,
                    entry.pulled,
                    entry.version,
                    entry.weight,
                    entry.commit,
                    event.duration,
                    event.loss,
                    reason,
                ),
                _bits(entry.release, self._mask),
                _bits(entry.restart, self._mask),
            )
        )
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


def read(path: Path) -> tuple[dict[str, Any], list[Entry], int]:
    """Header, entries of whole records and the length in bytes that they take.

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
    entries: list[Entry] = []
    at = 0
    mask = (num_workers + 7) // 8
    size = _FIXED.size + 2 * mask + 4
    while at + size <= len(rest):
        body, check = rest[at : at + size - 4], rest[at + size - 4 : at + size]
        if zlib.crc32(body) != int.from_bytes(check, "little"):
            if at + 2 * size <= len(rest):
                raise LogError(f"{path} is damaged at record {len(entries) + 1}.")
            break
        entries.append(_entry(body, mask))
        at += size
    return header, entries, len(line) + 1 + at


def _entry(body: bytes, mask: int) -> Entry:
    """The entry in the bytes of one record; its masks are `mask` bytes long."""
    (kind, worker, time, pulled, version, weight, commit, duration, loss, reason) = (
        _FIXED.unpack_from(body)
    )
    bits = body[_FIXED.size :]
    name = events.KINDS[kind]
    why = events.REASONS[reason] if name == "leave" else ""
    return Entry(
        Event(name, worker, time, duration, loss, why),
        pulled,
        version,
        weight,
        bool(commit),
        _workers(bits[:mask]),
        _workers(bits[mask:]),
    )


def to_trace(entries: Sequence[Entry], settings: dict[str, Any]) -> Trace:
    """The trace of a run.

    Args:
      entries: of the log, in order.
      settings: the trace's other fields: `num_workers`, `policy`, and so on.
    """
    settings = dict(settings)
    made, state = builder.follow(entries, settings.pop("num_workers"))
    return made.trace(builder.ending(state), **settings, recorded=True)


def _bits(workers: Sequence[int], length: int) -> bytes:
    value = 0
    for worker in workers:
        value |= 1 << worker
    return value.to_bytes(length, "little")


def _workers(bits: bytes) -> tuple[int, ...]:
    value = int.from_bytes(bits, "little")
    found: list[int] = []
    while value:
        low = value & -value
        found.append(low.bit_length() - 1)
        value ^= low
    return tuple(found)
