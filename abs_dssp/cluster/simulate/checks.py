"""What must hold after every event, whatever has failed.

The log is followed by a plain model of the rules' bookkeeping: who computes from which
version. Messages of the server are compared with what the log holds at that moment.
"""

import gc
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from abs_dssp import policies
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.history import rederivation
from abs_dssp.history.events import Entry
from abs_dssp.history.machine import Machine
from abs_dssp.history.traces import Trace
from abs_dssp.replay import Result
from abs_dssp.training import flat, replayer
from abs_dssp.training.config import EngineConfig, ReplayConfig

_DESCRIPTORS = 60 + 64  # of one process; 64 for those whom a server does not know yet
_BUFFERS = 32  # of shared memory, in all living processes
_EVERY = 256  # events between two looks at what must stay bounded


class ViolationError(AssertionError):
    """The cluster has broken a promise."""


class Model:
    """Who may push, from the log's entries alone."""

    def __init__(self, num_workers: int):
        self.version = self.entries = 0
        self.seconds = 0.0
        self.pushes = [0] * num_workers
        self.pulled: list[int | None] = [0] * num_workers  # None: does not compute
        self.members = [True] * num_workers

    def follow(self, entry: Entry) -> None:
        """Takes an entry.

        Raises:
          ViolationError: if it cannot follow the ones before it.
        """
        event, worker = entry.event, entry.event.worker
        self.entries += 1
        where = f"entry {self.entries} of the log, {entry}"
        if event.time < self.seconds:
            raise ViolationError(f"{where}: the entry before it is of {self.seconds}")
        self.seconds = event.time
        if event.kind == "push":
            if not self.members[worker] or self.pulled[worker] is None:
                raise ViolationError(f"{where}: worker {worker} had no grant")
            if (entry.pulled, entry.version) != (self.pulled[worker], self.version):
                raise ViolationError(
                    f"{where}: expected a push from version {self.pulled[worker]} at "
                    f"version {self.version}"
                )
            self.pushes[worker] += 1
            self.pulled[worker] = None
        elif event.kind == "leave":
            if not self.members[worker]:
                raise ViolationError(f"{where}: worker {worker} was no member")
            self.members[worker], self.pulled[worker] = False, None
        elif event.kind == "join" and self.members[worker]:
            raise ViolationError(f"{where}: worker {worker} was a member")
        self.version += entry.commit
        begun = set(entry.release) | set(entry.restart)
        if event.kind in ("join", "refuse"):
            self.members[worker] = True
            begun.add(worker)
        for other in begun:
            self.pulled[other] = self.version


class Checker:
    """Watches one simulated run."""

    def __init__(self, num_workers: int, content: Callable[[], bytearray | None]):
        """Nothing has happened.

        Args:
          num_workers: N.
          content: of the log's file as processes see it; None if there is none.
        """
        self._num_workers, self._content = num_workers, content
        self._size = logs.record_size(num_workers)
        self.forget()

    def forget(self) -> None:
        """The log may have lost its end; what was acknowledged counts no more."""
        self._told = [0] * self._num_workers  # pushes that were acknowledged
        self.begin_again()

    def begin_again(self) -> None:
        """Follows the log from its start: its file may be another one."""
        self.model = Model(self._num_workers)
        self._at: int | None = None  # bytes of the log that the model has seen

    def look(self) -> None:
        """Follows what has been added to the log."""
        content = self._content()
        if content is None:
            return
        if self._at is None:
            end = content.find(b"\n")
            if end < 0 or 0 in content[:end]:
                return  # no header, or a damaged one
            self._at = end + 1
        while self._at + self._size <= len(content):
            record = bytes(content[self._at : self._at + self._size])
            entry = logs.decode(record, self._num_workers)
            if entry is None:
                return  # damaged, or not written to its end
            self.model.follow(entry)
            self._at += self._size
            self._followed(entry)

    def _followed(self, entry: Entry) -> None:
        """The log has this entry, after those before it."""

    def sent(self, message: Message) -> None:
        """The server has sent something."""
        if message.kind not in (Kind.GRANT, Kind.WAIT) or not message.grant_id:
            return
        self.look()
        worker, model = message.worker, self.model
        if message.kind is Kind.GRANT:
            told = message.clock - 1
            if message.version > model.version:
                raise ViolationError(
                    f"version {message.version} was granted, the log ends at version "
                    f"{model.version}"
                )
            if message.version != model.pulled[worker]:
                raise ViolationError(
                    f"worker {worker} was granted version {message.version}, the log "
                    f"says {model.pulled[worker]}"
                )
        else:
            told = model.pushes[worker]
            if model.pulled[worker] is not None:
                raise ViolationError(
                    f"worker {worker} was told to wait; it has a grant"
                )
        if told != model.pushes[worker]:
            raise ViolationError(
                f"worker {worker} was told of {told} pushes, the log has "
                f"{model.pushes[worker]}"
            )
        if told < self._told[worker]:
            raise ViolationError(
                f"worker {worker}: {self._told[worker]} pushes were acknowledged, "
                f"{told} are left"
            )
        self._told[worker] = told

    def reopened(self) -> None:
        """The server has opened the log: what was acknowledged must be there."""
        self.begin_again()
        self.look()
        for worker, told in enumerate(self._told):
            if self.model.pushes[worker] < told:
                raise ViolationError(
                    f"worker {worker}: {told} pushes were acknowledged, the log has "
                    f"{self.model.pushes[worker]}"
                )


class Bounds:
    """What must not grow, looked at now and then."""

    def __init__(self, servers: int = 1) -> None:
        """Nothing is counted.

        Args:
          servers: in one process, at most.
        """
        self._events, self._servers = 0, servers
        self._descriptors = len(os.listdir("/proc/self/fd"))

    def after_event(self, processes: Sequence[Any]) -> None:
        """Looks at every few events.

        Args:
          processes: that live.

        Raises:
          ViolationError: if there are more descriptors than can be needed.
        """
        self._events += 1
        if self._events % _EVERY:
            return
        for process in processes:
            if len(process.open) > self._servers * _DESCRIPTORS:
                raise ViolationError(f"{process.name}: {len(process.open)} descriptors")
        most = self._descriptors + _BUFFERS
        if len(os.listdir("/proc/self/fd")) > most:
            gc.collect()  # the shared memory of processes that are dead
        if len(os.listdir("/proc/self/fd")) > most:
            raise ViolationError("more and more descriptors of shared memory")


def require_replay(result: Result, training: Any) -> None:
    """The final parameters are those of the trace, in every bit.

    Args:
      result: of the run.
      training: a `server.Training`.

    Raises:
      ViolationError: if they are not.
    """
    task, _, functions, seed = training
    engine = EngineConfig(None, 1, "host", functions.wire)
    config = ReplayConfig(functions.config, engine)
    again = replayer.run(task, result.trace, seed, config)
    mine, replayed = (np.asarray(flat.flatten(r.variables)) for r in (result, again))
    if mine.tobytes() != replayed.tobytes():
        raise ViolationError(
            f"parameters differ from the replay's by up to {abs(mine - replayed).max()}"
        )


def require_decisions(trace: Trace, training: Any) -> None:
    """The trace is what the policy decides, and its deadlines are the policy's.

    Args:
      trace: of one history.
      training: a `server.Training`; of a policy that does not read the loss.

    Raises:
      ViolationError: if they are not, or one was missed.
    """
    policy = training.policy
    again = rederivation.rederive(policy, trace)
    difference = rederivation.first_difference(trace, again)
    if difference:
        raise ViolationError(f"the policy decides otherwise: {difference}")
    machine = Machine(policy, trace.num_workers)
    for event in rederivation.events_of(trace):
        if event.kind == "timer" and event.time != machine.wake:
            raise ViolationError(f"a deadline at {event.time}, not {machine.wake}")
        if event.time > machine.wake:
            raise ViolationError(f"{event} came before the deadline {machine.wake}")
        machine.apply(event)


def description(training: Any) -> str:
    """What is trained."""
    return f"{policies.describe(training.policy)}, {training.task.name}"
