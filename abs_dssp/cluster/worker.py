"""A worker: pull, compute U local steps, push, wait for the grant. One thread a device.

A worker remembers nothing that the server does not: batches and keys are functions of
(seed, worker, clock, local step), so a computation can be made again anywhere.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from abs_dssp.cluster import memory
from abs_dssp.cluster.messages import Kind, Message, MessageError, push_for
from abs_dssp.cluster.patience import Patience
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.transport import Channel, ClosedError, Sizes
from abs_dssp.cluster.worker_errors import OverError, WorkerError
from abs_dssp.tasks.base import Task
from abs_dssp.training import flat

Connect = Callable[[], Channel]  # raises OSError or ClosedError


@dataclasses.dataclass
class StragglerInjection:
    """Injected straggling."""

    slowdown: float = 1.0  # computations take so many times as long
    durations: np.ndarray | None = None  # seconds of the n-th computation, cycled

    def missing(self, number: int, took: float) -> float:
        """Seconds to add to computation `number` (from 0), which took `took`."""
        wanted = took
        if self.durations is not None:
            wanted = float(self.durations[number % len(self.durations)])
        return max(0.0, wanted * self.slowdown - took)


class WorkerPlan(NamedTuple):
    """What the workers of a process compute."""

    task: Task
    functions: flat.Functions  # compiled for the task
    seed: int
    agreed: Mapping[str, Any]  # what all processes must agree on, by name
    settings: Settings


class Heartbeats:
    """Signs of life of a process, on a connection of their own."""

    reconnects = False  # where the server does not know whose they are

    def __init__(
        self, connect: Connect, settings: Settings, nonce: str, system: System = REAL
    ):
        """Nothing is sent yet.

        Args:
          connect: opens a connection to the server.
          settings: times.
          nonce: tells this process from others.
          system: has clock and threads.
        """
        self._connect, self._settings, self._nonce = connect, settings, nonce
        self._now = system.time.perf_counter
        self.workers: list[Any] = []  # what says how a worker stands
        self.answered = self._now()  # when the server last answered
        self.generation = 0  # times that the server asked who we are
        self._ended = system.threading.Event()
        self._thread = system.threading.Thread(
            target=self._run, name="beats", daemon=True
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        channel: Channel | None = None
        connected = 0.0
        while not self._ended.is_set():
            try:
                if channel is None:
                    channel = self._connect()
                    connected = self._now()
                lives = [
                    [w.index, w.grant_id, w.steps, w.waiting]
                    for w in self.workers
                    if w.introduced
                ]
                if lives:
                    channel.send(Message(Kind.HEARTBEAT, text=[self._nonce, lives]))
                end = self._now() + self._settings.beat
                while self._now() < end and not self._ended.is_set():
                    answer = channel.receive(min(0.2, self._settings.beat))
                    if answer is None:
                        continue
                    self.answered = self._now()
                    if answer.kind is Kind.HELLO:
                        self.generation += 1
                        if self.reconnects:
                            raise ClosedError("the server asks who this is")
                        break
                silent = self._now() - max(self.answered, connected)
                if lives and silent > self._settings.lease / 2:
                    raise ClosedError("no answer")  # the server may be elsewhere now
            except (WorkerError, OverError):  # the workers tell
                return
            except (OSError, MessageError):  # ClosedError is an OSError
                if channel is not None:
                    channel.close()
                channel = None
                self._ended.wait(self._settings.beat)
        if channel is not None:
            channel.close()


class Worker:
    """The work of one device, or several; `run` in a thread of its own."""

    def __init__(
        self,
        index: int,
        devices: Sequence[Any],
        plan: WorkerPlan,
        connect: Connect,
        identity: dict[str, Any],
        heartbeats: Heartbeats,
        injection: StragglerInjection,
        system: System = REAL,
    ):
        """Prepares a worker; `run` works.

        Args:
          index: 0..N-1.
          devices: that compute.
          plan: what is computed.
          connect: opens a connection to the server.
          identity: what the worker says of itself at the beginning.
          heartbeats: of this process.
          injection: straggling.
          system: has the clock.
        """
        task, seed = plan.task, plan.seed
        self.index, self.settings, self._injection = index, plan.settings, injection
        self._system, self._now = system, system.time.perf_counter
        self._connect, self._identity, self._heartbeats = connect, identity, heartbeats
        self._functions, self._devices = plan.functions, devices
        self._views = memory.Views(devices)
        self._data = self._functions.placed(task.data, devices)
        self._key = self._functions.placed(jax.random.key(seed), devices)
        self._random = random.Random(f"{seed} {index}")  # of injected faults only
        self.grant_id = 0  # of the latest grant
        self.steps = 0  # finished steps: progress
        self.waiting = False
        self.introduced = False
        self.reason = ""  # why the run is over
        self.resumes = False  # whether it may go on later
        self.leaving = False  # set from outside: end soon
        self._generation = 0
        self._result: tuple[tuple[int, int], Any, float, float] | None = None
        self._newer: Message | None = None  # came during a computation

    def run(self) -> None:
        """Works until the server says that the run is over.

        Raises:
          WorkerError: if it refuses this worker, or cannot be found for too long.
        """
        missing = f"worker {self.index}: no server"
        patience = Patience(
            missing, "process 0", self.settings, self._random, self._system
        )
        while True:
            channel: Channel | None = None
            try:
                channel = self._connect()
                self._generation = self._heartbeats.generation
                self._introduce(channel)
                self._work(channel)
                return
            except OverError as over:
                self.reason = str(over)
                return
            except (OSError, MessageError) as error:
                if self.introduced:  # the server was there until now
                    patience.found()
                patience.fail(error)
            finally:
                if channel is not None:
                    channel.close()
                self.introduced = False

    def _introduce(self, channel: Channel) -> None:
        hello = Message(Kind.HELLO, self.index, text=self._identity)
        self._send(channel, hello)
        end = self._now() + self.settings.lease  # then it may be elsewhere
        answer = None
        while self._now() < end:
            answer = self._receive(channel, self.settings.resend)
            if answer is None:
                self._send(channel, hello)
            elif answer.kind is Kind.WELCOME:
                break
            elif answer.kind is Kind.REFUSED:
                raise WorkerError(f"worker {self.index}: {answer.text}")
            elif answer.kind is Kind.STOP:
                break
        else:
            raise ClosedError(channel.silence)
        assert answer is not None
        if answer.kind is Kind.STOP:
            self._newer = answer
            return
        sizes = Sizes.of_functions(self._functions)
        channel.expect(sizes)
        if self.steps == 0:
            self._compile(sizes)
        self.grant_id = 0  # the server may have lost what it knew
        self.introduced = True
        self.waiting = True

    def _compile(self, sizes: Sizes) -> None:
        """Compiles everything before the clock starts."""
        vector = memory.aligned(sizes.pull, sizes.pull_dtype)
        vector.fill(0)
        push = self._functions.compute(
            memory.Views(self._devices).of(vector),
            self._data,
            self._key,
            self.index,
            1,
            0,
            0.0,
        )
        jax.block_until_ready(push)
        self.steps += 1

    def _work(self, channel: Channel) -> None:
        """The loop; returns at the end of the run."""
        message: Message | None = self._newer
        self._newer = None
        pending = Message(Kind.READY, self.index)
        vector: Any = None
        acknowledged = False
        if message is None:
            self._send(channel, pending)
        while True:
            if message is None:
                message = self._receive(channel, self.settings.resend)
            if self._heartbeats.generation != self._generation:
                raise ClosedError("the server does not know this worker any more")
            if message is None:
                self._check_pulse()
                if not acknowledged:
                    self._send(channel, pending, vector)
                continue
            received, message = message, None
            if received.kind is Kind.STOP:
                text = received.text or {}
                self.reason = str(text.get("reason", ""))
                self.resumes = bool(text.get("resumes"))
                return
            if received.kind is Kind.REFUSED:
                raise WorkerError(f"worker {self.index}: {received.text}")
            if received.kind is Kind.HELLO:
                raise ClosedError("the server asks who this is")
            if received.kind is Kind.WAIT:
                acknowledged = True
            if received.kind is not Kind.GRANT or received.grant_id < self.grant_id:
                continue
            kept = self._result
            if kept is None or kept[0] != (received.grant_id, received.mark):
                newer = self._newest(channel, received)
                if newer is not received:
                    message = newer
                    continue
                self.grant_id, self.waiting = received.grant_id, False
                message = self._compute(channel, received)
                self.waiting = True
                if message is not None:  # cancelled
                    continue
                kept = self._result
            assert kept is not None
            _, vector, loss, seconds = kept
            pending = push_for(received, seconds=seconds, loss=loss)
            acknowledged = False
            self._send(channel, pending, vector)

    def _compute(self, channel: Channel, grant: Message) -> Message | None:
        """Fills `_result`; gives the message that cancelled the computation, if any."""
        begun = self._now()
        # A channel has but a few vectors, and reuses them.
        vector = self._views.of(grant.payload)

        def paused() -> bool:
            self.steps += 1
            self._newer = self._cancel(channel, 0.0)
            return self._newer is not None

        numbers = (self.index, grant.clock, grant.version, grant.epoch)
        result = self._functions.compute(
            vector, self._data, self._key, *numbers, paused
        )
        if result is None:
            newer, self._newer = self._newer, None
            return newer
        push, loss = result
        push.block_until_ready()
        self.steps += 1
        took = self._now() - begun
        end = self._now() + self._injection.missing(grant.grant_id - 1, took)
        while (missing := end - self._now()) > 0:
            self.steps += 1  # asleep on purpose is not stuck
            newer = self._cancel(channel, min(missing, 1.0))
            if newer is not None:
                return newer
        seconds = self._now() - begun
        self._result = ((grant.grant_id, grant.mark), push, float(loss), seconds)
        return None

    def _newest(self, channel: Channel, grant: Message) -> Message:
        """The message to go by: the grant, or what has come after it and replaces it.

        Whoever computed for long may find many grants, of which the latest counts.
        """
        while True:
            message = self._receive(channel, 0.0)
            if message is None:
                return grant
            if message.kind is not Kind.GRANT and message.kind is not Kind.WAIT:
                return message
            if message.kind is Kind.GRANT and message.grant_id > grant.grant_id:
                grant = message

    def _cancel(self, channel: Channel, seconds: float) -> Message | None:
        """A message that ends the present computation, if one comes in this time."""
        end = self._now() + seconds
        while True:
            left = end - self._now()
            message = self._receive(channel, max(left, 0.0))
            if message is None and left <= 0:
                return None
            if message is None:
                continue
            newer = message.kind is Kind.GRANT and message.grant_id > self.grant_id
            if newer or message.kind in (Kind.STOP, Kind.REFUSED):
                return message

    def _check_pulse(self) -> None:
        silent = self._now() - self._heartbeats.answered
        if silent > self.settings.lease:
            raise ClosedError(f"the server has been silent for {silent:.0f} s")

    def _send(self, channel: Channel, message: Message, vector: Any = None) -> None:
        if self.settings.drop and self._random.random() < self.settings.drop:
            return
        channel.send(dataclasses.replace(message), vector)
        if self.settings.duplicate and self._random.random() < self.settings.duplicate:
            channel.send(dataclasses.replace(message), vector)

    def _receive(self, channel: Channel, seconds: float) -> Message | None:
        if self.leaving:
            channel.send(Message(Kind.BYE, self.index))
            text = {"reason": "interrupted by SIGTERM", "resumes": True}
            return Message(Kind.STOP, text=text)
        message = channel.receive(seconds)
        if message is not None:
            self._heartbeats.answered = self._now()
        if message is not None and message.kind is not Kind.STOP:
            if self.settings.drop and self._random.random() < self.settings.drop:
                return None
        return message
