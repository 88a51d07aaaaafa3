"""Saving and resuming a long run, with Orbax.

A checkpoint holds the leaves of a state and a JSON note. Orbax makes it visible by one
rename, so that a run that dies while saving finds the one before it.
"""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A state at one moment."""

    leaves: list[Any]  # arrays, NumPy's where they come from a store
    note: dict[str, Any]  # whatever JSON can hold


class Store:
    """A folder of checkpoints of one run; owns Orbax's saving thread until `close`.

    `run` identifies the run (see `identity`); with None, those of any run are read.
    """

    def __init__(self, folder: Path, run: str | None):
        import orbax.checkpoint as ocp

        self._ocp, self._run, self._folder = ocp, run, folder
        folder.mkdir(parents=True, exist_ok=True)
        me = jax.process_index()
        # In a cluster one process saves and waits for no other.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"store{me}"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=False, multiprocessing_options=alone
        )
        self._manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_names=("state", "note")
        )

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint; None if there is none.

        Raises:
          ValueError: if it belongs to another run.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        wanted = args.Composite(note=args.JsonRestore())
        note = self._manager.restore(step, args=wanted)["note"]
        if self._run is not None and note["run"] != self._run:
            raise ValueError(
                f"{self._folder} holds a checkpoint of another run; "
                "choose another folder or remove it."
            )
        like = {
            name: jax.ShapeDtypeStruct(tuple(shape), dtype)
            for name, shape, dtype in note["leaves"]
        }
        wanted = args.Composite(state=args.StandardRestore(like))
        state = self._manager.restore(step, args=wanted)["state"]
        leaves = [np.asarray(state[name]) for name, *_ in note["leaves"]]
        return Checkpoint(leaves, note["note"])

    def latest_step(self) -> int | None:
        """The number under which the newest checkpoint was saved, if there is one."""
        return self._manager.latest_step()

    def save(self, step: int, leaves: Sequence[Any], note: dict[str, Any]) -> None:
        """Saves in the background; everything is copied before this returns."""
        args = self._ocp.args
        note = copy.deepcopy(note)
        # Copies: the caller donates these buffers to its next computation.
        state = {f"leaf{i:05d}": np.array(leaf) for i, leaf in enumerate(leaves)}
        shapes = [[k, list(v.shape), str(v.dtype)] for k, v in state.items()]
        about = args.JsonSave({"run": self._run, "leaves": shapes, "note": note})
        saved = args.Composite(state=args.StandardSave(state), note=about)
        self._manager.save(step, args=saved)

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()
