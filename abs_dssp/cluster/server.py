"""The server: receives pushes, asks the policy, applies, grants.

One thread serves: it receives, decides, logs, applies and answers, so that no push
waits for a hand-over between threads, which costs more than all of this does for a
small model (ZeroMQ receives in threads of its own). Evaluation, checkpoints and
membership have threads, work on copies, and talk to the serving thread through `_tell`.
Nothing is told to a worker before the log has it.
"""

import contextlib
import dataclasses
import math
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp import policies
from abs_dssp.cluster import log as logs
from abs_dssp.cluster import memory, run_config, transport
from abs_dssp.cluster.keys import Keys
from abs_dssp.cluster.log import Record
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.settings import Settings, spin_seconds
from abs_dssp.cluster.status import Status, WorkerStatus
from abs_dssp.cluster.transport import Peer, Sizes
from abs_dssp.history import loss_estimate, transition
from abs_dssp.policies import Policy
from abs_dssp.tasks.base import Task
from abs_dssp.training import evaluation, flat, row_by_row

ABSENT, COMPUTING, WAITING, LEFT, EXPELLED = (
    "absent", "computing", "waiting", "left", "expelled"
)  # fmt: skip
_RATE_WINDOW = 256  # pushes
_SMALL = 1 << 18  # bytes


class ServerError(ValueError):
    """The run cannot go on; the sentence says why and what to do."""


@dataclasses.dataclass
class Member:
    """What the server knows of one worker."""

    index: int
    state: str = ABSENT
    since: float = 0.0  # seconds of the run
    clock: int = 0  # pushes of its own
    ticket: int = 0  # grants
    pulled: int = 0
    epoch: float = 0.0  # of the pulled version
    buffer: int = -1  # in the pool; -1 if none is held
    peer: Peer | None = None
    nonce: str = ""
    place: str = ""
    ready: bool = False
    beat: float = 0.0  # monotonic
    steps: int = -1
    progress: float = 0.0  # monotonic; when `steps` last rose
    granted: float = 0.0  # monotonic
    refused: int = 0
    refused_in_row: int = 0
    restarts: int = 0
    staleness: int = 0
    staleness_sum: int = 0
    waited: float = 0.0

    @property
    def active(self) -> bool:
        """Whether it is a living member."""
        return self.state in (COMPUTING, WAITING)


class Server:
    """A parameter server for one run. `serve` blocks until it is over."""

    def __init__(
        self,
        task: Task,
        policy: Policy,
        functions: flat.Functions,
        seed: int,
        log: logs.Log,
        *,
        total: int | None,
        until: float | None = None,
        target_accuracy: float | None = None,
        expected: int | None = None,
        identity: dict[str, Any],
        settings: Settings,
        shared: bool = True,
        network: str | None = None,
        keys: Keys | None = None,
        busy: int = 1,
        store: Any = None,
        say: Callable[[str], None] = print,
        recorder: Callable[[dict[str, float]], None] | None = None,
    ):
        """Prepares a run, or recovers one from its log and checkpoints.

        Args:
          task: model and data; has N workers.
          policy: the rule.
          functions: compiled for this task.
          seed: of the run.
          log: opened; what it holds is recovered.
          total: pushes; None if only `until` ends the run.
          until: seconds since the start.
          target_accuracy: ends the run at the first evaluation that reaches it.
          expected: workers to wait for at the start; N by default.
          identity: what every worker must agree on, by name.
          settings: times and limits.
          shared: whether to take workers over shared memory.
          network: ZeroMQ address to listen on; None for none.
          keys: for CURVE.
          busy: processes on this machine, workers included.
          store: checkpoints; None for none.
          say: prints a line for the user.
          recorder: called with every evaluation, in the evaluating thread.

        Raises:
          ServerError: if log and checkpoint do not fit each other.
        """
        self.task, self.policy, self.functions = task, policy, functions
        self.settings, self.identity, self.total, self.until = (
            settings, identity, total, until
        )  # fmt: skip
        self.target_accuracy = target_accuracy
        self.num_workers = task.num_workers
        self.expected = self.num_workers if expected is None else expected
        self._log, self._store, self._say, self._recorder = log, store, say, recorder
        self._key = jax.random.key(seed)
        self._device = jax.local_devices()[0]
        self._decider = transition.Decider(policy, self.num_workers)
        push, pull = (np.dtype(flat.DTYPES[name]) for name in functions.wire)
        size = functions.layout.size
        self.sizes = Sizes(size * push.itemsize, push, size * pull.itemsize, pull)
        self._same = pull == np.float32
        self.members = [Member(i) for i in range(self.num_workers)]
        self.parameters = flat.Parameters(functions, functions.initial(self._key))
        self.version = 0
        self.epoch = 0.0  # of the present version
        self.pushes = 0
        self.losses: list[float] = []
        self.records: list[dict[str, float]] = []  # evaluations
        self.started = False
        self.stopped = ""
        self.recoveries = 0
        self.duplicates = 0
        self.log_records = 0
        self._resumes = False
        self._failure: BaseException | None = None
        self._scratch: np.ndarray | None = None
        self._offset = 0.0
        self._begun = time.perf_counter()
        self._opened = time.monotonic()
        self._last_push = time.monotonic()
        self._recent: list[float] = []
        self._estimate = loss_estimate.LossEstimate(self.num_workers)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._to_evaluate: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._to_save: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._evaluating = self._saving = False
        self._evaluated = self._saved = time.monotonic()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._spin = spin_seconds(settings, busy)
        if policies.reads_loss(policy, self.num_workers):
            vector = self.functions.pulled(self.parameters.vector)
            self._estimate.first = float(functions.objective(task.data, vector))
        self._warm_up()

        shared = shared and memory.supported()
        self.pool = memory.Pool(self.sizes.pull, pull, shared)
        self._published = (-1, -1)  # version, buffer
        self.inbox = transport.Inbox()
        self._shared = self._network = None
        self.incarnation = os.urandom(8).hex()
        name = f"abs_dssp-{os.urandom(16).hex()}"
        try:
            if shared:
                self._shared = transport.SharedAcceptor(name, self.pool, self.sizes)
            if network is not None:
                self._network = transport.NetworkAcceptor(
                    network, self.pool, self.sizes, keys
                )
            self._recover()
        except BaseException:
            self.close()
            raise
        self.address = {
            "incarnation": self.incarnation,
            "process": os.getpid(),
            "shared": name if self._shared else None,
            "network": self._network.endpoint if self._network else None,
            "encrypted": keys is not None,
        }

    # The run.

    def serve(self) -> None:
        """Serves until the run is over.

        Raises:
          ServerError: if it cannot go on.
          LogError: if the log cannot be written.
        """
        for target in (self._watch, self._evaluate_loop, self._save_loop):
            thread = threading.Thread(
                target=self._guarded, args=(target,), name=target.__name__, daemon=True
            )
            thread.start()
            self._threads.append(thread)
        try:
            self._serve()
        except BaseException as error:
            self.stopped = str(error) or type(error).__name__
            self._farewell()
            raise
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()
        self._farewell()

    def stop(self, reason: str, *, resumes: bool = False) -> None:
        """Ends the run; from any thread."""

        def end():
            self.stopped = self.stopped or reason
            self._resumes = resumes

        self._tell(end)

    def close(self) -> None:
        """Closes connections and frees memory."""
        for acceptor in (self._shared, self._network):
            if acceptor is not None:
                acceptor.close()
        self.inbox.close()
        self.pool.close()

    @property
    def resumable(self) -> bool:
        """Whether the same command goes on with this run."""
        return self._resumes or self._failure is not None

    def seconds(self) -> float:
        """Of the run, now."""
        return self._offset + (time.perf_counter() - self._begun if self.started else 0)

    def _serve(self) -> None:
        poller = select.epoll()
        shared, network = self._shared, self._network
        try:
            poller.register(self.inbox, select.EPOLLIN)
            if shared is not None:
                for descriptor in shared.filenos():
                    poller.register(descriptor, select.EPOLLIN)
            networked = set() if network is None else set(network.filenos())
            for descriptor in networked:
                poller.register(descriptor, select.EPOLLIN)
            while not self.stopped:
                busy = False
                for descriptor, _ in self._poll(poller):
                    busy = True
                    if descriptor == self.inbox.fileno():
                        events = self.inbox.ready()
                    elif descriptor in networked:
                        continue
                    else:
                        assert shared is not None
                        events = shared.ready(descriptor, poller)
                    for peer, message in events:
                        self._handle(peer, message)
                if network is not None:
                    # Its descriptor tells of changes only: always look.
                    for peer, message in network.ready():
                        busy = True
                        self._handle(peer, message)
                while not self._commands.empty():
                    self._commands.get()()
                if self._failure is not None:
                    raise self._failure
                if not busy:
                    self._check_end()
        finally:
            poller.close()

    def _poll(self, poller) -> list[tuple[int, int]]:
        if self._spin:
            end = time.perf_counter() + self._spin
            while time.perf_counter() < end:
                events = poller.poll(0)
                if events:
                    return events
        return poller.poll(0.2)

    def _check_end(self) -> None:
        if self.stopped or not self.started:
            return
        if self.until is not None and self.seconds() >= self.until:
            self.stopped = "end"

    # Messages.

    def _handle(self, peer: Peer, message: Message | None) -> None:
        if self.stopped:
            return
        if message is None:
            for member in self.members:
                if member.peer is peer:
                    member.peer, member.ready = None, False
                    if member.active:
                        self._leave(member, "died")
            return
        if message.kind is Kind.BEAT:
            self._beat(peer, message)
            return
        if not 0 <= message.worker < self.num_workers:
            self._refuse_worker(
                peer,
                f"there is no worker {message.worker}: this run has "
                f"{self.num_workers}; start it with more --max_workers.",
            )
            return
        member = self.members[message.worker]
        if message.kind is Kind.HELLO:
            self._hello(peer, member, message)
        elif member.peer is not peer:
            peer.send(Message(Kind.HELLO))  # who are you?
        elif message.kind is Kind.PUSH:
            self._push(member, message)
        elif message.kind is Kind.READY:
            self._ready(member)
        elif message.kind is Kind.BYE:
            member.ready = False
            if member.active:
                self._leave(member, "finished")

    def _hello(self, peer: Peer, member: Member, message: Message) -> None:
        text = message.text
        try:
            nonce, place = str(text["nonce"]), str(text["place"])
            differs = run_config.first_difference(self.identity, text["run"])
        except (TypeError, KeyError):
            self._refuse_worker(peer, "it does not say what it would train.")
            return
        if differs is not None:
            name, mine, its = differs
            self._refuse_worker(
                peer,
                f"its {name} is {its!r}, the server's {mine!r}; start all processes "
                "with the same flags and the same code.",
            )
            return
        if member.state == EXPELLED:
            _dismiss(peer, _EXPELLED)
            return
        if member.nonce and member.nonce != nonce:
            if member.active:
                self._leave(member, "replaced")
            if member.peer is not None:
                _dismiss(member.peer, "another process has taken this one's place")
            member.ready = False
        member.peer, member.nonce, member.place = peer, nonce, place
        member.beat = member.progress = time.monotonic()
        welcome = {"incarnation": self.incarnation, "workers": self.num_workers}
        peer.send(Message(Kind.WELCOME, member.index, text=welcome))

    def _refuse_worker(self, peer: Peer, why: str) -> None:
        self._say(f"refused {peer.name}: {why}")
        peer.send(Message(Kind.REFUSED, text=why))

    def _ready(self, member: Member) -> None:
        member.ready = True
        member.beat = member.progress = time.monotonic()
        if not self.started:
            self._answer(member)
            if sum(m.ready for m in self.members) >= self.expected:
                self._start()
        elif member.active:
            self._answer(member)
        else:
            self._join(member)

    def _beat(self, peer: Peer, message: Message) -> None:
        now = time.monotonic()
        try:
            nonce, lives = message.text
            lives = [(int(w), int(s), bool(waits)) for w, _, s, waits in lives]
        except (TypeError, ValueError):
            return
        peer.send(Message(Kind.PULSE))
        for index, steps, waits in lives:
            if not 0 <= index < self.num_workers:
                continue
            member = self.members[index]
            if member.nonce != nonce or member.peer is None:
                peer.send(Message(Kind.HELLO))
                continue
            member.beat = now
            moved = steps != member.steps
            if moved or waits:
                member.steps, member.progress = steps, now
            if not self.started or not member.ready:
                continue
            if member.state == LEFT and moved:
                self._join(member)
            elif waits and member.state == COMPUTING and now > member.granted + 1:
                self._answer(member)

    def _push(self, member: Member, message: Message) -> None:
        asked = (member.ticket, member.clock + 1, member.pulled)
        answers = (message.ticket, message.clock, message.version)
        if asked != answers or member.state != COMPUTING:
            self.duplicates += 1
            if member.active:
                self._answer(member)
            return
        vector = message.payload
        if not self._finite(vector, message.loss):
            self._refuse_push(member)
            return
        now = self.seconds()
        index = member.index
        verdict = self._decider.push(index, now, self._estimate.value)
        released = np.flatnonzero(verdict.release).tolist()
        restarted = np.flatnonzero(verdict.restart).tolist()
        self._log.append(
            Record(
                "push", index, now, verdict.pulled, verdict.version, verdict.weight,
                verdict.commit, message.seconds, message.loss, 0, released, restarted,
            )
        )  # fmt: skip
        self.log_records += 1
        self.pushes += 1
        self._last_push = time.monotonic()
        member.clock += 1
        member.refused_in_row = 0
        member.staleness = verdict.version - verdict.pulled
        member.staleness_sum += member.staleness
        member.state, member.since = WAITING, now
        self.losses.append(message.loss)
        self._estimate.add(message.loss)
        if verdict.weight > 0:
            self.parameters.receive(
                self._on_device(vector), verdict.weight, index, verdict.commit,
                self.pool.arrays[member.buffer],
            )  # fmt: skip
        if verdict.commit:
            self._commit()
        elif verdict.weight > 0:
            self.parameters.keep()
        self._let_go(member)
        self._carry_out(released, restarted, now)
        if member.state == WAITING:
            self._answer(member)
        self._after_push(now)

    def _on_device(self, vector: Any) -> Any:
        """A push where the optimiser can read it, large ones without a copy."""
        if not isinstance(vector, np.ndarray):
            same = vector.device == self._device
            return vector if same else jax.device_put(vector, self._device)
        if vector.nbytes < _SMALL:
            return vector  # its copy costs less than the call that avoids it
        if vector.ctypes.data % 64:  # not to be used in place
            if self._scratch is None:
                self._scratch = memory.aligned(vector.nbytes, vector.dtype)
            jax.block_until_ready(self.parameters.vector)  # it may still be read
            np.copyto(self._scratch, vector)
            vector = self._scratch
        return jax.device_put(vector, self._device, may_alias=True)

    def _commit(self) -> None:
        self.parameters.commit(self.epoch, self.version)
        self.version += 1
        samples = self.task.batch_size * self.functions.config.local_steps
        share = samples / self.task.samples_per_epoch
        self.epoch = float(np.float32(self.pushes * share))

    def _carry_out(
        self, released: Sequence[int], restarted: Sequence[int], now: float
    ) -> None:
        """Grants, after everything that they stand on is done."""
        for index in released:
            member = self.members[index]
            member.waited += now - member.since
            self._grant(member, now)
        for index in restarted:
            self.members[index].restarts += 1
            self._grant(self.members[index], now)

    def _after_push(self, now: float) -> None:
        self._recent.append(now)
        if len(self._recent) > 2 * _RATE_WINDOW:
            del self._recent[:_RATE_WINDOW]
        if self.pushes == self.total:
            self.stopped = "end"
        elif self.until is not None and now >= self.until:
            self.stopped = "end"
        clock = time.monotonic()
        if clock - self._evaluated > self.settings.evaluate and not self._evaluating:
            self._ask_evaluation(now)
        if clock - self._saved > self.settings.checkpoint and not self._saving:
            self._ask_save()

    def _finite(self, vector: Any, loss: float) -> bool:
        if not math.isfinite(loss):
            return False
        if vector.dtype != np.float32:
            return bool(_all_finite(vector))
        values = np.asarray(vector)
        with np.errstate(all="ignore"):
            if math.isfinite(np.dot(values, values)):
                return True
        return bool(np.isfinite(values).all())  # large values overflow the product

    def _refuse_push(self, member: Member) -> None:
        now = self.seconds()
        member.refused += 1
        member.refused_in_row += 1
        self._say(
            f"dropped push {member.clock + 1} of worker {member.index} "
            f"({member.place}): not finite ({member.refused_in_row} in a row)"
        )
        if member.refused_in_row >= self.settings.max_refused:
            self._leave(member, "expelled")
            if member.peer is not None:
                _dismiss(member.peer, _EXPELLED)
            return
        self._log.append(Record("refuse", member.index, now))
        self.log_records += 1
        self._decider.refuse(member.index)
        member.restarts += 1
        self._grant(member, now)

    # Membership.

    def _start(self) -> None:
        self.started = True
        self._begun = time.perf_counter()
        self._last_push = time.monotonic()
        now = self.seconds()
        present = [m for m in self.members if m.ready]
        for member in self.members:
            if not member.ready:
                self._leave(member, "absent", now=0.0)
        for member in present:
            self._grant(member, now)
        self._ask_evaluation(now)

    def _join(self, member: Member) -> None:
        now = self.seconds()
        self._log.append(Record("join", member.index, now))
        self.log_records += 1
        self._decider.join(member.index, now)
        self._say(f"{now:.1f} s: worker {member.index} joins ({member.place})")
        member.beat = member.progress = time.monotonic()
        self._grant(member, now)

    def _leave(self, member: Member, why: str, now: float | None = None) -> None:
        now = self.seconds() if now is None else now
        verdict = self._decider.leave(member.index, now, self._estimate.value)
        commit = verdict.commit and self.pushes > 0
        released = np.flatnonzero(verdict.release).tolist()
        restarted = np.flatnonzero(verdict.restart).tolist()
        self._log.append(
            Record(
                "leave", member.index, now, version=verdict.version, commit=commit,
                code=logs.REASONS.index(why), release=released, restart=restarted,
            )
        )  # fmt: skip
        self.log_records += 1
        member.state = EXPELLED if why == "expelled" else LEFT
        member.since = now
        if why == "absent":
            member.state = ABSENT
        else:
            self._say(f"{now:.1f} s: worker {member.index} {_LEFT[why]}")
        if commit:
            self._commit()
        self._let_go(member)
        self._carry_out(released, restarted, now)

    def _grant(self, member: Member, now: float) -> None:
        """Hands the present version to a worker."""
        self._let_go(member)
        member.buffer = self._publish()
        self.pool.hold(member.buffer)
        member.ticket += 1
        member.pulled, member.epoch = self.version, self.epoch
        member.state, member.since = COMPUTING, now
        self._answer(member)

    def _answer(self, member: Member) -> None:
        """Says where a worker stands: what to compute from, or to wait."""
        if member.peer is None:
            return
        if member.state == COMPUTING:
            member.granted = time.monotonic()
            message = Message(
                Kind.GRANT, member.index, clock=member.clock + 1, ticket=member.ticket,
                version=member.pulled, epoch=member.epoch, buffer=member.buffer,
            )  # fmt: skip
        else:
            message = Message(Kind.WAIT, member.index, ticket=member.ticket)
        member.peer.send(message)

    def _let_go(self, member: Member) -> None:
        if member.buffer >= 0:
            self.pool.drop(member.buffer)
            member.buffer = -1

    def _publish(self) -> int:
        """The buffer of the present version; copied once, however many pull it."""
        version, buffer = self._published
        if version != self.version:
            if buffer >= 0:
                self.pool.drop(buffer)
            buffer = self.pool.take()
            vector = self.parameters.vector
            if not self._same:
                vector = self.functions.pulled(vector)
            np.copyto(self.pool.arrays[buffer], np.asarray(vector))
            self._published = (self.version, buffer)
        return buffer

    def _watch(self) -> None:
        """Leases, the start, and who waits for whom."""
        told = time.monotonic()
        empty = None
        while not self._ended.wait(min(0.25, self.settings.lease / 4)):
            now = time.monotonic()
            if not self.started:
                self._watch_start(now)
                continue
            for member in self.members:
                if not member.active:
                    continue
                if now - member.beat > self.settings.lease:
                    self._tell(self._leave_if, member, "silent", member.ticket)
                elif (
                    member.state == COMPUTING
                    and now - member.progress > self.settings.progress
                ):
                    self._tell(self._leave_if, member, "stuck", member.ticket)
            if any(m.active for m in self.members):
                empty = None
            else:
                empty = now if empty is None else empty
                if self._deserted(now - empty):
                    return
            quiet = max(self._last_push, told)
            if now - quiet > self.settings.watchdog:
                told = now
                from abs_dssp.report import live

                self._say(live.waits_for(self.status()))

    def _deserted(self, seconds: float) -> bool:
        """Ends a run without workers, at once if none can come back."""
        if all(m.state in (EXPELLED, ABSENT) for m in self.members):
            why = (
                "all workers were expelled, their pushes were not finite; try a "
                "smaller --learning_rate."
            )
        elif seconds > self.settings.empty:
            why = (
                f"no worker for {seconds:.0f} s; look at the workers' logs, and start "
                "the same command again to go on."
            )
        else:
            return False
        self._fail(ServerError(why))
        return True

    def _watch_start(self, now: float) -> None:
        if now - self._opened < self.settings.start:
            return
        ready = sum(m.ready for m in self.members)
        missing = [str(m.index) for m in self.members[: self.expected] if not m.ready]
        if not ready:
            self._fail(
                ServerError(
                    f"no worker came within {self.settings.start:.0f} s; look at the "
                    "workers' logs."
                )
            )
            return
        self._say(
            f"starting without worker(s) {', '.join(missing)}: not here after "
            f"{self.settings.start:.0f} s"
        )
        self._opened = now  # once
        self._tell(lambda: None if self.started else self._start())

    def _leave_if(self, member: Member, why: str, ticket: int) -> None:
        """A lease ran out; unless the worker has been heard of since."""
        now = time.monotonic()
        limit = self.settings.lease if why == "silent" else self.settings.progress
        since = member.beat if why == "silent" else member.progress
        if member.active and member.ticket == ticket and now - since > limit:
            self._leave(member, why)

    # Threads beside.

    def _tell(self, command: Callable[..., None], *arguments: Any) -> None:
        """Has the serving thread do something."""
        self._commands.put(lambda: command(*arguments))
        self.inbox.wake()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        with contextlib.suppress(OSError):  # closed already
            self.inbox.wake()

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # told where it is heard
            self._fail(error)

    def _ask_evaluation(self, now: float) -> None:
        self._evaluating = True
        self._evaluated = time.monotonic()
        request = (
            self.functions.copy(self.parameters.vector), self.version, self.pushes, now
        )  # fmt: skip
        self._to_evaluate.put(request)

    def _evaluate_loop(self) -> None:
        while not self._ended.is_set():
            try:
                request = self._to_evaluate.get(timeout=0.2)
            except queue.Empty:
                continue
            self._record(*request)
            self._evaluating = False

    def _record(self, vector, version: int, pushes: int, seconds: float) -> None:
        measures = self.functions.evaluate(self.task.data, vector)
        samples = self.task.batch_size * self.functions.config.local_steps
        record = {
            "push": pushes,
            "version": version,
            "seconds": seconds,
            "epoch": pushes * samples / self.task.samples_per_epoch,
        } | {name: float(value) for name, value in measures.items()}
        self.records.append(record)
        if self._recorder is not None:
            self._recorder(record)
        accuracy = record.get("accuracy", -math.inf)
        if self.target_accuracy is not None and accuracy >= self.target_accuracy:
            self.stop("target")

    def evaluate_last(self) -> None:
        """Adds the measures at the end, unless they are there."""
        if not self.records or self.records[-1]["push"] != self.pushes:
            self._record(
                self.parameters.vector, self.version, self.pushes, self.seconds()
            )

    def _ask_save(self) -> None:
        """A consistent copy, made by the device while the next push is received."""
        self._saving = True
        self._saved = time.monotonic()
        held = {m.pulled: m.buffer for m in self.members if m.buffer >= 0}
        for buffer in held.values():
            self.pool.hold(buffer)
        leaves = [
            self.functions.copy(x) if isinstance(x, jax.Array) else x
            for x in self.parameters.leaves()
        ]
        self._to_save.put((self.log_records, leaves, self._decider.leaves(), held))

    def _save_loop(self) -> None:
        while not self._ended.is_set():
            try:
                request = self._to_save.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                self._save(*request)
            except Exception as error:  # the log has everything
                self._say(f"no checkpoint: {_first_line(error)}; the run goes on")
            self._tell(self._free, list(request[3].values()))
            self._saving = False

    def _free(self, buffers: Sequence[int]) -> None:
        for buffer in buffers:
            self.pool.drop(buffer)

    def _save(self, records: int, leaves, decider, held: dict[int, int]) -> None:
        if self._store is None:
            return
        versions = sorted(held)
        note = {
            "records": records,
            "parameters": len(leaves),
            "decider": len(decider),
            "versions": versions,
        }
        copies = [self.pool.arrays[held[v]] for v in versions]
        self._store.save(records, [*leaves, *decider, *copies], note)

    def save_last(self) -> None:
        """The state at the end, as a checkpoint; waits for the disk.

        Raises:
          ServerError: if it cannot be written.
        """
        if self._store is None:
            return
        held = {m.pulled: m.buffer for m in self.members if m.buffer >= 0}
        try:
            if self._store.latest_step() != self.log_records:
                leaves = self.parameters.leaves()
                self._save(self.log_records, leaves, self._decider.leaves(), held)
            self._store.close()
        except Exception as error:
            raise ServerError(
                f"the last checkpoint cannot be written: {_first_line(error)}; make "
                "room and start the same command again."
            ) from error

    def _farewell(self) -> None:
        """Tells everybody that it is over."""
        text = {"reason": self.stopped, "resumes": self.resumable}
        for member in self.members:
            if member.peer is not None:
                member.peer.send(Message(Kind.STOP, member.index, text=text))

    # Recovery.

    def _recover(self) -> None:
        """Log and checkpoint → the state that had been acknowledged."""
        records = self._log.records
        if not records:
            return
        begun = time.perf_counter()
        found = None if self._store is None else self._store.latest()
        if found is not None and found.note["records"] > len(records):
            raise ServerError(
                f"the checkpoint is of record {found.note['records']}, the log ends at "
                f"{len(records)}: the log was cut; restore it, or use another --out."
            )
        first = 0 if found is None else found.note["records"]
        trace = logs.to_trace(
            records,
            {"num_workers": self.num_workers, "local_steps": 1},
        )
        columns = {
            name: getattr(trace, name)
            for name in ("worker", "clock", "pulled", "weight", "committed")
        }
        done = sum(r.kind == "push" for r in records[:first])
        machine = row_by_row.HostEngine(
            self.task, self.functions.config, 0, 1, self.functions.wire
        )
        machine.key = self._key
        machine.parameters = self.parameters
        machine.kept = {0: self.functions.pulled(self.parameters.vector)}
        machine.load(columns)
        if found is not None:
            cut = found.note["parameters"]
            rest = cut + found.note["decider"]
            self.parameters.restore(found.leaves[:cut])
            self._decider.restore(found.leaves[cut:rest])
            machine.version = int(self._decider.clocks.version)
            versions = found.note["versions"]
            machine.kept = {
                version: jax.numpy.array(vector)
                for version, vector in zip(versions, found.leaves[rest:], strict=True)
            }
            machine.kept[machine.version] = self.functions.pulled(
                self.parameters.vector
            )
        # Whatever a push to come was pulled from must still be there then.
        machine.num_versions = len(records) + 2
        row = done
        for number, record in enumerate(records):
            self._again(record, number >= first)
            if number < first:
                continue
            if record.kind == "push":
                row += 1
                # A commit caused by a leave is marked on the row before it.
                machine.columns = columns | {"committed": _early(columns, row, record)}
                machine.run(row - 1, row)
            elif record.commit:
                machine.parameters.commit(
                    float(machine.epochs[machine.version]), machine.version
                )
                machine.version += 1
                machine.kept[machine.version] = self.functions.pulled(
                    self.parameters.vector
                )
            needed = {m.pulled for m in self.members if m.state == COMPUTING}
            needed.add(machine.version)
            machine.kept = {v: x for v, x in machine.kept.items() if v in needed}
        if machine.version != self.version:
            raise ServerError("log and checkpoint disagree; use another --out.")
        self.log_records = len(records)
        self.epoch = float(machine.epochs[self.version])
        for member in self.members:
            member.beat = member.progress = time.monotonic()
            member.granted = 0.0
            if member.state != COMPUTING:
                continue
            member.epoch = float(machine.epochs[member.pulled])
            if member.pulled == self.version:
                member.buffer = self._publish()
                self.pool.hold(member.buffer)
                continue
            same = [m for m in self.members if m.pulled == member.pulled]
            taken = [m.buffer for m in same if m.buffer >= 0]
            if taken:
                member.buffer = taken[0]
                self.pool.hold(member.buffer)
                continue
            member.buffer = self.pool.take()
            vector = np.asarray(machine.kept[member.pulled])
            np.copyto(self.pool.arrays[member.buffer], vector)
        self.started = True
        self.recoveries += 1
        self._offset = records[-1].time + self._log.idle  # nobody served, time went on
        self._begun = time.perf_counter()
        if self.pushes == self.total:
            self.stopped = "end"
        took = time.perf_counter() - begun
        self._say(
            f"recovered {self.pushes} pushes, version {self.version}: checkpoint of "
            f"record {first}, {len(records) - first} more from the log ({took:.1f} s)"
        )

    def _again(self, record: Record, ask: bool) -> None:
        """Follows one record of the log; with `ask` the policy too."""
        if self.log_records == 0 and not self.started:
            self.started = True
            for member in self.members:
                member.state, member.ticket = COMPUTING, 1
        member = self.members[record.worker]
        verdict = None
        if record.kind == "push":
            member.clock += 1
            self.pushes += 1
            member.staleness = record.version - record.pulled
            member.staleness_sum += member.staleness
            member.state, member.since = WAITING, record.time
            if ask:
                verdict = self._decider.push(
                    record.worker, record.time, self._estimate.value
                )
            self.losses.append(record.loss)
            self._estimate.add(record.loss)
        elif record.kind == "leave":
            why = logs.REASONS[record.code]
            member.state = {"expelled": EXPELLED, "absent": ABSENT}.get(why, LEFT)
            if why == "absent":
                member.ticket = 0
            if ask:
                verdict = self._decider.leave(
                    record.worker, record.time, self._estimate.value
                )
        else:
            member.state = COMPUTING
            member.ticket += 1
            member.pulled = self.version
            if record.kind == "join" and ask:
                self._decider.join(record.worker, record.time)
            elif record.kind == "refuse":
                member.refused += 1
                member.restarts += 1
                if ask:
                    self._decider.refuse(record.worker)
        if record.commit:
            self.version += 1
        for index in (*record.release, *record.restart):
            other = self.members[index]
            if other.state == WAITING:
                other.waited += record.time - other.since
            else:
                other.restarts += 1
            other.state, other.since = COMPUTING, record.time
            other.ticket += 1
            other.pulled = self.version
        if verdict is not None and (
            np.flatnonzero(verdict.release).tolist() != list(record.release)
            or (record.kind == "push" and verdict.commit != record.commit)
        ):
            raise ServerError(
                f"push {self.pushes} of the log was decided otherwise than this policy "
                "decides: its code has changed; use another --out."
            )

    def _warm_up(self) -> None:
        """Compiles what a push needs, before the first one."""
        functions = self.functions
        scratch = flat.Parameters(functions, functions.initial(self._key))
        like = np.zeros(functions.layout.size, np.dtype(self.sizes.push_dtype))
        pulled = np.zeros(functions.layout.size, np.dtype(self.sizes.pull_dtype))
        # As they come over a transport, and from this process.
        for push in (self._on_device(like), jax.device_put(like, self._device)):
            for count in (1, 3):
                for _ in range(count):
                    scratch.receive(push, 0.5, 0, True, pulled)
                    scratch.keep()
                scratch.commit(0.0, 0)
        jax.block_until_ready(functions.copy(functions.pulled(scratch.vector)))
        jax.block_until_ready(
            functions.evaluate(self.task.data, functions.copy(scratch.vector))
        )
        self._finite(push, 0.0)

    # Seeing it.

    def status(self) -> Status:
        """What is going on; from any thread, so a number may be a moment old."""
        now = self.seconds()
        recent = self._recent[-_RATE_WINDOW:]
        span = now - recent[0] if recent else 0.0
        acceptors = [a for a in (self._shared, self._network) if a is not None]
        record = self.records[-1] if self.records else {}
        basic = evaluation.BASIC
        samples = self.task.batch_size * self.functions.config.local_steps
        pulls = sum(m.ticket for m in self.members)
        latest = self.losses[-10 * self.num_workers :]
        return Status(
            policy=policies.describe(self.policy),
            seconds=now,
            pushes=self.pushes,
            total=self.total,
            version=self.version,
            pushes_per_second=len(recent) / span if span > 0 else 0.0,
            epoch=self.pushes * samples / self.task.samples_per_epoch,
            measures={k: v for k, v in record.items() if k not in basic},
            train_loss=float(np.mean(latest)) if latest else math.nan,
            bytes_received=self.pushes * self.sizes.push,
            bytes_sent=pulls * self.sizes.pull,
            recoveries=self.recoveries,
            messages_refused=sum(a.refused for a in acceptors),
            workers=tuple(self._worker_status(m, now) for m in self.members),
        )

    def _worker_status(self, member: Member, now: float) -> WorkerStatus:
        waited = member.waited
        if member.state == WAITING:
            waited += now - member.since
        peer = member.peer
        return WorkerStatus(
            index=member.index,
            place=member.place,
            transport=peer.transport if peer is not None else "",
            clock=member.clock,
            state=member.state,
            since=max(0.0, now - member.since),
            pulled=member.pulled,
            staleness=member.staleness,
            mean_staleness=member.staleness_sum / max(1, member.clock),
            waiting_share=min(1.0, waited / now) if now > 0 else 0.0,
            restarts=member.restarts,
            refused=member.refused,
        )


_EXPELLED = "expelled: too many pushes in a row were not finite"
_LEFT = {
    "died": "is gone: its connection ended",
    "finished": "has finished",
    "silent": "is left out: no sign of life",
    "stuck": "is left out: alive, but without progress",
    "expelled": "is expelled: its pushes were not finite",
    "replaced": "is replaced by another process",
}


def _dismiss(peer: Peer, why: str) -> None:
    """Ends a worker's part in a run that goes on."""
    peer.send(Message(Kind.STOP, text={"reason": why, "resumes": False}))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@jax.jit
def _all_finite(vector):
    return jax.numpy.isfinite(vector).all()


def _early(columns, row: int, record: Record) -> np.ndarray:
    """The `committed` column as it was when row `row` had just been decided."""
    committed = columns["committed"].copy()
    committed[row - 1] = record.commit
    return committed
