"""Writes how long steps take, from any training loop, as `delays.csv` reads it.

    from abs_dssp import record

    with record.Recorder("steps.csv", worker=rank) as steps:
        for batch in data:
            with steps.step():
                state = train(state, batch)
                jax.block_until_ready(state)  # torch.cuda.synchronize() in PyTorch

The block is what is timed, no more: JAX and CUDA go on computing after a call has
returned, so its last line waits for the result. A first step compiles: take it before
the loop. Time what a worker does alone. Where the block holds an all-reduce, every
worker waits in it for the slowest, and all of them seem to be as slow as that one.

Only the standard library is imported, so that this runs beside any framework.
"""

import contextlib
import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from types import ModuleType

from abs_dssp import files

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: processes must not share a file there
    fcntl = None

COLUMNS = ("worker", "seconds", "step")


class Recorder:
    """Appends a line to a CSV file for every step of one worker.

    A line is there as soon as its step has ended, and processes may share a file: one
    that is killed loses the step that it was in. What it had written of a line is cut
    off by whoever writes next. Where the file exists already, lines are added to it,
    and the worker goes on counting from its last step there. One thread at a time.

    Args:
      path: of the file; its folder must exist.
      worker: number or name of this worker, another one for every worker.
      clock: gives seconds; differences count.

    Raises:
      ValueError: if the worker has no name, or the file has other columns.
      OSError: if the file cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> from abs_dssp import record
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = pathlib.Path(folder.name, "steps.csv")
      >>> seconds = iter([5.0, 5.25]).__next__
      >>> with record.Recorder(path, worker=3, clock=seconds) as steps:
      ...     with steps.step():
      ...         total = sum(range(10))
      ...     steps.add(0.5)
      >>> path.read_text().split()
      ['worker,seconds,step', '3,0.25,0', '3,0.5,1']
      >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        worker: int | str,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._path = os.fspath(path)
        self._worker = str(worker).strip()
        self._clock = clock
        if not self._worker:
            raise ValueError(
                f"record: worker must be a number or a name, got {worker!r}."
            )
        with contextlib.suppress(FileExistsError):
            # The file appears with its header, so nobody's line can come before it.
            files.write(self._path, ",".join(COLUMNS) + "\n", new=True)
        self._next, self._text = _look_at(self._path, self._worker)
        self._file: int | None = os.open(self._path, os.O_RDWR | os.O_APPEND)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Times its block as one step; nothing is written if the block raises."""
        begun = self._clock()
        yield
        self.add(self._clock() - begun)

    def add(self, seconds: float) -> None:
        """Adds a step that was timed elsewhere.

        Args:
          seconds: that it took, finite and at least 0.

        Raises:
          ValueError: for other seconds, or after `close`.
          OSError: if the line cannot be written.
        """
        seconds = float(seconds)
        if not 0 <= seconds < math.inf:
            raise ValueError(
                f"record: seconds must be a finite number of at least 0, got {seconds}."
            )
        if self._file is None:
            raise ValueError(f"record: {self._path!r} is closed; add steps before.")
        text = self._text + _line(self._worker, f"{seconds:.9g}", self._next)
        line = text.encode()
        with _alone(self._file):
            if not self._text:
                _cut_off_torn_line(self._file)
            if os.write(self._file, line) < len(line):  # a full disk
                raise OSError(f"record: no room for another line of {self._path!r}.")
        self._next, self._text = self._next + 1, ""

    def close(self) -> None:
        """Closes the file; again, it does nothing."""
        if self._file is not None:
            os.close(self._file)
        self._file = None


@contextlib.contextmanager
def _alone(file: int) -> Iterator[None]:
    """Keeps other processes from writing; the lock of one that is killed is gone."""
    if fcntl is None:
        yield
        return
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _cut_off_torn_line(file: int) -> None:
    """Ends the file with its last whole line: whoever wrote the rest was killed."""
    end = os.fstat(file).st_size
    at = end
    while at > 0 and os.pread(file, 1, at - 1) != b"\n":
        at -= 1
    if at < end:
        os.ftruncate(file, at)


def _line(*cells: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _look_at(path: str, worker: str) -> tuple[int, str]:
    """The number of the worker's next step, and what has to come before its line: the
    header of an empty file, or the end of a line that was cut off."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines, None)
        if header is None:
            return 0, ",".join(COLUMNS) + "\n"
        if [cell.strip() for cell in header] != list(COLUMNS):
            raise ValueError(
                f"record: {path!r} must have the columns {','.join(COLUMNS)} to go on "
                f"with it, got {','.join(header)!r}; give the path of another file."
            )
        taken = [
            int(line[2])
            for line in lines
            if len(line) == 3 and line[0] == worker and line[2].strip().isdecimal()
        ]
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        ended = file.read() == b"\n"
    return max(taken, default=-1) + 1, "" if ended else "\n"
