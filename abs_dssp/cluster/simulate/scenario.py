"""A run of three workers on two hosts, with an operator who restarts what ends."""

import dataclasses
import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from abs_dssp import optimizers, policies, tasks
from abs_dssp.cluster import log as logs
from abs_dssp.cluster import run, topology
from abs_dssp.cluster.core import RunLimits
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.messages import MessageError, decode
from abs_dssp.cluster.server import ServerError, Training
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.simulate import checks, disk, network, sockets, threads
from abs_dssp.cluster.simulate.checks import Checker, ViolationError
from abs_dssp.cluster.simulate.faults import Dice, Faults
from abs_dssp.cluster.simulate.strangers import Strangers
from abs_dssp.cluster.simulate.world import Process, World
from abs_dssp.cluster.system import System
from abs_dssp.cluster.transport import stream
from abs_dssp.cluster.worker import StragglerInjection, WorkerError
from abs_dssp.replay import Result
from abs_dssp.training import flat
from abs_dssp.training.config import UpdateConfig

NUM_WORKERS = 3  # 0 with the server, 1 beside it, 2 on another host
OUT = Path("/run")
POLICIES = (
    "asp()",
    "bsp()",
    "ssp(s=2)",
    "dssp(s_lower=1,s_upper=4)",
    "k_sync(k=2)",
    "ringmaster(threshold=2,stop=True)",
    "quorum(k=2,grace=1.0)",
    "deadline(k=1.0,floor=0.25)",
)
_PUSHES = 240
_CALM = 0.75  # of the pushes; no faults after that
_PATIENCE = 600.0  # seconds from the beginning of the calm to the run's end
_LONGEST = 2000.0  # seconds of faults
_SETTINGS = Settings(
    lease=5.0,
    progress=60.0,
    start=30.0,
    reconnect=60.0,
    resend=1.0,
    empty=20.0,
    watchdog=20.0,
    checkpoint=2.0,
    evaluate=4.0,
    spin=0.0,
)

_SENTENCES = (ServerError, LogError, WorkerError)  # what may end a process


class Outcome(NamedTuple):
    """What came of a seed."""

    seed: int
    digest: int  # of the history
    events: int
    seconds: float  # of simulated time
    faults: dict[str, int]  # by name
    fired: list[tuple[int, str]]  # numbers and names, for `only`
    starts: int  # of processes
    violation: str  # empty: none


@functools.cache
def training(text: str, local_steps: int) -> Training:
    """What is trained, compiled once for all seeds."""
    task = tasks.logistic(NUM_WORKERS, samples=30, dim=6, batch_size=2)
    # A rate on the clock of epochs, so that it matters which one a version has.
    server = optimizers.sgd(lambda epoch: 0.1 / (1 + epoch), momentum=0.5)
    update = UpdateConfig(server, optimizers.sgd(0.1), local_steps, "mean")
    policy = policies.parse(text, NUM_WORKERS)
    return Training(task, policy, flat.Functions(task, update), 7)


class _Cluster(topology.Cluster):
    """A process's place; the server's address is known to everybody at once."""

    def __init__(self, scenario: "Scenario", process: Process, index: int):
        options = scenario.options
        mine = {index: jax.local_devices()[:1]}
        super().__init__(options, index, NUM_WORKERS, NUM_WORKERS, mine)
        self._scenario, self._process = scenario, process

    def publish(self, address: dict[str, Any], folder: Path) -> None:
        self._process.call()
        self._scenario.served(address)

    def withdraw(self, folder: Path, over: dict[str, Any] | None) -> None:
        self._process.call()
        self._scenario.address = None

    def lookup(self, seconds: float) -> dict[str, Any] | None:
        self._process.call()
        if self._scenario.address is None:
            self._process.pass_time(seconds)
        return self._scenario.address

    def host(self) -> dict[str, str]:
        return {"boot": self._process.host.name, "namespace": ""}

    def leave(self) -> None:
        pass


class _Functions:
    """A worker's functions, which give something that is not finite at times."""

    def __init__(self, functions: flat.Functions, dice: Dice):
        self._functions, self._dice = functions, dice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def compute(self, *arguments: Any) -> Any:
        """See `flat.Functions.compute`."""
        result = self._functions.compute(*arguments)
        if result is not None and self._dice.falls("nan"):
            push, loss = result
            return push * np.float32("nan"), loss
        return result


class Scenario:
    """One seed's run."""

    def __init__(
        self,
        seed: int,
        faults: Faults,
        only: frozenset[int] | None = None,
        say: Callable[[str], None] | None = None,
    ):
        self.dice = Dice(seed, faults, only)
        self.world = world = World(seed, self.dice, say)
        self.address: dict[str, Any] | None = None
        text = POLICIES[seed % len(POLICIES)]
        self.training = training(text, 1 + (seed // len(POLICIES)) % 2)
        sync = bool(world.random.getrandbits(1))
        settings = dataclasses.replace(_SETTINGS, sync_log=sync)
        limits = RunLimits(pushes=_PUSHES)
        agreed = {"policy": text, "num_workers": NUM_WORKERS, "seed": seed}
        self._job = run.Job(self.training, limits, agreed, settings, OUT)
        self._sync = sync
        self._hosts = {name: disk.Host(world, name) for name in "ab"}
        self._hosts["a"].folders.add(str(OUT))
        self._hosts["a"].lost_power = self._lost_power
        # In some runs the server comes back where it was, in some no worker has memory
        # in common with it, and in some a vector is sent apart from its header.
        self.options = topology.Options(
            listen="a:5555" if world.random.random() < 0.5 else "a:0",
            transport="tcp" if world.random.random() < 0.3 else "auto",
            encrypt=False,
        )
        self._joined = world.random.choice([1, stream._JOINED])
        self._network = network.Network(world)
        functions = self.training.functions
        push = 4 * (functions.layout.size + functions.local_size)
        self._strangers = Strangers(world, self._network, push, agreed)
        self._checker = Checker(NUM_WORKERS, self._log)
        self._lied = False  # whether a disk may have lost what was to be safe
        self._undo: Callable[[], None] | None = None  # of a flipped bit in the log
        self._flipped_at = self._flipped_to = 0
        self._starts = self._hopeless = 0
        self._result: Result | None = None
        world.after_event = self._after_event

    def run(self) -> Outcome:
        """Runs it to its end."""
        violation = ""
        world, joined = self.world, stream._JOINED
        stream._JOINED = self._joined
        world.note(f"seed {world.seed}: {checks.description(self.training)}")
        try:
            for index in range(NUM_WORKERS):
                late = index > 0 and self.dice.falls("late")
                seconds = 18 * world.random.random() if late else 0.0
                world.at(seconds, functools.partial(self._start, index))
            self._finish()
        except ViolationError as error:
            violation = str(error)
        except Exception as error:  # what a user would see as a stack trace
            where = traceback.extract_tb(error.__traceback__)[-1]
            name = f"{Path(where.filename).name}:{where.lineno}"
            violation = f"{type(error).__name__} at {name}: {error}"
        for process in list(world.processes):
            process.die("is over")
        self.dice.calm = True
        for process in list(world.processes):
            process._reap()
        stream._JOINED = joined
        return Outcome(
            world.seed,
            world.digest,
            world.events,
            world.now,
            dict(self.dice.counts),
            list(self.dice.fired),
            self._starts,
            violation,
        )

    def _finish(self) -> None:
        world = self.world
        calm = int(_CALM * _PUSHES)
        world.run(lambda: sum(self._checker.model.pushes) >= calm, _LONGEST)
        world.note("calm")
        self.dice.calm = True
        limit = world.now + _PATIENCE
        if not world.run(lambda: self._result is not None, limit):
            raise ViolationError(
                f"{_PATIENCE:.0f} s without a fault, and the run has not ended: "
                f"{self._checker.model.pushes} pushes"
            )
        assert self._result is not None
        checks.require_replay(self._result, self.training)
        checks.require_decisions(self._result, self.training)
        if not world.run(lambda: not world.processes, world.now + 300.0):
            names = ", ".join(process.name for process in world.processes)
            raise ViolationError(f"the run has ended, but not {names}")

    # Processes.

    def _start(self, index: int) -> None:
        if self._result is not None:
            return
        world = self.world
        host = self._hosts["b" if index == 2 else "a"]
        self._starts += 1
        process = Process(world, host, f"process {index}", self._starts)
        world.processes.append(process)
        process.on_end = lambda error: self._exited(index, error)
        process.at_death.append(lambda: self._died(index))
        world.note(process.name, "starts")
        process.start(lambda: self._main(process, index))

    def _main(self, process: Process, index: int) -> None:
        process.pass_time(0.1 + process.world.random.random())  # imports
        system = self._system(process)
        table = 0.02 + np.random.default_rng(index).exponential(0.1, 512)
        straggling = {index: StragglerInjection(1.0, table * (1 + index))}
        functions: Any = _Functions(self.training.functions, self.dice)
        job = self._job
        if index:  # the server computes again with the true ones
            job = dataclasses.replace(
                job, training=self.training._replace(functions=functions)
            )
        result = run.take_part(
            _Cluster(self, process, index),
            job,
            straggling,
            say=lambda line: process.world.note(process.name, "says:", line),
            system=system,
        )
        if index == 0 and result is not None and result.stopped == "end":
            self._result = result

    def _system(self, process: Process) -> System:
        files = disk.Files(process, self._flip)
        if process.name == "process 0":
            process.on_send = self._sent
        return System(
            os=files,
            time=threads.Clock(process),
            threading=threads.Threading(process),
            queue=threads.Queues(process),
            socket=sockets.Sockets(process, self._network),
            select=sockets.Select(process),
            fcntl=files,
            selectors=sockets.Selectors(process),
            signal=threads.Signals(process),
        )

    def _exited(self, index: int, error: BaseException | None) -> None:
        """A process has ended by itself: with a sentence, or it is a violation."""
        if error is None:
            return
        self.world.note(f"process {index} ends:", error)
        if not isinstance(error, _SENTENCES):
            self.world.fail(error)
        if index == 0 and isinstance(error, LogError):
            self._mend(str(error))
        if self.dice.calm and index == 0:
            self._hopeless += 1
            if self._hopeless > 5:
                self.world.fail(ViolationError(f"cannot be started again: {error}"))

    def _died(self, index: int) -> None:
        delay = 0.05 + 4 * self.world.random.random() ** 2
        self.world.at(delay, lambda: self._start(index))

    def served(self, address: dict[str, Any]) -> None:
        """The server has recovered and says where it is."""
        self.address = address
        content = self._log()
        if self._undo is not None and content is not None:
            if self._flipped_at < len(content):
                raise ViolationError("a flipped bit of the log was not noticed")
            self._undo = None  # it was in what a crash had cut short

    # Disks.

    def _log(self) -> bytearray | None:
        file = self._hosts["a"].files.get(str(OUT / logs.NAME))
        return None if file is None else file.content

    def _lost_power(self) -> None:
        host = self._hosts["a"]
        content = self._log() or b""
        if content[self._flipped_at : self._flipped_at + 1] != bytes(
            [self._flipped_to]
        ):
            self._undo = None  # the disk has what there was before
        self._lied = self._lied or not host.synced
        if not self._sync or not host.synced:
            self._checker.forget()
            host.synced = True
        self._checker.begin_again()

    def _flip(self, name: str, file: Any) -> None:
        """Damages a file that is opened, if the dice say so."""
        if not file.content:
            return
        is_log = name.endswith(logs.NAME)
        if is_log and self._undo is not None:
            return  # damaged already
        if is_log:
            self._checker.reopened()
        if not is_log and not name.endswith(".npz"):
            return
        if not self.dice.falls("flip_log" if is_log else "flip_checkpoint"):
            return
        at, bit = (
            self.world.random.randrange(len(file.content)),
            1 << self.world.random.randrange(8),
        )
        self.world.note(f"a bit of {name} is flipped at {at}")
        file.content[at] ^= bit

        def undo() -> None:
            file.content[at] ^= bit

        if is_log:
            self._undo = undo
            self._flipped_at, self._flipped_to = at, file.content[at]

    def _mend(self, sentence: str) -> None:
        """The operator does what the sentence says."""
        if self._undo is not None:
            self.world.note("the operator restores the log from a copy")
            self._undo()
            self._undo = None
            return
        if "damaged" not in sentence and "not a log" not in sentence:
            return
        content = self._log()
        assert content is not None
        try:
            _, _, end = logs.undamaged(bytes(content), OUT)
        except LogError:
            self.world.note("the operator removes the log")
            del self._hosts["a"].files[str(OUT / logs.NAME)]
            self._checker.forget()
            return
        self.world.note("the operator cuts the log, and has it written")
        del content[end:]
        self._hosts["a"].files[str(OUT / logs.NAME)].durable = bytes(content)
        if self._sync and not self._lied:  # it was in a write of which nobody was told
            self._checker.begin_again()
        else:
            self._checker.forget()

    # Events.

    def _after_event(self) -> None:
        self._checker.after_event(self.world.processes)
        self._stranger()

    def _sent(self, data: bytes) -> None:
        """The server has sent a message."""
        try:
            message = decode(data)
        except MessageError:
            return
        self._checker.sent(message)

    def _stranger(self) -> None:
        """Somebody comes who is no worker."""
        if self.address is not None and self.dice.falls("stranger"):
            self._strangers.come(self._hosts["a"], self.address)
