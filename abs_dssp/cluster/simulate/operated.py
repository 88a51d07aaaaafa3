"""A run on simulated hosts, with an operator who starts again what ends.

What is run, and what must come of it, are a kind's: `scenario` and `fragments`.
"""

import abc
import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from abs_dssp.cluster import topology
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.messages import Message, MessageError, decode
from abs_dssp.cluster.server import ServerError, Training
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.simulate import checks, disk, network, sockets, threads
from abs_dssp.cluster.simulate.checks import ViolationError
from abs_dssp.cluster.simulate.disk import Host
from abs_dssp.cluster.simulate.faults import Dice, Faults
from abs_dssp.cluster.simulate.world import Process, World
from abs_dssp.cluster.system import System
from abs_dssp.cluster.transport import stream
from abs_dssp.cluster.worker import StragglerInjection
from abs_dssp.cluster.worker_errors import WorkerError
from abs_dssp.replay import Result
from abs_dssp.training import mesh

NUM_WORKERS = 3  # one for each process; 0 and 1 on host a, 2 on host b
OUT = Path("/run")
SETTINGS = Settings(
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
_CALM = 0.75  # of the pushes; no faults after that
_PATIENCE = 600.0  # seconds from the beginning of the calm to the run's end
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


class Place(topology.Cluster):
    """A process among the others."""

    def __init__(self, process: Process, index: int, options: topology.Options):
        mine = {index: jax.local_devices()[: options.devices_per_worker]}
        super().__init__(options, index, NUM_WORKERS, NUM_WORKERS, mine)
        self._process = process

    def host(self) -> dict[str, str]:
        return {"boot": self._process.host.name, "namespace": ""}

    def leave(self) -> None:
        pass


class Diverging:
    """A worker's functions, which give something that is not finite at times.

    Equal to those that they call, so that what is compiled for these is used.
    """

    def __init__(self, functions: Any, dice: Dice):
        self._functions, self._dice = functions, dice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diverging) and self._functions is other._functions

    def __hash__(self) -> int:
        return hash(self._functions)

    def compute(self, *arguments: Any) -> Any:
        """See `flat.Functions.compute`."""
        return self._spoiled(self._functions.compute(*arguments))

    def walk(self, *arguments: Any) -> Any:
        """See `flat.Functions.walk`."""
        return self._spoiled(self._functions.walk(*arguments))

    def _spoiled(self, result: Any) -> Any:
        if result is not None and self._dice.falls("nan"):
            vector, loss = result
            return jax.numpy.asarray(mesh.whole(vector)) * np.float32("nan"), loss
        return result


class Operated(abc.ABC):
    """One seed's run.

    Attributes:
      training: a `server.Training`.
      pushes: that end the run.
      longest: seconds of faults.
    """

    training: Training
    pushes: int
    longest = 2000.0
    _hopes = 5  # starts of process 0 in the calm that may fail, as on a full disk

    def __init__(
        self,
        seed: int,
        faults: Faults,
        only: frozenset[int] | None = None,
        say: Callable[[str], None] | None = None,
    ):
        """Nothing runs.

        Args:
          seed: decides everything.
          faults: their chances.
          only: numbers of the faults that happen; all by default.
          say: given every line of the history.
        """
        self.dice = Dice(seed, faults, only)
        self.world = world = World(seed, self.dice, say)
        self._network = network.Network(world)
        self._joined = stream._JOINED
        self._starts = self._hopeless = 0
        self._bounds = checks.Bounds()
        self._result: Result | None = None
        world.after_event = self._after_event
        self._prepare(seed)

    # What a kind is.

    @abc.abstractmethod
    def _prepare(self, seed: int) -> None:
        """What is trained, its hosts, and who watches over it."""

    @abc.abstractmethod
    def _host(self, index: int) -> Host:
        """Where a process runs."""

    @abc.abstractmethod
    def _take_part(
        self,
        process: Process,
        index: int,
        straggling: dict[int, StragglerInjection],
        system: System,
    ) -> Result | None:
        """What a process does."""

    @abc.abstractmethod
    def _logged(self) -> int:
        """Pushes so far."""

    @abc.abstractmethod
    def _check(self, result: Result) -> None:
        """What must be so at the end."""

    @abc.abstractmethod
    def _look(self) -> None:
        """What must be so after every event."""

    @abc.abstractmethod
    def _sent(self, process: Process, message: Message) -> None:
        """A process has sent a message."""

    @abc.abstractmethod
    def _flip(self, process: Process, name: str, file: Any) -> None:
        """Damages a file that is opened, if the dice say so."""

    @abc.abstractmethod
    def _mend(self, index: int, error: BaseException) -> None:
        """The operator does what a sentence says that has ended a process."""

    @abc.abstractmethod
    def _stranger(self) -> None:
        """Somebody comes who is no worker, if the dice say so."""

    # The run.

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
        calm = int(_CALM * self.pushes)
        world.run(lambda: self._logged() >= calm, self.longest)
        world.note("calm")
        self.dice.calm = True
        limit = world.now + _PATIENCE
        if not world.run(lambda: self._result is not None, limit):
            raise ViolationError(
                f"{_PATIENCE:.0f} s without a fault, and the run has not ended: "
                f"{self._logged()} pushes"
            )
        assert self._result is not None
        self._check(self._result)
        if not world.run(lambda: not world.processes, world.now + 300.0):
            names = ", ".join(process.name for process in world.processes)
            raise ViolationError(f"the run has ended, but not {names}")

    # Processes.

    def _start(self, index: int) -> None:
        if self._result is not None:
            return
        world = self.world
        self._starts += 1
        process = Process(world, self._host(index), f"process {index}", self._starts)
        world.processes.append(process)
        process.on_end = lambda error: self._exited(index, error)
        process.at_death.append(lambda: self._died(index))
        world.note(process.name, "starts")
        process.start(lambda: self._main(process, index))

    def _main(self, process: Process, index: int) -> None:
        process.pass_time(0.1 + process.world.random.random())  # imports
        table = 0.02 + np.random.default_rng(index).exponential(0.1, 512)
        straggling = {index: StragglerInjection(1.0, table * (1 + index))}
        system = self._system(process)
        result = self._take_part(process, index, straggling, system)
        if index == 0 and result is not None and result.stopped == "end":
            self._result = result

    def _system(self, process: Process) -> System:
        files = disk.Files(process, functools.partial(self._flip, process))
        process.on_send = functools.partial(self._passed, process)
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

    def _said(self, process: Process) -> Callable[[str], None]:
        return lambda line: self.world.note(process.name, "says:", line)

    def _exited(self, index: int, error: BaseException | None) -> None:
        """A process has ended by itself: with a sentence, or it is a violation."""
        if error is None:
            return
        self.world.note(f"process {index} ends:", error)
        if not isinstance(error, _SENTENCES):
            self.world.fail(error)
        self._mend(index, error)
        if self.dice.calm and index == 0:
            self._hopeless += 1
            if self._hopeless > self._hopes:
                self.world.fail(ViolationError(f"cannot be started again: {error}"))

    def _died(self, index: int) -> None:
        delay = 0.05 + 4 * self.world.random.random() ** 2
        self.world.at(delay, lambda: self._start(index))

    # Events.

    def _after_event(self) -> None:
        self._look()
        self._bounds.after_event(self.world.processes)
        self._stranger()

    def _passed(self, process: Process, data: bytes) -> None:
        """A process sends something."""
        try:
            message = decode(data)
        except MessageError:
            return
        self._sent(process, message)
