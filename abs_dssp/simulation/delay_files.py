"""Durations that were measured, as a model of worker speed: a table or a CSV file."""

import csv as csv_lib
import dataclasses
import math
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from abs_dssp.simulation.delay_base import BLOCK, Delays, build, is_traced


def recorded(durations: Any, num_workers: int | None = None) -> Delays:
    """Measured durations, taken in order and from the start again at the end.

    Args:
      durations: (N, M) seconds, row i for the computations that worker i starts,
        restarted ones included; rows may differ in length.
      num_workers: number of workers N, to be checked against the rows.

    Raises:
      ValueError: for negative or infinite seconds, an empty row or the wrong N.

    Example:
      >>> from abs_dssp import delays
      >>> delays.table(delays.recorded([[1, 2], [5]]), 3).tolist()
      [[1.0, 2.0, 1.0], [5.0, 5.0, 5.0]]
    """
    if is_traced(durations):
        rows, columns = durations.shape
        lengths = np.full(rows, columns)
        cells = durations
    else:
        try:
            lists = [np.asarray(row, float) for row in durations]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"recorded: durations must be a table of seconds: {error}."
            ) from error
        if not lists or any(row.ndim != 1 or row.size == 0 for row in lists):
            raise ValueError(
                "recorded: durations must be an (N, M) table with M at least 1."
            )
        lengths = np.array([row.size for row in lists])
        cells = np.zeros((len(lists), lengths.max()))
        for i, row in enumerate(lists):
            cells[i, : row.size] = row
    return build("recorded", _recorded, num_workers, durations=cells, lengths=lengths)


def csv(
    path: str | os.PathLike[str],
    *,
    worker: str = "worker",
    seconds: str = "seconds",
    mean: float | None = None,
    num_workers: int | None = None,
) -> Delays:
    r"""Measured durations from a CSV file, which is read now, once; as `recorded`.

    A line is one computation, and those of a worker stand in their order. The file's n
    workers are taken by number where all their labels are numbers, else by text.

    With fewer workers than the file has, N are its first N. With more, worker i takes
    the durations of the file's worker i mod n from another place on: at the share
    (i // n) / ceil(N / n) of them, rounded down, and from the start again at the end.

    Args:
      path: of the file; its first line names the columns, others than the two are
        ignored.
      worker: name of the column with the label of the worker.
      seconds: name of the column with the duration.
      mean: seconds that the mean over all lines becomes, for durations without a unit;
        they are taken as they are by default.
      num_workers: number of workers N; those of the file by default.

    Raises:
      ValueError: for a file that cannot be read, has no such column or no durations, a
        duration that is no number, negative or infinite, or a mean not above 0.

    Example:
      >>> import pathlib, tempfile
      >>> from abs_dssp import delays
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "steps.csv")
      ...     _ = path.write_text("worker,seconds\na,1\nb,5\na,2\n")
      ...     model = delays.csv(path)
      ...     wider = delays.csv(path, mean=16.0, num_workers=4)
      >>> delays.table(model, 3).tolist()
      [[1.0, 2.0, 1.0], [5.0, 5.0, 5.0]]
      >>> delays.table(wider, 3).tolist()  # times 16 / mean(1, 5, 2) = 6
      [[6.0, 12.0, 6.0], [30.0, 30.0, 30.0], [12.0, 6.0, 12.0], [30.0, 30.0, 30.0]]
    """
    if mean is not None and not 0 < mean < math.inf:
        raise ValueError(f"csv: mean must be above 0 and finite, got {mean}.")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"csv: path must be that of a CSV file, got {path!r}.")
    path = os.fspath(path)
    durations = _by_worker(path, worker, seconds)
    if mean is not None:
        average = np.concatenate(durations).mean()
        if average == 0:
            raise ValueError(
                f"csv: all durations in {path!r} are 0, so no factor gives them the "
                f"mean {mean}; leave out mean."
            )
        durations = [mine / average * mean for mine in durations]
    n = len(durations)
    workers = n if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"csv: num_workers must be at least 1, got {workers}.")
    laps = -(-workers // n)
    rows = [
        np.roll(durations[i % n], -(durations[i % n].size * (i // n) // laps))
        for i in range(workers)
    ]
    given = {"worker": worker, "seconds": seconds, "mean": mean}
    usual = {"worker": "worker", "seconds": "seconds", "mean": None}
    others = [f"{key}={given[key]!r}" for key in given if given[key] != usual[key]]
    spec = f"csv({','.join([repr(path), *others])})"
    return dataclasses.replace(recorded(rows), spec=spec)


def _by_worker(path: str, worker: str, seconds: str) -> list[np.ndarray]:
    """The durations of every worker of the file, the workers in order."""
    found: dict[str, list[float]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv_lib.DictReader(file)
            columns = [name.strip() for name in lines.fieldnames or ()]
            lines.fieldnames = columns
            for argument, name in (("worker", worker), ("seconds", seconds)):
                if name not in columns:
                    there = ", ".join(map(repr, columns)) or "none"
                    raise ValueError(
                        f"csv: {path!r} must have a column {name!r}, got {there}; "
                        f"say which it is by {argument}=."
                    )
            for line in lines:
                where = f"csv: line {lines.line_num} of {path!r}"
                label = (line[worker] or "").strip()
                if not label:
                    raise ValueError(f"{where} must name a worker, got {line!r}.")
                mine = found.setdefault(label, [])
                mine.append(_duration(line[seconds], seconds, where))
    except (OSError, UnicodeDecodeError, csv_lib.Error) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ValueError(
            f"csv: path must be that of a CSV file, got {path!r} ({why}); a relative "
            f"one starts at {os.getcwd()!r}."
        ) from error
    if not found:
        raise ValueError(
            f"csv: {path!r} must have a line for every computation, got none below "
            "the names of the columns."
        )
    try:
        labels = sorted(found, key=lambda label: (float(label), label))
    except ValueError:
        labels = sorted(found)
    return [np.array(found[label]) for label in labels]


def _duration(text: str | None, column: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(
            f"{where}: {column} must be a finite number of at least 0, got {text!r}; "
            "mend the line or leave it out."
        )
    return value


def _recorded(parameters, key, index, chain):
    del key
    numbers = index * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
    return parameters["durations"][numbers % parameters["lengths"]], chain
