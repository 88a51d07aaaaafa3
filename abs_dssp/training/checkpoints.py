"""Saving and resuming a long run: one file per checkpoint, each with checksums.

A checkpoint is an `.npz` of NumPy's: the leaves of a state and a JSON note, with a
CRC-32 of each. It becomes visible by one rename, after the disk has it, so that a run
that dies while saving finds the one before it; so does one whose disk has damaged it.
"""

import contextlib
import dataclasses
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_KEPT = 2  # checkpoints
_SUFFIX, _PARTIAL = ".npz", ".partial"
_ABOUT = "about"
# What reading an archive raises, depending on where a bit was flipped.
_DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError),
    *(zlib.error, zipfile.BadZipFile),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A state at one moment."""

    leaves: list[Any]  # arrays, NumPy's where they come from a store
    note: dict[str, Any]  # whatever JSON can hold
    step: int = 0  # the number under which it was saved


class Store:
    """A folder of checkpoints of one run, of which the newest two are kept.

    `run` identifies the run (see `identity`); with None, those of any run are read.

    Example:
      >>> import tempfile
      >>> store = Store(Path(tempfile.mkdtemp()), run="mine")
      >>> store.save(3, [np.arange(2.0)], {"pushes": 3})
      >>> found = store.latest()
      >>> found.step, found.leaves[0].tolist(), found.note
      (3, [0.0, 1.0], {'pushes': 3})
    """

    def __init__(self, folder: Path, run: str | None, files: Any = os):
        """Opens the folder, or makes it; what a dead process left half is removed.

        Args:
          folder: of the checkpoints.
          run: identity.
          files: the module `os`, or what stands in for it.

        Raises:
          ValueError: if an earlier version wrote what lies there.
        """
        self._run, self._folder, self._os = run, folder, files
        self.damaged: list[str] = []  # sentences about checkpoints that were passed by
        self._broken: set[int] = set()  # their numbers
        self.unread = ""  # why one of them could not be read: it may be whole
        files.makedirs(folder, exist_ok=True)
        names = files.listdir(folder)
        if any(name.isdecimal() for name in names) and not self.steps():
            raise ValueError(
                f"{folder} holds checkpoints of an earlier version; choose another "
                "folder or remove it."
            )
        if run is not None:
            for name in names:
                if name.endswith(_PARTIAL):
                    self._remove(folder / name)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there is none.

        Raises:
          ValueError: if it belongs to another run.
        """
        return next(self.newest_first(), None)

    def newest_first(self) -> Iterator[Checkpoint]:
        """All checkpoints that are whole; `damaged` names the others.

        Raises:
          ValueError: if one belongs to another run.
        """
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                found = self._read(path, step)
            except _DAMAGED as error:
                if isinstance(error, OSError):
                    self.unread = f"{path}: {error.strerror}"
                why = (str(error).splitlines() or [type(error).__name__])[0]
                self.damaged.append(f"{path} is damaged ({why}) and passed by")
                self._broken.add(step)
            else:
                self._broken.discard(step)
                run = found.note.pop("run")
                if self._run is not None and run != self._run:
                    raise ValueError(
                        f"{self._folder} holds a checkpoint of another run; "
                        "choose another folder or remove it."
                    )
                yield Checkpoint(found.leaves, found.note["note"], step)

    def latest_step(self) -> int | None:
        """The number under which the newest checkpoint was saved, if there is one.

        One that was passed by is none: it is saved again.
        """
        return max(self.usable(), default=None)

    def set_aside(self, step: int) -> None:
        """Renames a checkpoint so that nobody resumes from it."""
        path = self._path(step)
        self._os.replace(path, path.with_suffix(".unused"))

    def save(self, step: int, leaves: Sequence[Any], note: dict[str, Any]) -> None:
        """Saves; the disk has it when this returns.

        Args:
          step: a number that grows.
          leaves: arrays.
          note: whatever JSON can hold.

        Raises:
          OSError: if it cannot be written; nothing is left of it.
        """
        arrays = [np.asarray(leaf) for leaf in leaves]
        kinds = [[list(array.shape), array.dtype.name] for array in arrays]
        about = json.dumps({"run": self._run, "leaves": kinds, "note": note})
        partial = self._folder / f"{step}{_PARTIAL}"
        try:
            with io.BufferedWriter(_Writer(self._os, partial), 1 << 20) as stream:
                # As bytes: NumPy's format has no number formats but its own.
                state = {_leaf(i): _bytes(array) for i, array in enumerate(arrays)}
                content = np.frombuffer(about.encode(), np.uint8)
                np.savez(stream, allow_pickle=False, **{_ABOUT: content}, **state)
                stream.flush()
                stream.raw.sync()
            self._os.replace(partial, self._path(step))
            self._broken.discard(step)
            self._sync_folder()
        except BaseException:
            self._remove(partial)
            raise
        steps = self.steps()
        kept = self._whole(steps)[-_KEPT:]
        for old in steps:
            if old < kept[0]:
                self._remove(self._path(old))

    def _read(self, path: Path, step: int) -> Checkpoint:
        """Everything that is in a file; the note still has the run's identity."""
        data = io.BytesIO(read_file(self._os, path))
        with np.load(data, allow_pickle=False) as archive:
            about = json.loads(archive[_ABOUT].tobytes())
            leaves = [
                archive[_leaf(i)].view(jnp.dtype(dtype)).reshape(shape)
                for i, (shape, dtype) in enumerate(about["leaves"])
            ]
        return Checkpoint(leaves, {"run": about["run"], "note": about["note"]}, step)

    def steps(self) -> list[int]:
        """The numbers of all checkpoints, smallest first."""
        found = [Path(name) for name in self._os.listdir(self._folder)]
        return sorted(
            int(path.stem)
            for path in found
            if path.suffix == _SUFFIX and path.stem.isdecimal()
        )

    def usable(self) -> list[int]:
        """The numbers of those that were not passed by, smallest first."""
        return self._whole(self.steps())

    def _whole(self, steps: Sequence[int]) -> list[int]:
        return [step for step in steps if step not in self._broken]

    def _path(self, step: int) -> Path:
        return self._folder / f"{step}{_SUFFIX}"

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._os.unlink(path)

    def _sync_folder(self) -> None:
        descriptor = self._os.open(self._folder, os.O_RDONLY)
        try:
            self._os.fsync(descriptor)
        finally:
            self._os.close(descriptor)


class _Writer(io.RawIOBase):
    """A new file, written through the functions of `os`."""

    def __init__(self, files: Any, path: Path):
        self._os = files
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._descriptor = files.open(path, flags, 0o644)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._os.write(self._descriptor, data)

    def sync(self) -> None:
        """Waits for the disk."""
        self._os.fsync(self._descriptor)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._os.close(self._descriptor)


def read_file(files: Any, path: Path) -> bytes:
    """The content of a file.

    Args:
      files: the module `os`, or what stands in for it.
      path: of the file.

    Raises:
      OSError: if it cannot be read.
    """
    descriptor = files.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := files.read(descriptor, 1 << 24):
            parts.append(part)
        return b"".join(parts)
    finally:
        files.close(descriptor)


def _leaf(number: int) -> str:
    return f"leaf{number:05d}"


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
