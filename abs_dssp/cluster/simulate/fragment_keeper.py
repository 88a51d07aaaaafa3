"""What must hold of a fragment's folder, and what its operator may have to restore."""

import math
import posixpath
from pathlib import Path
from typing import Any

from abs_dssp.cluster import push_store
from abs_dssp.cluster.simulate.checks import Checker, ViolationError
from abs_dssp.cluster.simulate.disk import Disk, Host
from abs_dssp.cluster.simulate.keeper import Keeper
from abs_dssp.cluster.simulate.world import World
from abs_dssp.history.events import Entry

_FAULTS = {
    ".npz": "flip_checkpoint",
    ".vectors": "flip_vectors",
    ".log": "flip_turns",  # the log of pushes is seen to before
}


class FragmentKeeper(Keeper):
    """Of one fragment's folder.

    Attributes:
      folder: its path, with a slash at its end.
      lost: whether a loss of power may have taken what others have seen.
    """

    def __init__(self, world: World, disk: Disk, folder: Path, sync: bool):
        """See `Keeper`."""
        super().__init__(world, disk, folder, sync)
        self.folder = f"{folder}/"
        self.lost = False
        self.checker: FragmentChecker
        self._damaged: list[tuple[str, Any, int, int]] = []  # name, file, at, byte

    def lost_power(self, host: Host) -> None:
        """See `Keeper`."""
        self.lost = self.lost or not self._sync or not host.synced
        super().lost_power(host)

    def mend(self, sentence: str) -> bool:
        """See `Keeper`."""
        flipped = [each for each in self._damaged if self._is_there(*each)]
        names = [posixpath.splitext(name)[1] for name, *_ in flipped]
        spared = names.count(".npz") < 2 and ".vectors" not in names
        if "no newer checkpoint" in sentence and spared and not self.lost:
            text = f"one damaged checkpoint is to be survived, but: {sentence}"
            self.world.fail(ViolationError(text))
        if flipped:
            self.world.note("the operator restores", self.folder, "from a copy")
            for _, file, at, byte in flipped:
                file.content[at] = byte
            self._damaged.clear()
        if self._undo is None and self.path not in sentence:
            return bool(flipped)
        if self.lost and self._undo is None:
            return bool(flipped)  # what is left of it would not fit the others
        return super().mend(sentence) or bool(flipped)

    def begin_anew(self) -> None:
        """The folder is gone."""
        self._undo, self.lied, self.lost = None, False, False
        self._damaged.clear()
        self.checker.begin()

    def vouched(self, worker: int, clock: int, size: int) -> str:
        """What of a push the disk does not have; empty if it has everything.

        Args:
          worker: 0..N-1.
          clock: of the push.
          size: values of its vector.
        """
        files = self._disk.files
        turns = files.get(self.folder + push_store.TURNS)
        line = f" [{worker}, {clock}, ".encode()
        if turns is None or turns.content.rfind(line) < 0:
            return "what led to it"
        record = push_store._HEAD.size + 4 * size
        for name, file in files.items():
            if not name.startswith(self.folder) or not name.endswith(".vectors"):
                continue
            content = bytes(file.content)
            for at in range(len(content) // record * record - record, -1, -record):
                found = push_store._HEAD.unpack_from(content, at)
                data = content[at + push_store._HEAD.size : at + record]
                check = push_store._checksum(worker, clock, data)
                if found == (worker, clock, check):
                    return ""
        return "its vector"

    def _fault(self, name: str) -> str:
        return _FAULTS.get(posixpath.splitext(name)[1], "")

    def _flipped(self, name: str, file: Any, at: int, before: int) -> None:
        self._damaged.append((name, file, at, before))

    def _is_there(self, name: str, file: Any, at: int, before: int) -> bool:
        """Whether damage is still on the disk."""
        there = self._disk.files.get(name)
        if there is None or there is not file or at >= len(there.content):
            return False
        return there.content[at] != before


class FragmentChecker(Checker):
    """Watches one fragment."""

    def __init__(self, num_workers: int, keeper: FragmentKeeper, size: int):
        """Nothing has happened.

        Args:
          num_workers: N.
          keeper: of its folder.
          size: values of a push.
        """
        self._keeper, self._values = keeper, size
        super().__init__(num_workers, keeper.content)
        self._seen: float = 0

    def begin(self) -> None:
        """The log is a new one."""
        self.forget()
        self._seen = 0

    def forget(self) -> None:
        """See `Checker`."""
        super().forget()
        self._seen = math.inf  # entries whose vectors need not be there

    def reopened(self) -> None:
        """See `Checker`."""
        super().reopened()
        self._seen = self.model.entries

    def _followed(self, entry: Entry) -> None:
        event, model = entry.event, self.model
        if event.kind != "push" or model.entries <= self._seen:
            return
        self._seen = model.entries
        worker = event.worker
        missing = self._keeper.vouched(worker, model.pushes[worker], self._values)
        if missing:
            raise ViolationError(
                f"push {model.pushes[worker]} of worker {worker} is in the log, but "
                f"not on the disk is {missing}"
            )
