"""From the logs of all fragments of a run to one trace, and to one set of parameters.

Each server has decided on its own fragment, in an order of its own. Whatever order is
chosen of all pushes, if it keeps those of every fragment and of every worker, and puts
no push before the versions that it was computed from, the parameters are the same; here
it is that of the servers' times, as far as these conditions allow.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from abs_dssp.cluster import core, push_store
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.push_store import Turn
from abs_dssp.history import fragments
from abs_dssp.history.events import Entry
from abs_dssp.history.fragments import FragmentedTrace, Take
from abs_dssp.history.traces import Trace
from abs_dssp.training import checkpoints
from abs_dssp.training.checkpoints import read_file


class Part(NamedTuple):
    """What is known of one fragment."""

    trace: Trace
    losses: list[float]
    turns: list[Turn]  # of every push
    taken: list[int]  # of every push: the version at its release; -1 if there was none
    granted: set[tuple[int, int]]  # versions with the mark of each grant of them


def folder_of(out: Path, fragment: int) -> Path:
    """Where a fragment's log and checkpoints lie in the folder of a run."""
    return out / f"fragment{fragment}"


def count_of(out: Path) -> int:
    """Fragments that the folder of a run holds; 0 for a run without any."""
    count = 0
    while (folder_of(out, count) / logs.NAME).exists():
        count += 1
    return count


def read(
    out: Path,
    parts: Sequence[Sequence[str]],
    sizes: Sequence[int],
    settings: Mapping[str, Any],
    records: Sequence[int] | None = None,
    files: Any = os,
) -> tuple[FragmentedTrace, Float32[np.ndarray, " P"]]:
    """The trace of a run, and the training losses of its pushes.

    Args:
      out: folder of the run.
      parts: names of each fragment's arrays.
      sizes: values of each fragment.
      settings: the trace's other fields: `num_workers`, `policy`, and so on.
      records: of each log, how many count; all by default.
      files: the module `os`, or what stands in for it.

    Raises:
      LogError: if a log is damaged or missing, or they do not fit each other.
    """
    numbers = range(len(parts))
    cuts = [None] * len(parts) if records is None else list(records)
    found = [_part(folder_of(out, f), settings, cuts[f], files) for f in numbers]
    order = _merged(out, found, int(settings["num_workers"]))
    fragment = np.array([f for f, _ in order], np.int32)
    columns = fragments.merged(fragment, [part.trace for part in found])
    taken = [found[f].taken[row] for f, row in order]
    made = FragmentedTrace(
        **columns,
        **settings,
        num_fragments=len(parts),
        fragment=fragment,
        taken=np.array(taken, np.int32),
        takes=_takes(found, order, columns["worker"].tolist(), taken),
        beside=tuple(part.trace.events for part in found),
        names=tuple(map(tuple, parts)),
        sizes=tuple(sizes),
        recorded=True,
    )
    losses = np.array([found[f].losses[row] for f, row in order], np.float32)
    return made.validate(), losses


def parameters(
    out: Path, count: int, *, whole: bool = False, files: Any = os
) -> tuple[list[np.ndarray], list[int]]:
    """Every fragment at its newest checkpoint, and the records of its log until there.

    Args:
      out: folder of the run.
      count: F.
      whole: only checkpoints of a log's end count.
      files: the module `os`, or what stands in for it.

    Raises:
      LogError: if a fragment has no such checkpoint.
    """
    vectors, records = [], []
    for fragment in range(count):
        folder = folder_of(out, fragment)
        _, entries, _ = logs.read(folder / logs.NAME, files)
        store = checkpoints.Store(folder / "checkpoints", None, files)
        least = len(entries) if whole else 0
        for saved in store.newest_first():
            number, mark = saved.note["records"], saved.note["core"]["mark"]
            fits = least <= number <= len(entries)
            if fits and mark == core.mark_of(entries[:number]):
                vectors.append(np.asarray(saved.leaves[0]))
                records.append(number)
                break
        else:
            which = "the end of its log" if whole else "its log"
            raise LogError(
                f"{folder} holds no checkpoint of {which} that is whole; start the "
                "run's command again, which makes one."
            )
    return vectors, records


def keys_of(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Worker and clock of every push of a log, in order."""
    pushes: dict[int, int] = {}
    keys: list[tuple[int, int]] = []
    for event in (entry.event for entry in entries):
        if event.kind == "push":
            pushes[event.worker] = pushes.get(event.worker, 0) + 1
            keys.append((event.worker, pushes[event.worker]))
    return keys


def _part(
    folder: Path, settings: Mapping[str, Any], records: int | None, files: Any
) -> Part:
    _, entries, _ = logs.read(folder / logs.NAME, files)
    granted = _granted(entries)
    entries = entries[:records]
    path, keys = folder / push_store.TURNS, keys_of(entries)
    try:
        data = read_file(files, path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}.") from error
    turns, _ = push_store.parse(data, path, keys)
    trace = logs.to_trace(entries, dict(settings)).validate()
    losses = [e.event.loss for e in entries if e.event.kind == "push"]
    mine = [turns[key] for key in keys]
    return Part(trace, losses, mine, _released(entries), granted)


def _granted(entries: Sequence[Entry]) -> set[tuple[int, int]]:
    """All versions, each with the mark of the history after an entry."""
    version, mark = 0, core.mark_of(())
    found = {(version, mark)}
    for entry in entries:
        version, mark = version + entry.commit, core.mark_of((entry,), mark)
        found.add((version, mark))
    return found


def _released(entries: Sequence[Entry]) -> list[int]:
    """The version that each push's worker was released with."""
    taken: list[int] = []
    waiting: dict[int, int] = {}  # row by worker
    for entry in entries:
        kind, worker = entry.event.kind, entry.event.worker
        if kind == "push":
            waiting[worker] = len(taken)
            taken.append(-1)
        elif kind == "leave":
            waiting.pop(worker, None)
        for each in entry.release:
            taken[waiting.pop(each)] = entry.version + entry.commit
    return taken


def _merged(
    out: Path, parts: Sequence[Part], num_workers: int
) -> list[tuple[int, int]]:
    """All pushes in one order, as (fragment, row of its trace)."""
    for turn in (turn for part in parts for turn in part.turns):
        if any((v, mark) not in parts[f].granted for f, v, mark in turn.took):
            raise _unfitting(out, "what a push was computed from is none of them")
    made = [np.cumsum(part.trace.committed).tolist() for part in parts]
    at, pushed = [0] * len(parts), [0] * num_workers
    order: list[tuple[int, int]] = []

    def version(fragment: int) -> int:
        return made[fragment][at[fragment] - 1] if at[fragment] else 0

    def ready(fragment: int) -> bool:
        row, part = at[fragment], parts[fragment]
        if row == len(part.turns):
            return False
        turn = part.turns[row]
        follows = turn.number == pushed[part.trace.worker[row]] + 1
        return follows and all(version(f) >= v for f, v, _ in turn.took)

    numbers = range(len(parts))
    while any(at[f] < len(parts[f].turns) for f in numbers):
        able = [f for f in numbers if ready(f)]
        if not able:
            raise _unfitting(out, f"after {len(order)} pushes")
        chosen = min(able, key=lambda f: parts[f].trace.time[at[f]])
        order.append((chosen, at[chosen]))
        pushed[parts[chosen].trace.worker[at[chosen]]] += 1
        at[chosen] += 1
    return order


def _unfitting(out: Path, where: str) -> LogError:
    return LogError(
        f"{out}: the logs of the fragments do not fit each other, {where}: one of them "
        "has lost its end, as after a loss of power without --times=sync_log=1; "
        "restore the folder from a copy, or choose another --out."
    )


def _takes(
    parts: Sequence[Part],
    order: Sequence[tuple[int, int]],
    workers: Sequence[int],
    taken: Sequence[int],
) -> tuple[Take, ...]:
    """What was taken before a push, where `taken` does not say it."""
    everything = tuple((fragment, 0) for fragment in range(len(parts)))
    found: list[Take] = []
    latest: dict[int, int] = {}  # row by worker
    for row, (fragment, own) in enumerate(order):
        turn, before = parts[fragment].turns[own], latest.get(workers[row])
        usual, follows = (True, everything), 0
        if before is not None:
            follows = order[before][0] + 1
            usual = False, ((order[before][0], taken[before]),)
        took = tuple((f, version) for f, version, _ in turn.took)
        other = (turn.begins, took) != usual
        if other or fragment != follows % len(parts):
            found.append(Take(row, turn.begins, took))
        latest[workers[row]] = row
    return tuple(found)
