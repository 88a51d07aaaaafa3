"""All methods in all cases: made in parallel, kept, and written as rows."""

import concurrent.futures
import dataclasses
import json
import lzma
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from abs_dssp import compilation, files
from abs_dssp.experiment import outputs, pool
from abs_dssp.experiment.leaderboard import entries, race
from abs_dssp.experiment.leaderboard.cases import CASES, NUM_WORKERS, Case
from abs_dssp.experiment.leaderboard.race import GRID, TUNING_SEED, Row
from abs_dssp.experiment.methods import Method
from abs_dssp.experiment.progress import Progress


class Board:
    """Rows by case and method, kept in a file of JSON lines."""

    def __init__(self, path: Path, seeds: int):
        self.path, self.seeds = path, seeds
        self._known: dict[str, Row] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:  # cut off by an interruption
                continue
            key = record.pop("key")
            self._known[key] = _row(record)

    def rows(
        self, chosen: Sequence[Case], only: Sequence[str], processes: int
    ) -> list[Row]:
        """The rows, in the order of cases and methods; missing ones are made.

        Args:
          chosen: cases.
          only: parts of labels of methods; none for all.
          processes: that make them.

        Raises:
          ValueError: if no method's label has a part that was asked for.
        """
        cells = [
            (case, method)
            for case in chosen
            for method in entries.entries(NUM_WORKERS, case.ratio)
            if not only or any(part in method.label for part in only)
        ]
        if not cells:
            raise ValueError(f"--only: no method is called {', '.join(only)}.")
        missing = [cell for cell in cells if self._key(*cell) not in self._known]
        progress = Progress("leaderboard", "cells", every=0.0)
        for done, row in enumerate(self._make(missing, processes), 1):
            note = f"{row.case}: {row.method} {row.mean('tuned'):.4g} s"
            progress.update(done, len(missing), note)
        progress.close()
        return [self._known[self._key(*cell)] for cell in cells]

    def _make(self, missing, processes: int) -> Iterator[Row]:
        numbers = range(self.seeds)
        with pool.start(processes, self.path.parent / "programs") as workers:
            waiting = {
                workers.submit(_cell, case.name, method.label, numbers): (case, method)
                for case, method in missing
            }
            for done in concurrent.futures.as_completed(waiting):
                yield self._keep(waiting[done], done.result())

    def _keep(self, cell: tuple[Case, Method], row: Row) -> Row:
        key = self._key(*cell)
        outputs.append(self.path, {"key": key} | _record(row))
        self._known[key] = row
        return row

    def _key(self, case: Case, method: Method) -> str:
        known = dataclasses.asdict(case) | {"times": case.times_text}
        rule = [method.label, method.text, method.aggregate]
        return outputs.digest([known, rule, self.seeds, GRID.tolist(), TUNING_SEED])


def _cell(case: str, label: str, seeds: Sequence[int]) -> Row:
    """One cell, in another process, to which a method with its functions cannot go."""
    place = next(each for each in CASES if each.name == case)
    all_of_them = entries.entries(NUM_WORKERS, place.ratio)
    method = next(each for each in all_of_them if each.label == label)
    compilation.release_programs()
    return race.run(place, method, seeds)


def _record(row: Row) -> dict:
    """For JSON, which has no infinity."""
    record = dataclasses.asdict(row)
    for name in race.DIVISIONS:
        record[name] = [t if math.isfinite(t) else None for t in record[name]]
    return record


def _row(record: dict) -> Row:
    times = {
        name: tuple(math.inf if t is None else t for t in record[name])
        for name in race.DIVISIONS
    }
    return Row(**(record | times))


def save(rows: Sequence[Row], path: Path) -> None:
    """Writes rows to a file, the same bytes for the same rows."""
    lines = [json.dumps(_record(row), separators=(",", ":")) for row in rows]
    with files.whole(path) as partial:
        partial.write_bytes(lzma.compress("\n".join(lines).encode() + b"\n"))


def times(
    rows: Sequence[Row], division: str
) -> tuple[list[str], list[str], np.ndarray]:
    """Methods, cases, and mean seconds (methods, cases), in the order of the rows."""
    who = list(dict.fromkeys(row.method for row in rows))
    where = list(dict.fromkeys(row.case for row in rows))
    table = np.full((len(who), len(where)), np.inf)
    for row in rows:
        table[who.index(row.method), where.index(row.case)] = row.mean(division)
    return who, where, table
