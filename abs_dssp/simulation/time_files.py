"""Tables of step times: CSV as programs and spreadsheets write it, and Parquet."""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_SEPARATORS = ",;\t|"
_PARQUET = b"PAR1"  # how such a file begins


class Columns(NamedTuple):
    """The names of a table's columns."""

    worker: str = "worker"  # label of the worker
    seconds: str = "seconds"  # duration
    step: str | None = "step"  # number of the step; None: lines stand in order


USUAL = Columns()


def by_worker(
    path: str | os.PathLike[str], columns: Columns = USUAL
) -> list[np.ndarray]:
    r"""The durations of every worker of a table, in the order of its steps.

    The column of steps may be missing where it has its usual name.

    Args:
      path: of a CSV or Parquet file.
      columns: their names, in letters of either case.

    Returns:
      A float array (M_i,) for every worker; they are in order of their labels, of their
      numbers where all are numbers.

    Raises:
      ValueError: if the file cannot be read, or a line of it is wrong.

    Example:
      >>> import pathlib, tempfile
      >>> from abs_dssp.simulation import time_files
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "steps.csv")
      ...     _ = path.write_text("Worker;Step;Seconds\n1;2;0,5\n0;1;3\n1;1;2\n")
      ...     [times.tolist() for times in time_files.by_worker(path)]
      [[3.0], [2.0, 0.5]]
    """
    path = os.fspath(path)
    found: dict[str, list[tuple[float, float]]] = {}
    for where, (label, seconds, step) in _lines(path, columns):
        label = str("" if label is None else label).strip()
        if not label:
            raise ValueError(f"{where} must name a worker, got {label!r}.")
        number = 0.0 if columns.step is None or step is _ABSENT else _step(step, where)
        mine = found.setdefault(label, [])
        mine.append((number, _duration(seconds, columns.seconds, where)))
    if not found:
        raise ValueError(
            f"csv: {path!r} must have a line for every computation, got none below "
            "the names of the columns."
        )
    try:
        labels = sorted(found, key=lambda label: (float(label), label))
    except ValueError:
        labels = sorted(found)
    ordered = (sorted(found[each], key=lambda line: line[0]) for each in labels)
    return [np.array([seconds for _, seconds in mine]) for mine in ordered]


def parquet(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, list]:
    """Columns of a Parquet file as lists.

    Args:
      path: of the file.
      names: of the columns.

    Raises:
      ValueError: where there is no reader of such files.
      OSError: if it cannot be read.
    """
    try:
        import pyarrow
        from pyarrow import parquet as reader
    except ImportError as error:
        raise ValueError(
            f"{os.fspath(path)!r} is a Parquet file, which pyarrow reads: "
            "pip install pyarrow, or write the table as CSV."
        ) from error
    try:
        table = reader.read_table(path, columns=list(names))
    except pyarrow.ArrowException as error:
        raise OSError(None, f"{error}", os.fspath(path)) from error
    return {name: table[name].to_pylist() for name in names}


_ABSENT = object()  # of a table without steps
_Line = tuple[str, tuple[Any, Any, Any]]  # where it is; worker, seconds and step


def _lines(path: str, columns: Columns) -> Iterator[_Line]:
    try:
        with open(path, "rb") as file:
            begins = file.read(len(_PARQUET))
        of_kind = _of_parquet if begins == _PARQUET else _of_csv
        yield from of_kind(path, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ValueError(
            f"csv: path must be that of a CSV or Parquet file, got {path!r} ({why}); a "
            f"relative one starts at {os.getcwd()!r}."
        ) from error


def _of_parquet(path: str, columns: Columns) -> Iterator[_Line]:
    names = _schema(path)
    place = _places(path, names, columns)
    table = parquet(path, [names[i] for i in place.values()])
    cells = {field: table[names[i]] for field, i in place.items()}
    steps = cells.get("step") or [_ABSENT] * len(cells["worker"])
    rows = zip(cells["worker"], cells["seconds"], steps, strict=True)
    for number, row in enumerate(rows, 1):
        yield f"csv: row {number} of {path!r}", row


def _schema(path: str) -> list[str]:
    parquet(path, [])  # says what to install
    from pyarrow import parquet as reader

    return list(reader.read_schema(path).names)


def _of_csv(path: str, columns: Columns) -> Iterator[_Line]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        text = file.readline()
        separator = _separator(text, columns)
        names = next(csv.reader([text], delimiter=separator), [])
        names = [name.strip() for name in names]
        place = _places(path, names, columns)
        lines = csv.reader(file, delimiter=separator, skipinitialspace=True)
        for cells in lines:
            cells = [cell.strip() for cell in cells]
            # Files that were put together have their header several times.
            if not any(cells) or cells == names:
                continue
            if len(cells) < len(names) and _cut_off(path, file):
                return
            row = [cells[i] if i < len(cells) else None for i in place.values()]
            if separator != ",":
                row[1:] = [cell and cell.replace(",", ".") for cell in row[1:]]
            worker, seconds, step = [*row, _ABSENT][:3]
            yield (
                f"csv: line {lines.line_num + 1} of {path!r}",
                (worker, seconds, step),
            )


def _separator(header: str, columns: Columns) -> str:
    """The one at which the header falls into the names that are looked for."""
    wanted = {columns.worker.casefold(), columns.seconds.casefold()}

    def parts(separator: str) -> set[str]:
        cells = next(csv.reader([header], delimiter=separator), [])
        return {cell.strip().casefold() for cell in cells}

    return next((each for each in _SEPARATORS if wanted <= parts(each)), ",")


def _cut_off(path: str, file) -> bool:
    """Whether the file was read to its end, and ends within a line: its writer was
    killed there."""
    if file.read(1):
        return False
    with open(path, "rb") as end:
        end.seek(-1, os.SEEK_END)
        return end.read() not in b"\r\n"


def _places(path: str, names: Sequence[str], columns: Columns) -> Mapping[str, int]:
    """Where the columns stand, by field of `Columns`, the step last if there is one."""
    found = {}
    lower = [name.casefold() for name in names]
    for field, name in columns._asdict().items():
        if name is None:
            continue
        if name in names:
            found[field] = list(names).index(name)
        elif lower.count(name.casefold()) == 1:
            found[field] = lower.index(name.casefold())
        elif field != "step" or name != USUAL.step:
            there = ", ".join(map(repr, names)) or "none"
            raise ValueError(
                f"csv: {path!r} must have a column {name!r}, got {there}; "
                f"say which it is by {field}=."
            )
    return found


def _duration(value: Any, column: str, where: str) -> float:
    seconds = _number(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"{where}: {column} must be a finite number of at least 0, got {value!r}; "
            "mend the line or leave it out."
        )
    return seconds


def _step(value: Any, where: str) -> float:
    step = _number(value)
    if not math.isfinite(step):
        raise ValueError(
            f"{where}: its step must be a number, got {value!r}; mend the line, or "
            "take all lines in their order by step=None."
        )
    return step


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
