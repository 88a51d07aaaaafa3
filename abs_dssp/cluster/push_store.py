"""What lies beside the log of a fragment: the pushes' vectors, and what led to them.

A server of one fragment cannot compute a push again: that depends on the worker's own
values of all fragments. So every vector is on disk before the log says that it was
pushed, until two checkpoints contain it; and for good, in a line each, what its worker
had taken before (`Turn`), which a replay needs.
"""

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abs_dssp.cluster.log import LogError, UnwritableError
from abs_dssp.cluster.system import REAL, System
from abs_dssp.training.checkpoints import read_file

TURNS = "turns.log"
_SUFFIX = ".vectors"
_HEAD = struct.Struct("<iiI")  # worker, its clock, checksum of these and the vector


class Turn(NamedTuple):
    """Where a push stands among those of its worker."""

    number: int  # pushes of the worker to all fragments, this one included
    begins: bool  # whether a process began with it
    # (fragment, version, mark of the grant) taken before it. A server that has lost the
    # end of its log makes another version of the same number; marks tell them apart.
    took: tuple[tuple[int, int, int], ...]


def read_turn(value: Any) -> Turn:
    """A turn as a message or a file tells it.

    Raises:
      ValueError: if it is none.

    Example:
      >>> read_turn([4, False, [[1, 7, 99]]])
      Turn(number=4, begins=False, took=((1, 7, 99),))
    """
    try:
        number, begins, took = value
        grants = tuple((int(f), int(version), int(mark)) for f, version, mark in took)
        return Turn(int(number), bool(begins), grants)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{value!r} says nothing of a push") from error


class PushStore:
    """The files of one fragment. Belongs to the serving thread.

    Attributes:
      turns: by worker and its clock, of all pushes so far; some may be of pushes that
        the log does not have.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        dtype: np.dtype,
        *,
        logged: Sequence[tuple[int, int]] = (),
        sync: bool = False,
        system: System = REAL,
    ):
        """Opens or makes the files.

        Args:
          folder: of the fragment; must exist.
          size: values of a vector.
          dtype: of these.
          logged: worker and clock of the pushes that the log beside has.
          sync: wait for the disk at every push.
          system: has the disk.

        Raises:
          LogError: if they cannot be read or written.
        """
        self._folder, self._os, self._sync = folder, system.os, sync
        self._size, self._dtype = size, np.dtype(dtype)
        self._record = _HEAD.size + size * self._dtype.itemsize
        self._segment = -1
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            self._turns = self._os.open(folder / TURNS, flags, 0o644)
            data = read_file(self._os, folder / TURNS)
            self.turns, end = parse(data, folder / TURNS, logged)
            self._os.ftruncate(self._turns, end)
            self._places = self._index()
            starts = self._starts()
            self._vectors = self._open(starts[-1] if starts else 0)
        except OSError as error:
            raise UnwritableError(f"{folder}: {error.strerror}.") from error

    def add(self, worker: int, clock: int, turn: Turn, vector: np.ndarray) -> None:
        """Writes a push; returns when a crash of this process cannot lose it.

        Args:
          worker: 0..N-1.
          clock: its pushes to this fragment, this one included.
          turn: what led to it.
          vector: (size,).

        Raises:
          LogError: if the disk is full or fails.
        """
        data = np.ascontiguousarray(vector).tobytes()
        try:
            self._write(self._turns, line(worker, clock, turn))
            head = _HEAD.pack(worker, clock, _checksum(worker, clock, data))
            place = self._segment, self._end
            self._write(self._vectors, head + data)
        except OSError as error:
            raise UnwritableError(
                f"{self._folder}: {error.strerror}; make room and start the same "
                "command again: it goes on from the last logged push."
            ) from error
        self._end += self._record
        self._places[worker, clock] = place
        self.turns[worker, clock] = turn

    def vector(self, worker: int, clock: int) -> np.ndarray:
        """The vector of a push, (size,).

        Raises:
          LogError: if it is not there, or damaged.
        """
        place = self._places.get((worker, clock))
        where = f"{self._folder}: the vector of push {clock} of worker {worker}"
        if place is None:
            raise LogError(
                f"{where} is not there, and no newer checkpoint; restore the folder "
                "from a copy, or choose another --out."
            )
        start, offset = place
        try:
            descriptor = self._os.open(self._path(start), os.O_RDONLY)
            try:
                data = self._piece(descriptor, offset, self._record)
            finally:
                self._os.close(descriptor)
        except OSError as error:
            raise UnwritableError(
                f"{where} cannot be read: {error.strerror}; start the same command "
                "again."
            ) from error
        _, _, check = _HEAD.unpack_from(data.ljust(_HEAD.size))
        if _checksum(worker, clock, data[_HEAD.size :]) != check:
            raise LogError(
                f"{where} is damaged; restore the folder from a copy, or choose "
                "another --out."
            )
        return np.frombuffer(data, self._dtype, offset=_HEAD.size).copy()

    def begin(self, records: int) -> None:
        """A checkpoint of so many records of the log is made: what follows is apart."""
        if records <= self._segment:
            return
        before = self._vectors
        try:
            self._vectors = self._open(records)
        except OSError:  # as on a full disk; the present file can take more
            return
        self._os.close(before)

    def give_up(self, records: int) -> None:
        """Removes the vectors of pushes before so many records of the log."""
        try:
            starts = self._starts()
        except OSError:  # at another time
            return
        for start, after in zip(starts, starts[1:], strict=False):
            if after <= records:
                with contextlib.suppress(OSError):
                    self._os.unlink(self._path(start))
                gone = [key for key, place in self._places.items() if place[0] == start]
                for key in gone:
                    del self._places[key]

    def close(self) -> None:
        """Closes the files."""
        self._os.close(self._turns)
        self._os.close(self._vectors)

    def _open(self, start: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        path = self._path(start)
        descriptor = self._os.open(path, flags, 0o644)
        try:
            size = self._os.fstat(descriptor).st_size
            # A crash may have cut the last one short; nobody was told of it.
            end = size - size % self._record
            self._os.ftruncate(descriptor, end)
        except BaseException:
            self._os.close(descriptor)
            raise
        self._segment, self._end = start, end
        return descriptor

    def _write(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._os.write(descriptor, view) :]
        if self._sync:
            self._os.fdatasync(descriptor)

    def _starts(self) -> list[int]:
        """The records at which the files of vectors begin, in order."""
        found = [Path(name) for name in self._os.listdir(self._folder)]
        return sorted(
            int(path.stem)
            for path in found
            if path.suffix == _SUFFIX and path.stem.isdecimal()
        )

    def _path(self, start: int) -> Path:
        return self._folder / f"{start}{_SUFFIX}"

    def _index(self) -> dict[tuple[int, int], tuple[int, int]]:
        """File and offset of the latest vector of every push."""
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for start in self._starts():
            descriptor = self._os.open(self._path(start), os.O_RDONLY)
            try:
                size = self._os.fstat(descriptor).st_size
                for offset in range(0, size - self._record + 1, self._record):
                    head = self._piece(descriptor, offset, _HEAD.size)
                    worker, clock, _ = _HEAD.unpack(head)
                    places[worker, clock] = start, offset
            finally:
                self._os.close(descriptor)
        return places

    def _piece(self, descriptor: int, offset: int, length: int) -> bytes:
        """Some bytes of a file, which may be larger than memory."""
        self._os.lseek(descriptor, offset, os.SEEK_SET)
        parts = []
        while length and (part := self._os.read(descriptor, length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def line(worker: int, clock: int, turn: Turn) -> bytes:
    """A line of the file of turns.

    Example:
      >>> made = line(1, 2, Turn(3, False, ((0, 5, 99),)))
      >>> made
      b'd9d7730e [1, 2, 3, false, [[0, 5, 99]]]\\n'
      >>> parse(made, Path("turns.log"))[0]
      {(1, 2): Turn(number=3, begins=False, took=((0, 5, 99),))}
    """
    text = json.dumps([worker, clock, *turn])
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def parse(
    data: bytes, path: Path, logged: Sequence[tuple[int, int]] = ()
) -> tuple[dict[tuple[int, int], Turn], int]:
    """The turns of a file by worker and clock, the last ones count; and its length.

    Damage at the end is left out where the log knows nothing of it: a crash or a loss
    of power has cut a line short, and nobody was told of its push.

    Args:
      data: the file's content.
      path: for messages.
      logged: worker and clock of the pushes that the log beside has.

    Raises:
      LogError: if a line before others is damaged, or one of a logged push is missing.
    """
    found: dict[tuple[int, int], Turn] = {}
    end, damaged = 0, 0
    for number, each in enumerate(data.split(b"\n")[:-1], 1):
        check, _, text = each.partition(b" ")
        if check != f"{zlib.crc32(text):08x}".encode():
            damaged = damaged or number
            continue
        if damaged:
            raise LogError(
                f"{path} is damaged at line {damaged}; restore it from a copy, or "
                "choose another --out."
            )
        worker, clock, *rest = json.loads(text)
        found[worker, clock] = read_turn(rest)
        end += len(each) + 1
    for worker, clock in logged:
        if (worker, clock) not in found:
            raise LogError(
                f"{path} lacks push {clock} of worker {worker}, which the log beside "
                "it has; restore the folder from a copy, or choose another --out."
            )
    return found, end


def _checksum(worker: int, clock: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_HEAD.pack(worker, clock, 0)))
