"""Damage to a log and to the files beside it, and what an operator does about it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from abs_dssp.cluster import log as logs
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.simulate.checks import Checker, ViolationError
from abs_dssp.cluster.simulate.disk import Disk, Host
from abs_dssp.cluster.simulate.world import World


class Keeper:
    """Of one log.

    Attributes:
      lied: whether a disk may have lost what was to be safe.
    """

    def __init__(self, world: World, disk: Disk, folder: Path, sync: bool):
        """The log is whole.

        Args:
          world: decides.
          disk: of the log.
          folder: with the log.
          sync: whether every record is on the disk before anybody is told of it.
        """
        self.world, self._disk, self._sync = world, disk, sync
        self.path = str(folder / logs.NAME)
        self.lied = False
        self.checker: Checker  # of this log
        self._undo: Callable[[], None] | None = None  # of a flipped bit in the log
        self._flipped_at = self._flipped_to = 0

    def content(self) -> bytearray | None:
        """Of the log as processes see it; None if there is none."""
        file = self._disk.files.get(self.path)
        return None if file is None else file.content

    def flip(self, name: str, file: Any) -> None:
        """Damages a file that is opened, if the dice say so."""
        if not file.content:
            return
        is_log = name == self.path
        if is_log and self._undo is not None:
            return  # damaged already
        if is_log:
            self.checker.reopened()
        fault = "flip_log" if is_log else self._fault(name)
        if not fault or not self.world.dice.falls(fault):
            return
        at, bit = (
            self.world.random.randrange(len(file.content)),
            1 << self.world.random.randrange(8),
        )
        self.world.note(f"a bit of {name} is flipped at {at}")
        file.content[at] ^= bit

        def undo() -> None:
            if at < len(file.content):  # else it was in what a crash had cut short
                file.content[at] ^= bit

        if is_log:
            self._undo = undo
            self._flipped_at, self._flipped_to = at, file.content[at]
        else:
            self._flipped(name, file, at, file.content[at] ^ bit)

    def _fault(self, name: str) -> str:
        """The fault of a file beside the log; empty if there is none."""
        return "flip_checkpoint" if name.endswith(".npz") else ""

    def _flipped(self, name: str, file: Any, at: int, before: int) -> None:
        """A file beside the log is damaged, at a byte that was another one."""

    def require_noticed(self) -> None:
        """The server has recovered: it must have seen what is wrong with the log."""
        content = self.content()
        if self._undo is not None and content is not None:
            if self._flipped_at < len(content):
                raise ViolationError("a flipped bit of the log was not noticed")
            self._undo = None  # it was in what a crash had cut short

    def lost_power(self, host: Host) -> None:
        """A host has, which writes the log."""
        content = self.content() or b""
        if content[self._flipped_at : self._flipped_at + 1] != bytes(
            [self._flipped_to]
        ):
            self._undo = None  # the disk has what there was before
        self.lied = self.lied or not host.synced
        if not self._sync or not host.synced:
            self.checker.forget()
            host.synced = True
        self.checker.begin_again()

    def mend(self, sentence: str) -> bool:
        """The operator does what a sentence says; whether there was anything to do."""
        if self._undo is not None:
            self.world.note("the operator restores the log from a copy")
            self._undo()
            self._undo = None
            return True
        if "damaged" not in sentence and "not a log" not in sentence:
            return False
        content = self.content()
        assert content is not None
        try:
            _, _, end = logs.undamaged(bytes(content), Path(self.path))
        except LogError:
            self.world.note("the operator removes the log")
            del self._disk.files[self.path]
            self.checker.forget()
            return True
        self.world.note("the operator cuts the log, and has it written")
        del content[end:]
        self._disk.files[self.path].durable = bytes(content)
        if self._sync and not self.lied:  # it was in a write of which nobody was told
            self.checker.begin_again()
        else:
            self.checker.forget()
        return True
