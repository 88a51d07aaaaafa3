"""What is shown of a run of fragments while it goes on, by what process 0 has.

It serves some of the fragments, of which the first stands for all of them, and its
first worker was given every fragment: of these versions the model is measured.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from abs_dssp.cluster.duties import Record
from abs_dssp.cluster.fragment_worker import FragmentWorker
from abs_dssp.cluster.status import Status
from abs_dssp.cluster.system import REAL, System
from abs_dssp.training import evaluation
from abs_dssp.training.fragmented import Division

_LOOK = 1.0  # seconds between two looks


class View:
    """Watches a run from a thread, if anybody wants to see it.

    Attributes:
      records: the evaluations so far. Their `push` and `epoch` count as if every
        fragment had been pushed as often as the first.
    """

    def __init__(
        self,
        server: Any,
        fragment: int,
        worker: FragmentWorker | None,
        parts: Division,
        job: Any,
        watch: Callable[[Status], None] | None,
        recorder: Callable[[Record], None] | None,
        say: Callable[[str], None],
        system: System = REAL,
    ):
        """Nothing has been seen.

        Args:
          server: of a fragment that this process serves.
          fragment: which one it is.
          worker: of this process, if it has one.
          parts: the fragments.
          job: a `run.Job`, of the whole model.
          watch: called with the state every second.
          recorder: called with every evaluation.
          say: prints a line.
          system: has threads.
        """
        self._server, self._worker, self._parts = server, worker, parts
        self._name = f"fragment {fragment} of {len(parts.servers)}"
        self._task, self._functions = job.training.task, job.training.functions
        self._every = job.settings.evaluate
        self._watch, self._recorder = watch, recorder
        self._say, self._system = say, system
        self._evaluated = 0.0  # seconds of the run
        self.records: list[Record] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Watches until the end of the block."""
        if self._watch is None and self._recorder is None:
            yield
            return
        threading = self._system.threading
        ended = threading.Event()

        def look() -> None:
            try:
                while not ended.wait(_LOOK):
                    self.look()
            except Exception as error:  # a full disk, say: the run goes on without
                self._say(f"this run is neither shown nor measured any more: {error}")

        thread = threading.Thread(target=look, name="view")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self) -> None:
        """Evaluates if it is time to, and shows the state."""
        status: Status = self._server.status()
        seen = None if self._worker is None else self._worker.seen
        if seen is not None and status.seconds - self._evaluated >= self._every:
            self._evaluated = status.seconds
            self._evaluate(*seen, status)
        if self._watch is not None:
            self._watch(self._named(status))

    def _evaluate(self, bases: Sequence[Any], version: int, status: Status) -> None:
        vector = self._parts.join(bases)
        measures = self._functions.evaluate(self._task.data, vector)
        record: Record = {
            "push": status.pushes * len(bases),
            "version": version,
            "seconds": status.seconds,
            "epoch": status.epoch,
            **{name: float(value) for name, value in measures.items()},
        }
        self.records.append(record)
        if self._recorder is not None:
            self._recorder(record)

    def _named(self, status: Status) -> Status:
        last = self.records[-1] if self.records else {}
        name = f"{status.policy}, {self._name}"
        measures = {k: v for k, v in last.items() if k not in evaluation.BASIC}
        return dataclasses.replace(status, policy=name, measures=measures)
