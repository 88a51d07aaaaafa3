"""From the logs of all fragments of a run to one trace, and to one set of parameters.

Each server has decided on its own fragment, in an order of its own. Whatever order is
chosen of all pushes, if it keeps those of every fragment and of every worker, and puts
no push before the versions that it was computed from, the parameters are the same; here
it is that of the servers' times, as far as these conditions allow.
"""

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


class Part(NamedTuple):
    """What is known of one fragment."""

    trace: Trace
    losses: list[float]
    turns: list[Turn]  # of every push
    taken: list[int]  # of every push: the version at its release; -1 if there was none


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
) -> tuple[FragmentedTrace, Float32[np.ndarray, " P"]]:
    """The trace of a run, and the training losses of its pushes.

    Args:
      out: folder of the run.
      parts: names of each fragment's arrays.
      sizes: values of each fragment.
      settings: the trace's other fields: `num_workers`, `policy`, and so on.
      records: of each log, how many count; all by default.

    Raises:
      LogError: if a log is damaged or missing, or they do not fit each other.
    """
    numbers = range(len(parts))
    cuts = [None] * len(parts) if records is None else list(records)
    found = [_part(folder_of(out, f), settings, cuts[f]) for f in numbers]
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


def parameters(out: Path, count: int) -> tuple[list[np.ndarray], list[int]]:
    """Every fragment at its newest checkpoint, and the records of its log until there.

    Raises:
      LogError: if a fragment has no checkpoint of its log.
    """
    vectors, records = [], []
    for fragment in range(count):
        folder = folder_of(out, fragment)
        _, entries, _ = logs.read(folder / logs.NAME)
        for saved in checkpoints.Store(folder / "checkpoints", None).newest_first():
            number, mark = saved.note["records"], saved.note["core"]["mark"]
            if number <= len(entries) and mark == core.mark_of(entries[:number]):
                vectors.append(np.asarray(saved.leaves[0]))
                records.append(number)
                break
        else:
            raise LogError(
                f"{folder} holds no checkpoint of its log; start the run's command "
                "again, which makes one."
            )
    return vectors, records


def _part(folder: Path, settings: Mapping[str, Any], records: int | None) -> Part:
    _, entries, _ = logs.read(folder / logs.NAME)
    entries = entries[:records]
    path = folder / push_store.TURNS
    try:
        turns, _ = push_store.parse(path.read_bytes(), path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}.") from error
    trace = logs.to_trace(entries, dict(settings)).validate()
    keys = list(zip(trace.worker.tolist(), trace.clock.tolist(), strict=True))
    missing = [key for key in keys if key not in turns]
    if missing:
        raise LogError(
            f"{path} lacks push {missing[0][1]} of worker {missing[0][0]}, which the "
            "log beside it has; restore the folder from a copy."
        )
    losses = [e.event.loss for e in entries if e.event.kind == "push"]
    return Part(trace, losses, [turns[key] for key in keys], _released(entries))


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
        return follows and all(version(f) >= v for f, v in turn.took)

    numbers = range(len(parts))
    while any(at[f] < len(parts[f].turns) for f in numbers):
        able = [f for f in numbers if ready(f)]
        if not able:
            raise LogError(
                f"{out}: the logs of the fragments do not fit each other after "
                f"{len(order)} pushes: one of them has lost its end, as after a loss "
                "of power without --times=sync_log=1; restore it from a copy."
            )
        chosen = min(able, key=lambda f: parts[f].trace.time[at[f]])
        order.append((chosen, at[chosen]))
        pushed[parts[chosen].trace.worker[at[chosen]]] += 1
        at[chosen] += 1
    return order


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
        usual = Turn(1, True, everything)
        if before is not None:
            release = ((order[before][0], taken[before]),)
            usual = Turn(turn.number, False, release)
        if (turn.begins, turn.took) != (usual.begins, usual.took):
            found.append(Take(row, turn.begins, turn.took))
        latest[workers[row]] = row
    return tuple(found)
