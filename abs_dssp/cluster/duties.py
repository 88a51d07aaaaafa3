"""What is done beside serving: evaluations and checkpoints, each in its own thread."""

import math
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster import recovery
from abs_dssp.cluster.arithmetic import Arithmetic
from abs_dssp.cluster.background import Background
from abs_dssp.cluster.core import Core
from abs_dssp.cluster.lines import Warned
from abs_dssp.cluster.system import System

Record = dict[str, float]
Tell = Callable[[Callable[[], None]], None]


class Evaluations:
    """Measures versions now and then. Belongs to the serving thread."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        core: Core,
        every: float,
        recorder: Callable[[Record], None] | None,
        system: System,
    ):
        """Nothing has been measured.

        Args:
          arithmetic: has the parameters.
          core: of the run.
          every: seconds between two evaluations.
          recorder: called with every record.
          system: has the threads.
        """
        self.records: list[Record] = []
        self.seconds = 0.0  # spent on them, by one thread at a time
        self._now = system.time.perf_counter
        self._arithmetic, self._core = arithmetic, core
        self._every, self._recorder, self._system = every, recorder, system
        self._latest = -math.inf  # seconds of the run, of the latest request

    def start(self, tell: Tell, failed: Callable[[BaseException], None]) -> None:
        """Starts the thread; see `Background`."""
        self._thread = Background(
            "evaluate", self._measure, self._take, tell, failed, self._system
        )

    def stop(self, say: Callable[[str], None]) -> None:
        """Ends the thread; see `Background`."""
        self._thread.stop(say)

    def ask_if_due(self, seconds: float) -> None:
        """Has the present version measured, at the first call and every so often."""
        if seconds - self._latest > self._every and not self._thread.busy:
            self._latest = seconds
            core = self._core
            copy = self._arithmetic.copy()
            self._thread.ask(copy, core.version, core.pushes, seconds)

    def last(self, seconds: float) -> None:
        """Measures the last version here, unless that was done."""
        core = self._core
        if not self.records or self.records[-1]["push"] != core.pushes:
            vector = self._arithmetic.vector
            self._take(self._measure(vector, core.version, core.pushes, seconds))

    def _measure(self, vector, version: int, pushes: int, seconds: float) -> Record:
        begun = self._now()
        basic = {
            "push": pushes,
            "version": version,
            "seconds": seconds,
            "epoch": pushes * self._core.epochs_per_push,
        }
        record = basic | self._arithmetic.evaluate(vector)
        self.seconds += self._now() - begun
        return record

    def _take(self, record: Record) -> None:
        self.records.append(record)
        if self._recorder is not None:
            self._recorder(record)
        self._core.evaluated(record.get("accuracy", math.nan))


class Checkpoints:
    """Saves the run now and then. Belongs to the serving thread."""

    def __init__(self, server: Any, store: Any, every: float, say):
        """Nothing has been saved.

        Args:
          server: a `Server`.
          store: of checkpoints; None saves nothing.
          every: seconds between two.
          say: prints a line for the user.
        """
        self._server, self._store, self._every, self._say = server, store, every, say
        self.seconds = 0.0  # spent on them, by one thread at a time
        self._now = server.system.time.perf_counter
        self._latest = self._now()

    def start(self, tell: Tell, failed: Callable[[BaseException], None]) -> None:
        """Starts the thread; see `Background`."""
        system = self._server.system
        self._thread = Background(
            "save", self._write, self._written, tell, failed, system
        )

    def stop(self) -> None:
        """Ends the thread; see `Background`."""
        self._thread.stop(self._say)

    def ask_if_due(self, now: float) -> None:
        """Has the present state saved every so often."""
        due = now - self._latest > self._every and not self._thread.busy
        if due and self._store is not None:
            self._latest = now
            saved = recovery.save(self._server)
            self._server.saving(saved[0])
            self._thread.ask(*saved)

    def last(self) -> None:
        """Saves the state at the end, and waits for the disk."""
        state = self._server.core
        if self._store is None or not state.started:  # nobody would hold a version
            return
        if self._store.latest_step() != state.entries:
            number, leaves, note, _ = recovery.save(self._server)
            self._server.saving(number)
            self._save(number, leaves, note)
            self._server.saved()

    def _save(self, number: int, leaves, note) -> None:
        begun = self._now()
        try:
            self._store.save(number, leaves, note)
        finally:
            self.seconds += self._now() - begun

    def _write(self, number: int, leaves, note, retained):
        """Writes a checkpoint; in the thread."""
        try:
            self._save(number, leaves, note)
        except Exception as error:  # the log has everything
            return retained, error
        return retained, None

    def _written(self, result: tuple[dict[int, int], Exception | None]) -> None:
        retained, error = result
        self._server.versions.release(retained)
        if error is None:
            self._server.saved()
        else:
            why = first_line(error)
            self._say(Warned(f"no checkpoint: {why}; the run goes on"))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
