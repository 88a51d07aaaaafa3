"""Log and checkpoint to the state that had been acknowledged."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from abs_dssp.cluster import core, effects
from abs_dssp.cluster.lines import Warned
from abs_dssp.history.events import Entry
from abs_dssp.training.checkpoints import Checkpoint


class RecoveryError(ValueError):
    """Log and checkpoint do not fit each other, or this code decides otherwise."""


def recover(
    server: Any, entries: Sequence[Entry], store: Any, say: Callable[[str], None]
) -> str:
    """Brings a new server to the end of its log.

    The entries after the checkpoint pass through the function that serves live events.
    Only pushes are computed again, and the log is compared instead of written.

    Args:
      server: a `Server` before its start.
      entries: of the log; not empty.
      store: of checkpoints; None for none.
      say: prints a line for the user.

    Returns:
      A sentence for the user.

    Raises:
      RecoveryError: if log and policy do not fit each other.
    """
    clock = server.system.time.perf_counter
    begun = clock()
    checkpoint = None if store is None else _newest(store, entries, say)
    first = 0
    if checkpoint is None:
        server.execute(server.core.start())
    else:
        first = checkpoint.note["records"]
        _take_up(server, checkpoint)
    for entry in entries[first:]:
        server.execute(_checked(server.core.apply(entry.event), entry))
    took = clock() - begun
    state = server.core
    return (
        f"recovered {state.pushes} pushes, version {state.version}: checkpoint of "
        f"record {first}, {len(entries) - first} more from the log ({took:.1f} s)"
    )


def _newest(
    store: Any, entries: Sequence[Entry], say: Callable[[str], None]
) -> Checkpoint | None:
    """The newest checkpoint of this log's history; those of another are set aside.

    Raises:
      RecoveryError: if they cannot be.
    """
    for found in store.newest_first():
        records, mark = found.note["records"], found.note["core"]["mark"]
        if records <= len(entries) and mark == core.mark_of(entries[:records]):
            break
        line = (
            f"the checkpoint of record {records} is not of this log, which has "
            f"{len(entries)}, but of one whose end is lost; it is set aside"
        )
        say(Warned(line))
        try:
            store.set_aside(found.step)
        except OSError as error:
            raise RecoveryError(
                f"a checkpoint cannot be renamed: {error.strerror}; see that the disk "
                "can be written, and start the same command again."
            ) from error
    else:
        found = None
    for line in store.damaged:
        say(Warned(line))
    return found


def _checked(wanted: list, entry: Entry) -> list:
    """The effects of an event of the log, without those that were done before."""
    appended = wanted[0]
    assert isinstance(appended, effects.Append)
    if appended.entries != (entry,):
        raise RecoveryError(
            f"entry {entry} of the log was decided otherwise than this policy "
            f"decides, {appended.entries[0]}: its code has changed; use another --out."
        )
    return [e for e in wanted[1:] if not isinstance(e, effects.Say)]


def save(server: Any) -> tuple[int, list[Any], dict[str, Any], dict[int, int]]:
    """What a checkpoint of a server holds now.

    Returns:
      `(number, leaves, note, retained)`: `retained` are buffers of versions to be
      released when the checkpoint is written; the leaves do not change until then.
    """
    state, versions = server.core, server.versions
    parameters = server.arithmetic.copies()
    machine, note = state.snapshot()
    retained = versions.retain()
    numbers = sorted(retained)
    arrays = [server.pool.arrays[retained[number]] for number in numbers]
    note = {
        "records": state.entries,
        "parameters": len(parameters),
        "machine": len(machine),
        "core": note,
        "versions": numbers,
        "local": list(versions.local),
    }
    arrays += versions.local.values()
    return state.entries, [*parameters, *machine, *arrays], note, retained


def _take_up(server: Any, checkpoint: Checkpoint) -> None:
    """Has a server go on from the state of a checkpoint."""
    note = checkpoint.note
    end = note["parameters"] + note["machine"]
    server.arithmetic.restore(checkpoint.leaves[: note["parameters"]])
    server.core.restore(checkpoint.leaves[note["parameters"] : end], note["core"])
    pulled = [
        worker.pulled if worker.state == core.COMPUTING else None
        for worker in server.core.workers
    ]
    last = end + len(note["versions"])
    arrays = dict(zip(note["versions"], checkpoint.leaves[end:last], strict=True))
    kept = map(np.asarray, checkpoint.leaves[last:])
    server.versions.local = dict(zip(note.get("local", []), kept, strict=True))
    server.versions.restore(arrays, pulled, server.core.version)
