"""Durations that were measured, as a model of worker speed: a table or a file."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from abs_dssp import checks
from abs_dssp.simulation import time_files
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
    step: str | None = "step",
    mean: float | None = None,
    num_workers: int | None = None,
) -> Delays:
    r"""Measured durations from a CSV file, which is read now, once; as `recorded`.

    A line is one computation. The computations of a worker are taken in the order of
    their steps, and of their lines where steps are equal or the file has none. The
    file's n workers are taken by number where all their labels are numbers, else by
    text. `record.Recorder` writes such files; a Parquet file does as well.

    With fewer workers than the file has, N are its first N. With more, worker i takes
    the durations of the file's worker i mod n from another place on: at the share
    (i // n) / ceil(N / n) of them, rounded down, and from the start again at the end.

    Args:
      path: of the file. Its first line names the columns, others than these are
        ignored. They are separated by commas, or by semicolons (then with decimal
        commas too), tabs or bars. A line that ends the file and was cut off is left
        out, and so is a header that comes again.
      worker: name of the column with the label of the worker.
      seconds: name of the column with the duration.
      step: name of the column with the number of the step, which may be missing where
        it is `"step"`; None takes the lines in their order.
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
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"csv: path must be that of a CSV file, got {path!r}.")
    path = os.fspath(path)
    columns = time_files.Columns(worker, seconds, step)
    where = f"csv: {path!r}"
    model = of_workers(time_files.by_worker(path, columns), mean, num_workers, where)
    given = columns._asdict() | {"mean": mean}
    usual = time_files.USUAL._asdict() | {"mean": None}
    others = [f"{key}={given[key]!r}" for key in given if given[key] != usual[key]]
    spec = f"csv({','.join([repr(path), *others])})"
    return dataclasses.replace(model, spec=spec)


def of_workers(
    durations: Sequence[np.ndarray],
    mean: float | None,
    num_workers: int | None,
    where: str,
) -> Delays:
    """Measured durations of n workers for any number of them, as `csv` takes them.

    Args:
      durations: (M_i,) seconds of each of the n workers.
      mean: seconds that the mean over all durations becomes; None leaves them.
      num_workers: number of workers N; n by default.
      where: they are from, for messages.

    Raises:
      ValueError: as for `csv`.

    Example:
      >>> import numpy as np
      >>> from abs_dssp import delays
      >>> from abs_dssp.simulation import delay_files
      >>> rows = [np.array([1.0, 2.0]), np.array([6.0])]
      >>> model = delay_files.of_workers(rows, mean=6.0, num_workers=3, where="rows")
      >>> delays.table(model, 2).tolist()  # times 6 / mean(1, 2, 6) = 2
      [[2.0, 4.0], [12.0, 12.0], [4.0, 2.0]]
    """
    if mean is not None:
        checks.number(where, "mean", mean, above=0)
        average = np.concatenate(durations).mean()
        if average == 0:
            raise ValueError(
                f"{where}: all durations are 0, so no factor gives them the mean "
                f"{mean}; leave out mean."
            )
        durations = [mine / average * mean for mine in durations]
    n = len(durations)
    workers = n if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"{where}: num_workers must be at least 1, got {workers}.")
    laps = -(-workers // n)
    return recorded(
        [
            np.roll(durations[i % n], -(durations[i % n].size * (i // n) // laps))
            for i in range(workers)
        ]
    )


def _recorded(parameters, key, index, chain):
    del key
    numbers = index * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
    return parameters["durations"][numbers % parameters["lengths"]], chain
