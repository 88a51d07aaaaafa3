"""The server's core: events in, effects out, without clock, socket, thread or disk.

Everything that a run decides passes through `Core.apply`. A live server gives it the
events that arrive; recovery gives it those of the log.
"""

import dataclasses
import itertools
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from abs_dssp import policies
from abs_dssp.cluster import effects
from abs_dssp.cluster.effects import Effect
from abs_dssp.history.events import Entry, Event
from abs_dssp.history.loss_estimate import LossEstimate
from abs_dssp.history.machine import TOGETHER, HostTransition, Machine
from abs_dssp.policies import Policy

STATES = ("computing", "waiting", "absent", "left", "expelled")
COMPUTING, WAITING, ABSENT, LEFT, EXPELLED = STATES
_MARK = struct.Struct("<idf")
_STATES = {"absent": ABSENT, "expelled": EXPELLED}  # after a leave, by its reason

LEAVING = {
    "died": "is gone: its connection ended",
    "finished": "has finished",
    "silent": "is left out: no sign of life",
    "stuck": "is left out: alive, but without progress",
    "expelled": "is expelled: its pushes were not finite",
    "replaced": "is replaced by another process",
}


@dataclasses.dataclass(frozen=True)
class RunLimits:
    """When a run is over; None never ends it."""

    pushes: int | None = None
    seconds: float | None = None  # since the start
    accuracy: float | None = None  # of an evaluation


@dataclasses.dataclass
class Worker:
    """What a run knows of one worker, whoever is connected."""

    state: str = ABSENT
    since: float = 0.0  # seconds of the run; when it came into this state
    grant: int = 0  # id of the latest grant; 0 before the first
    mark: int = 0  # of the history at that grant
    pulled: int = 0  # the granted version
    epoch: float = 0.0  # of the granted version
    pushes: int = 0
    staleness: int = 0  # of its latest push
    staleness_sum: int = 0
    waited: float = 0.0  # seconds between pushes and releases
    restarts: int = 0  # computations cancelled or refused
    refused: int = 0  # pushes that were not finite
    refused_in_row: int = 0

    @property
    def active(self) -> bool:
        """Whether it is a living member."""
        return self.state in (COMPUTING, WAITING)


class Core:
    """The state of a run except parameters and connections. Not thread-safe."""

    def __init__(
        self,
        policy: Policy,
        num_workers: int,
        limits: RunLimits,
        epochs_per_push: float,
        first_loss: float = math.nan,
        keeps_local_state: bool = False,
    ):
        """A run before its start.

        Args:
          policy: the rule.
          num_workers: N.
          limits: when it is over.
          epochs_per_push: samples of one push over samples per epoch.
          first_loss: the objective at version 0, for a policy that reads the loss.
          keeps_local_state: whether discarded pushes matter too: they carry on the
            state of the worker's local optimiser.
        """
        self._every_push = keeps_local_state
        self.num_workers, self.limits = num_workers, limits
        self.workers = [Worker() for _ in range(num_workers)]
        self.started = False
        self.ended = ""  # why: "end", "target" or a sentence
        self.entries = 0  # of the history
        # A checksum of the history. A run that has lost the end of its log goes on with
        # the same numbers of grants and versions; marks tell its histories apart.
        self.mark = 0
        self.pushes = 0
        self.version = 0
        self.epoch = 0.0  # samples processed when the present version was made
        self.estimate = LossEstimate(num_workers, first_loss)
        self.epochs_per_push = epochs_per_push
        self._machine = Machine(policy, num_workers)
        self.wake = self._machine.wake  # seconds of the run; the policy's deadline
        self._pending = 0  # pushes that wait for a commit
        self.together = False  # whether several pushes may be decided at once
        self._advances = False  # and made into versions at once
        self._reads_loss = policies.reads_loss(policy, num_workers)
        # Each push may change what is decided before the next one: the estimate of the
        # loss, or the deadline.
        self._one_by_one = self._reads_loss or policy.on_time is not None

    @property
    def epochs(self) -> float:
        """Samples processed so far, in epochs."""
        return self.pushes * self.epochs_per_push

    def clock_of(self, worker: int) -> int:
        """A worker's clock as the policy sees it: at a join, that of the slowest."""
        return int(self._machine.clocks.clock[worker])

    def _loss(self) -> float:
        # NaN if the policy does not read it: pushes decided at once share the value.
        return self.estimate.value if self._reads_loss else math.nan

    def start(self) -> list[Effect]:
        """Everybody computes from version 0; who is absent leaves afterwards."""
        self.started = True
        wanted: list[Effect] = []
        for index in range(self.num_workers):
            wanted += self._begin(index, 1, 0.0)
        return wanted

    def apply(self, event: Event, vector: Any = None) -> list[Effect]:
        """Takes an event into the run.

        Args:
          event: what happened; `time` in seconds of the run. A "timer" is at `wake`,
            and before every event of a later time: callers see to both.
          vector: of a push; None if it is to be computed again.

        Returns:
          What is to be done, in this order.
        """
        done = self._machine.apply(event, self._loss())
        return [
            effects.Append((done.entry(event),)),
            *self._follow(event, done, vector),
        ]

    def decide_together(self, advances: bool) -> None:
        """Allows `apply_pushes`, and compiles it.

        Args:
          advances: whether the shell can do an `Advance`.
        """
        self.together, self._advances = True, advances
        if not self._one_by_one:
            self._machine.prepare_pushes()

    def apply_pushes(
        self, events: Sequence[Event], vectors: Sequence[Any]
    ) -> tuple[list[Effect], int]:
        """Takes pushes of different workers into the run, as `apply` would one by one.

        Args:
          events: the pushes in their order, as many as `pushes_together` said.
          vectors: of each.

        Returns:
          What is to be done, and how many were taken: those before the first whose
          computation was cancelled by one before it.
        """
        grants = [self.workers[event.worker].grant for event in events]
        made = self._machine.pushes(events, grants, self._loss())
        events, vectors = events[: len(made)], vectors[: len(made)]
        single = self._pending == 0 and all(d.commit and d.weight > 0 for d in made)
        advances = self._advances and single
        entries = tuple(map(HostTransition.entry, made, events))
        wanted: list[Effect] = [effects.Append(entries)]
        steps = list(map(self._follow, events, made, vectors))
        if advances:
            commits: Any = tuple((step[0], step[1]) for step in steps)
            wanted.append(effects.Advance(commits))
            steps = [step[2:] for step in steps]
        later = list(itertools.chain.from_iterable(steps))
        last = {e.worker: i for i, e in enumerate(later) if type(e) is effects.Tell}
        for place, effect in enumerate(later):
            # Everybody once, with what is true after the last of these pushes.
            if type(effect) is not effects.Tell or last[effect.worker] == place:
                wanted.append(effect)
        return wanted, len(made)

    def pushes_together(self, events: Sequence[Event]) -> int:
        """How many of these pushes, from the first, `apply_pushes` can take."""
        limits, most = self.limits, len(events)
        if self._one_by_one:
            return 1
        if limits.pushes is not None:
            most = min(most, limits.pushes - self.pushes)
        if limits.seconds is not None:  # one beyond them is the last of a run
            most = min(most, 1 + sum(e.time < limits.seconds for e in events))
        return min(most, TOGETHER)

    def _follow(self, event: Event, done: HostTransition, vector: Any) -> list[Effect]:
        """What follows from an event besides its entry in the log."""
        wanted: list[Effect] = []
        self.entries += 1
        self.mark = _stamped(self.mark, event)
        self.wake = done.wake
        worker = self.workers[event.worker]  # at a timer not used
        if event.kind == "push":
            self._count(worker, event, done)
            self._pending += done.weight > 0
            if done.weight > 0 or self._every_push:
                decided = (done.weight, done.commit)
                pulled = (worker.pulled, worker.epoch)
                wanted.append(
                    effects.Accumulate(
                        event.worker, vector, *decided, worker.pushes, *pulled
                    )
                )
        elif event.kind == "leave":
            worker.state = _STATES.get(event.reason, LEFT)
            worker.since = event.time
            worker.refused += event.reason == "expelled"  # its last push
            if event.reason != "absent":
                wanted.append(_told(event, LEAVING[event.reason]))
        elif event.kind == "refuse":
            worker.refused += 1
            worker.refused_in_row += 1
        if done.commit:
            self._pending = 0
            wanted.append(effects.Commit(self.version, self.epoch))
            self.version += 1
            self.epoch = float(np.float32(self.epochs))
        if event.kind == "leave":
            wanted.append(effects.Drop(event.worker, left=True))
        elif event.kind == "push" and event.worker not in done.grants:
            wanted.append(effects.Drop(event.worker))
        for index, grant in done.grants.items():
            wanted += self._begin(index, grant, event.time)
        if event.kind == "push" and worker.state == WAITING:
            wanted.append(effects.Tell(event.worker))
        self._check_limits(event)
        return wanted

    def evaluated(self, accuracy: float) -> None:
        """The result of an evaluation; NaN if it has no accuracy."""
        target = self.limits.accuracy
        if target is not None and accuracy >= target:
            self.end("target")

    def end(self, why: str) -> None:
        """Ends the run; the first reason counts."""
        self.ended = self.ended or why

    def _count(self, worker: Worker, event: Event, done: HostTransition) -> None:
        self.pushes += 1
        self.estimate.add(event.loss)
        worker.pushes += 1
        worker.refused_in_row = 0
        worker.staleness = done.version - done.pulled
        worker.staleness_sum += worker.staleness
        worker.state, worker.since = WAITING, event.time

    def _begin(self, index: int, grant: int, now: float) -> list[Effect]:
        """A worker begins to compute from the present version."""
        worker = self.workers[index]
        if worker.state == WAITING:
            worker.waited += now - worker.since
        elif worker.state == COMPUTING:
            worker.restarts += 1
        worker.state, worker.since, worker.grant = COMPUTING, now, grant
        worker.mark = self.mark
        worker.pulled, worker.epoch = self.version, self.epoch
        return [effects.Hold(index, self.version), effects.Tell(index)]

    def _check_limits(self, event: Event) -> None:
        limits = self.limits
        if event.kind != "push":
            return
        if self.pushes == limits.pushes:
            self.end("end")
        elif limits.seconds is not None and event.time >= limits.seconds:
            self.end("end")

    def snapshot(self) -> tuple[list[np.ndarray], dict[str, Any]]:
        """The whole state, for a checkpoint: arrays, and values for JSON."""
        note = {
            "workers": [dataclasses.asdict(worker) for worker in self.workers],
            "entries": self.entries,
            "mark": self.mark,
            "pushes": self.pushes,
            "version": self.version,
            "epoch": self.epoch,
            "estimate": self.estimate.snapshot(),
        }
        return self._machine.leaves(), note

    def restore(self, leaves: Sequence[np.ndarray], note: Mapping[str, Any]) -> None:
        """Goes on from what `snapshot` returned."""
        self._machine.restore(leaves)
        self._pending = int(self._machine.clocks.pending)
        self.wake = self._machine.wake
        self.workers = [Worker(**fields) for fields in note["workers"]]
        self.entries, self.mark = note["entries"], note["mark"]
        self.pushes = note["pushes"]
        self.version, self.epoch = note["version"], note["epoch"]
        self.estimate.restore(note["estimate"])
        self.started = True
        if self.pushes == self.limits.pushes:
            self.end("end")


def mark_of(entries: Iterable[Entry], mark: int = 0) -> int:
    """The mark of a history, as `Core.mark` after its entries.

    Args:
      entries: all, or those after `mark`.
      mark: of the history before them.
    """
    for entry in entries:
        mark = _stamped(mark, entry.event)
    return mark


def _stamped(mark: int, event: Event) -> int:
    stamp = _MARK.pack(event.worker, event.time, event.loss)
    return zlib.crc32(stamp, mark)


def _told(event: Event, what: str) -> Effect:
    line = f"{event.time:.1f} s: worker {event.worker} {what}"
    return effects.Say(line) if event.reason == "finished" else effects.warning(line)
