"""The log: what the server has decided, on disk before anybody is told.

A header line of JSON, then one record per entry of the history, with a checksum. A
last record that is incomplete is dropped at opening: a crash cut it short, and nobody
had been told of it. Any other damage is named, and cut off only if the user says so:

    python -m abs_dssp.cluster.log RUN_DIR --cut
"""

import argparse
import contextlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abs_dssp import checks
from abs_dssp.cluster import run_config
from abs_dssp.cluster.system import REAL, System
from abs_dssp.history import builder, events
from abs_dssp.history.events import Entry, Event
from abs_dssp.history.traces import Trace
from abs_dssp.training.checkpoints import read_file

NAME = "pushes.log"
_FORMAT = "abs_dssp.log 1"
_FIXED = struct.Struct("<BidiifBdfi")


class LogError(ValueError):
    """A log that cannot be read, or written."""


class UnwritableError(LogError, checks.TransientError):
    """The disk is full or fails, or another process still writes there."""


class Log:
    """An open log. Appends; not thread-safe."""

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        *,
        sync: bool = False,
        system: System = REAL,
    ):
        """Opens or makes the log of a run; nobody else can, until `close`.

        Args:
          folder: of the run; must exist.
          header: settings; must equal those in a log found there.
          sync: wait for the disk at every record, so that a loss of power loses no
            more than a crash of the process does.
          system: has disk and clock.

        Raises:
          LogError: if a log of another run lies there, another process writes to it,
            or it cannot be read or written.
        """
        self.path = folder / NAME
        self._os, self._sync = system.os, sync
        self.entries: list[Entry] = []  # found when it was opened
        self.num_workers = int(header["num_workers"])
        self._mask = _mask_size(self.num_workers)
        self.idle = 0.0  # seconds since the last record was written, at opening
        try:
            self._file = self._os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UnwritableError(f"{self.path}: {error.strerror}.") from error
        try:
            self._lock(system)
            self._open(
                json.dumps({"format": _FORMAT, **header}, sort_keys=True), system
            )
        except BaseException as error:
            self._os.close(self._file)
            if isinstance(error, OSError):
                raise UnwritableError(f"{self.path}: {error.strerror}.") from error
            raise

    def _lock(self, system: System) -> None:
        """Keeps other processes away; the system unlocks when this one ends."""
        how = system.fcntl.LOCK_EX | system.fcntl.LOCK_NB
        try:
            system.fcntl.flock(self._file, how)
        except BlockingIOError:
            raise UnwritableError(
                f"another process writes to {self.path}; wait for its end, or choose "
                "another --out."
            ) from None

    def _open(self, header: str, system: System) -> None:
        """Reads what is there, or begins the file."""
        found = self._os.fstat(self._file)
        self._end = 0
        data = read_file(self._os, self.path)
        if b"\n" not in data and header.encode().startswith(data):
            self._os.ftruncate(self._file, 0)  # a crash while it was begun
            self._write(header.encode() + b"\n")
            return
        self.idle = max(0.0, system.time.time() - found.st_mtime)
        there, self.entries, self._end = parse(data, self.path)
        differs = run_config.first_difference(json.loads(header), there)
        if differs is not None:
            name, mine, old = differs
            raise LogError(
                f"{self.path} was written with {name}={old!r}, this run has "
                f"{mine!r}; use the same settings, or another --out."
            )
        self._os.ftruncate(self._file, self._end)
        self._os.lseek(self._file, self._end, os.SEEK_SET)
        if self._sync:  # a record whose writer was killed before it could wait for it
            self._os.fdatasync(self._file)

    def append(self, entries: Sequence[Entry]) -> None:
        """Writes entries; returns when a crash of this process cannot lose them.

        Raises:
          LogError: if the disk is full or fails; the log then ends before them.
        """
        bodies = [_record(entry, self._mask) for entry in entries]
        parts = [body + zlib.crc32(body).to_bytes(4, "little") for body in bodies]
        try:
            self._write(b"".join(parts))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._os.ftruncate(self._file, self._end)
                self._os.lseek(self._file, self._end, os.SEEK_SET)
            raise UnwritableError(
                f"{self.path}: {error.strerror}; make room and start the same command "
                "again: it goes on from the last logged push."
            ) from error

    def close(self) -> None:
        """Closes the file, and lets others open it."""
        self._os.close(self._file)

    def _write(self, data: bytes) -> None:
        end = self._end + len(data)
        view = memoryview(data)
        while view:
            view = view[self._os.write(self._file, view) :]
        if self._sync:
            self._os.fdatasync(self._file)
        self._end = end


def read(path: Path, files: Any = os) -> tuple[dict[str, Any], list[Entry], int]:
    """Header, entries of whole records and the length in bytes that they take.

    Args:
      path: of the log.
      files: the module `os`, or what stands in for it.

    Raises:
      LogError: if there is no log, or it is damaged.
    """
    try:
        data = read_file(files, path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}.") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> tuple[dict[str, Any], list[Entry], int]:
    """`read` of a file's content; `path` is for messages."""
    header, entries, end = undamaged(data, path)
    size = record_size(header["num_workers"])
    if len(data) - end >= size:  # whole, so somebody was told of it
        rest = (len(data) - end) // size
        raise LogError(
            f"{path} is damaged at record {len(entries) + 1} of "
            f"{len(entries) + rest}; restore it from a copy, or give up what comes "
            f"from there on: python -m abs_dssp.cluster.log {path.parent} --cut"
        )
    return header, entries, end


def undamaged(data: bytes, path: Path) -> tuple[dict[str, Any], list[Entry], int]:
    """Header, the entries before the first damaged record, and where that begins.

    Args:
      data: content of a log.
      path: for messages.

    Raises:
      LogError: if the header is damaged.
    """
    line, newline, _ = data.partition(b"\n")
    try:
        header = json.loads(line)
        if not newline or header["format"] != _FORMAT:
            raise ValueError
        header["num_workers"] = num_workers = int(header["num_workers"])
    except (ValueError, KeyError, TypeError):
        raise LogError(f"{path} is not a log of abs_dssp.") from None
    entries: list[Entry] = []
    at, size = len(line) + 1, record_size(num_workers)
    while at + size <= len(data):
        entry = decode(data[at : at + size], num_workers)
        if entry is None:
            break
        entries.append(entry)
        at += size
    return header, entries, at


def record_size(num_workers: int) -> int:
    """Bytes of a record."""
    return _FIXED.size + 2 * _mask_size(num_workers) + 4


def decode(record: bytes, num_workers: int) -> Entry | None:
    """The entry in a record; None if it is damaged."""
    body, check = record[:-4], record[-4:]
    if zlib.crc32(body) != int.from_bytes(check, "little"):
        return None
    return _entry(body, _mask_size(num_workers))


def cut(folder: Path) -> str:
    """Cuts off a log what is damaged, keeping it in a file beside.

    Args:
      folder: of the run.

    Returns:
      A sentence for the user.

    Raises:
      LogError: if there is no log.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
        _, entries, end = undamaged(data, path)
        if end == len(data):
            return f"{path} is whole: {len(entries)} records."
        rest = path.with_suffix(".cut")
        rest.write_bytes(data[end:])
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file)  # or else what is written next may be mixed with the rest
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}.") from error
    return (
        f"{path}: kept {len(entries)} records; {len(data) - end} bytes are in {rest}."
    )


def _mask_size(num_workers: int) -> int:
    return (num_workers + 7) // 8


def _record(entry: Entry, mask: int) -> bytes:
    """The bytes of an entry, without their checksum."""
    event = entry.event
    fixed = _FIXED.pack(
        events.KINDS.index(event.kind),
        event.worker,
        event.time,
        entry.pulled,
        entry.version,
        entry.weight,
        entry.commit,
        event.duration,
        event.loss,
        events.REASONS.index(event.reason) if event.reason else 0,
    )
    return fixed + _bits(entry.release, mask) + _bits(entry.restart, mask)


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


def main(argv: Sequence[str]) -> None:
    """Looks at the log of a run; with --cut, cuts off what is damaged."""
    parser = argparse.ArgumentParser(prog="log", description=main.__doc__)
    parser.add_argument("run_dir", type=Path, help="Folder of a run.")
    parser.add_argument(
        "--cut",
        action="store_true",
        help="Give up the records from the first damaged one on.",
    )
    options = parser.parse_args(argv)
    try:
        if options.cut:
            print(cut(options.run_dir))
        else:
            _, entries, _ = read(options.run_dir / NAME)
            print(f"{options.run_dir / NAME} is whole: {len(entries)} records.")
    except LogError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
