"""Log and checkpoint to the state that had been acknowledged."""

import time
from collections.abc import Sequence
from typing import Any

from abs_dssp.cluster import effects
from abs_dssp.cluster.core import COMPUTING
from abs_dssp.history.events import Entry


class RecoveryError(ValueError):
    """Log and checkpoint do not fit each other, or this code decides otherwise."""


def recover(server: Any, entries: Sequence[Entry], checkpoint: Any) -> str:
    """Brings a new server to the end of its log.

    The entries after the checkpoint pass through the function that serves live events.
    Only pushes are computed again, and the log is compared instead of written.

    Args:
      server: a `Server` before its start.
      entries: of the log; not empty.
      checkpoint: the newest, or None.

    Returns:
      A sentence for the user.

    Raises:
      RecoveryError: if log, checkpoint and policy do not fit each other.
    """
    begun = time.perf_counter()
    first = 0
    if checkpoint is None:
        server.execute(server.core.start())
    else:
        first = _take_up(server, checkpoint, len(entries))
    for entry in entries[first:]:
        server.execute(_checked(server.core.apply(entry.event), entry))
    took = time.perf_counter() - begun
    core = server.core
    return (
        f"recovered {core.pushes} pushes, version {core.version}: checkpoint of "
        f"record {first}, {len(entries) - first} more from the log ({took:.1f} s)"
    )


def _checked(wanted: list, entry: Entry) -> list:
    """The effects of an event of the log, without those that were done before."""
    appended = wanted[0]
    assert isinstance(appended, effects.Append)
    if appended.entry != entry:
        raise RecoveryError(
            f"entry {entry} of the log was decided otherwise than this policy "
            f"decides, {appended.entry}: its code has changed; use another --out."
        )
    return [e for e in wanted[1:] if not isinstance(e, effects.Say)]


def save(server: Any) -> tuple[int, list[Any], dict[str, Any], dict[int, int]]:
    """What a checkpoint of a server holds now.

    Returns:
      `(number, leaves, note, retained)`: `retained` are buffers of versions to be
      released when the checkpoint is written; the leaves do not change until then.
    """
    core, versions = server.core, server.versions
    parameters = server.arithmetic.copies()
    machine, note = core.snapshot()
    retained = versions.retain()
    numbers = sorted(retained)
    arrays = [server.pool.arrays[retained[number]] for number in numbers]
    note = {
        "records": core.entries,
        "parameters": len(parameters),
        "machine": len(machine),
        "core": note,
        "versions": numbers,
    }
    return core.entries, [*parameters, *machine, *arrays], note, retained


def _take_up(server: Any, checkpoint: Any, length: int) -> int:
    """The state of a checkpoint; the number of entries that it has seen."""
    note = checkpoint.note
    if note["records"] > length:
        raise RecoveryError(
            f"the checkpoint is of record {note['records']}, the log ends at "
            f"{length}: the log was cut; restore it, or use another --out."
        )
    end = note["parameters"] + note["machine"]
    server.arithmetic.restore(checkpoint.leaves[: note["parameters"]])
    server.core.restore(checkpoint.leaves[note["parameters"] : end], note["core"])
    pulled = [
        worker.pulled if worker.state == COMPUTING else None
        for worker in server.core.workers
    ]
    arrays = dict(zip(note["versions"], checkpoint.leaves[end:], strict=True))
    server.versions.restore(arrays, pulled, server.core.version)
    return note["records"]
