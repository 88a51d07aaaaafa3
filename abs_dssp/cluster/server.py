"""The server's shell: sockets, threads, clock and disk around `Core` and `Membership`.

One thread serves: it receives, has the core decide, and does what the core wants done,
in order, so that no push waits for a hand-over between threads, which costs more than
all of this does for a small model. Evaluation and checkpoints have a thread each, work
on copies, and report through `tell`. Others see the run through `status`, a snapshot.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from abs_dssp import checks, policies
from abs_dssp.cluster import log as logs
from abs_dssp.cluster import recovery
from abs_dssp.cluster import status as statuses
from abs_dssp.cluster.arithmetic import Arithmetic
from abs_dssp.cluster.connections import Connections, Listening
from abs_dssp.cluster.core import Core, RunLimits
from abs_dssp.cluster.duties import Checkpoints, Evaluations, first_line
from abs_dssp.cluster.effects import Effect
from abs_dssp.cluster.executor import Executor
from abs_dssp.cluster.measures import Measures
from abs_dssp.cluster.membership import Membership
from abs_dssp.cluster.settings import Settings, spin_seconds
from abs_dssp.cluster.status import Status
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.transport import Sizes
from abs_dssp.cluster.versions import Versions
from abs_dssp.policies import Policy
from abs_dssp.tasks.base import Task

_STATUS_SECONDS = 0.5  # between two snapshots


class ServerError(checks.TransientError):
    """The run cannot go on; the sentence says why and what to do."""


class Training(NamedTuple):
    """What a run trains."""

    task: Task  # of N workers
    policy: Policy
    functions: Any  # flat.Functions of the task, or fragmented.PartFunctions
    seed: int


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """When a run is over, who takes part in it, and its times."""

    limits: RunLimits
    agreed: Mapping[str, Any]  # what every worker must agree on, by name
    settings: Settings
    expected: int | None = None  # workers to wait for at the start; None: all N
    listening: Listening = Listening()


class Server:
    """A parameter server for one run. `serve` blocks until it is over."""

    membership_class = Membership

    def __init__(
        self,
        training: Training,
        config: ServerConfig,
        log: logs.Log,
        *,
        store: Any = None,
        say: Callable[[str], None] = print,
        recorder: Callable[[dict[str, float]], None] | None = None,
        system: System = REAL,
    ):
        """Prepares a run, or recovers one from its log and checkpoints.

        Args:
          training: what is trained.
          config: limits and times.
          log: opened; what it holds is recovered.
          store: checkpoints; None for none.
          say: prints a line for the user.
          recorder: called with every evaluation, in the serving thread.
          system: clock, threads and sockets.

        Raises:
          ServerError: if log and checkpoint do not fit each other.
        """
        task, functions = training.task, training.functions
        self.config, self.training = config, training
        self.functions, self.system = functions, system
        self._now = system.time.perf_counter
        self.measures = Measures(task.num_workers, self._now)
        self.incarnation = system.os.urandom(8).hex()
        self._log, self._store, self._say = log, store, say
        self.sizes = Sizes.of_functions(functions)
        self.arithmetic = Arithmetic(task, functions, training.seed)
        self.arithmetic.warm_up(self.sizes.push_dtype, self.sizes.pull_dtype)
        samples = task.batch_size * functions.config.local_steps * functions.fragments
        epochs_per_push = samples / task.samples_per_epoch
        self.core = Core(
            training.policy,
            task.num_workers,
            config.limits,
            epochs_per_push,
            self._first_loss(),
            keeps_local_state=functions.keeps_every_push,
        )
        if task.num_workers > 1:
            self.core.decide_together(self.arithmetic.advances)
        self.recoveries = 0
        self._resumes = False
        self._failure: BaseException | None = None
        self._commands = system.queue.SimpleQueue()  # functions without arguments
        spin = spin_seconds(config.settings, config.listening.busy)
        self._connections = Connections(config.listening, self.sizes, spin, system)
        self.pool, self.inbox = self._connections.pool, self._connections.inbox
        self.address = {
            "incarnation": self.incarnation,
            "process": system.os.getpid(),
            **self._connections.address,
        }
        try:
            start = self.arithmetic.start_local if functions.local_size else None
            self.versions = Versions(
                self.pool, task.num_workers, self.arithmetic.read, start
            )
            self._executor = Executor(
                log, self.arithmetic, self.versions, self.measures, say, self._now
            )
            self._recover()
        except BaseException:
            self.close()
            raise
        settings = config.settings
        self.evaluations = Evaluations(
            self.arithmetic, self.core, settings.evaluate, recorder, system
        )
        self.checkpoints = Checkpoints(self, store, settings.checkpoint, say)
        self._since = self.membership.seconds(self._now())  # above 0 after a recovery
        self._until: float | None = None  # when serving has ended
        self._see()

    def _first_loss(self) -> float:
        policy, task = self.training.policy, self.training.task
        if not policies.reads_loss(policy, task.num_workers):
            return math.nan
        return self.arithmetic.objective()

    def _recover(self) -> None:
        """Makes the membership, and goes on where the log ends."""
        config, now = self.config, self._now()
        self.membership = self.membership_class(
            self.core,
            config.settings,
            config.agreed,
            self.incarnation,
            self.core.num_workers if config.expected is None else config.expected,
            self.arithmetic.finite,
            now,
        )
        entries, self._log.entries = self._log.entries, []
        if not entries:
            return
        try:
            line = recovery.recover(self, entries, self._store, self._say)
        except recovery.RecoveryError as error:
            raise ServerError(str(error)) from error
        self.recoveries += 1
        # Nobody served, time went on.
        seconds = entries[-1].event.time + self._log.idle
        self.membership.resume(seconds, self._now())
        self._say(line)

    # The run.

    def serve(self) -> None:
        """Serves until the run is over.

        Raises:
          ServerError: if it cannot go on.
          LogError: if the log cannot be written.
        """
        self.evaluations.start(self.tell, self._fail)
        self.checkpoints.start(self.tell, self._fail)
        try:
            self._serve()
        except BaseException as error:
            self._resumes = True  # workers are not to take this for the run's end
            self.core.end(str(error) or type(error).__name__)
            self.execute(self.membership.farewell(self.resumable))
            raise
        finally:
            self.evaluations.stop(self._say)
            self.checkpoints.stop()
            self._run_commands()
            self._until = self._now()
            self._see()
        self.execute(self.membership.farewell(self.resumable))

    def stop(self, reason: str, *, resumes: bool = False) -> None:
        """Ends the run; from any thread."""

        def end():
            self._resumes = self._resumes or (resumes and not self.core.ended)
            self.core.end(reason)

        self.tell(end)

    def tell(self, command: Callable[[], None]) -> None:
        """Has the serving thread do something; from any thread."""
        self._commands.put(command)
        self.inbox.wake()

    def close(self) -> None:
        """Closes connections and frees memory."""
        self._connections.close()

    @property
    def records(self) -> list[dict[str, float]]:
        """The evaluations so far."""
        return self.evaluations.records

    @property
    def stopped(self) -> str:
        """Why the run is over; empty while it is not."""
        return self.core.ended

    @property
    def resumable(self) -> bool:
        """Whether the same command goes on with this run."""
        return self._resumes or self.membership.failed or self._failure is not None

    def _serve(self) -> None:
        core, membership = self.core, self.membership
        pause = min(0.25, self.config.settings.lease / 4)
        ticked = shown = 0.0
        while not core.ended:
            arrivals = self._receive()
            while arrivals:
                del arrivals[: self._take(arrivals)]
                if core.started and not core.ended:
                    now = self._now()
                    self.evaluations.ask_if_due(membership.seconds(now))
                    self.checkpoints.ask_if_due(now)
            self._run_commands()
            now = self._now()
            if core.wake < math.inf:
                self.execute(membership.wake(now))
            if now - ticked > pause:
                ticked = now
                strangers = self._connections.strangers()
                self.execute(membership.tick(now, strangers))
            if now - shown > _STATUS_SECONDS:
                shown = now
                self._see()
        if membership.failed:
            raise ServerError(core.ended)

    def _take(self, arrivals: list[tuple[Any, Any]]) -> int:
        """Does what follows from the first arrival, or from several pushes at once.

        Returns:
          How many arrivals are dealt with.
        """
        core, now = self.core, self._now()
        wanted: list[Effect] = []
        pushes, taken = core.pushes, 0
        if len(arrivals) > 1:
            times = [now] + [self._now() for _ in arrivals[1:]]
            wanted, taken = self.membership.pushes(arrivals, times)
        if not taken:
            taken, (peer, message) = 1, arrivals[0]
            if message is None:
                wanted = self.membership.closed(peer, now)
            else:
                wanted = self.membership.message(peer, message, now)
        if core.pushes == pushes:
            self.execute(wanted)
            return taken
        came = [message for _, message in arrivals[:taken]]
        sent = [self.measures.sent[message.worker] for message in came]
        decided = self._now()
        spent = self.execute(wanted)
        of_all = (now, decided, spent, taken)
        for message, granted in zip(came, sent, strict=True):
            stale = core.workers[message.worker].staleness
            self.measures.push(*of_all, granted, message.seconds, stale)
        return taken

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _run_commands(self) -> None:
        while not self._commands.empty():
            self._commands.get()()
        if self._failure is not None:
            raise self._failure

    def _receive(self) -> list[tuple[Any, Any]]:
        """What has come: `(peer, message)`, the message None at a connection's end."""
        begun = self._now()
        keys = self._connections.wait(self.membership.until_wake(begun))
        if self.core.started:
            self.measures.idle += self._now() - begun
        return self._connections.take(keys)

    def saving(self, records: int) -> None:
        """A checkpoint of so many records of the log is being written."""

    def saved(self) -> None:
        """The disk has it."""

    # What the core wants done.

    def execute(self, wanted: list[Effect]) -> list[float]:
        """Does it, in order; see `Executor`."""
        return self._executor.execute(wanted)

    def evaluate_last(self) -> None:
        """Adds the measures at the end, unless they are there; after `serve`."""
        self.evaluations.last(self.membership.seconds(self._now()))

    def save_last(self) -> None:
        """The state at the end, as a checkpoint; waits for the disk. After `serve`.

        Raises:
          ServerError: if it cannot be written.
        """
        try:
            self.checkpoints.last()
            self._see()
        except Exception as error:
            raise ServerError(
                f"the last checkpoint cannot be written: {first_line(error)}; make "
                "room and start the same command again."
            ) from error

    # Seeing it.

    def status(self) -> Status:
        """What is going on, at most half a second old; from any thread."""
        return self._status

    @property
    def refused(self) -> int:
        """Messages and connections that were dropped."""
        return self._connections.refused

    def _see(self) -> None:
        """Takes a snapshot, of the end of serving once that has come."""
        now = self._now() if self._until is None else self._until
        self._status = statuses.of_server(self, now, self._since)
