"""Time and threads of a simulation: whoever waits is woken in one order per seed.

Threads are greenlets: they switch only where they call their system, so nothing in a
history depends on the machine that makes it.
"""

import functools
import heapq
import random
import zlib
from collections.abc import Callable
from typing import Any

import greenlet

from abs_dssp.cluster.simulate.faults import Dice

_SPINNING = 20_000  # calls without any time between them
_DESCRIPTOR = 1_000_001  # the first one, far from those of the real system
Died = greenlet.GreenletExit  # raised in the threads of a process that has died


class World:
    """Everything outside of the processes. `now` is in seconds."""

    def __init__(self, seed: int, dice: Dice, say: Callable[[str], None] | None = None):
        self.seed, self.dice = seed, dice
        self.random = random.Random(f"world {seed}")
        self.hub = greenlet.getcurrent()  # runs whenever no thread does
        self.now = 0.0
        self.events = 0
        self.digest = 0  # of the history so far
        self.processes: list[Process] = []
        self.after_event: Callable[[], None] = lambda: None
        self._say = say
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._failure: BaseException | None = None

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Does something so many seconds from now."""
        self.at_time(self.now + seconds, what)

    def at_time(self, when: float, what: Callable[[], None]) -> None:
        """Does something at this time."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, what))

    def soon(self, what: Callable[[], None]) -> None:
        """Does something after a short while, which differs from case to case."""
        luck = self.random.random()
        late = 0.1 * self.random.random() if luck > 0.98 else 0.0  # others run first
        self.at(1e-5 + 1e-3 * luck**4 + late, what)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Lets time pass; whether `until` held before so many seconds had passed."""
        while not until():
            if not self._heap or self._heap[0][0] > limit:
                return False
            self.now, _, what = heapq.heappop(self._heap)
            what()
            self.events += 1
            if self._failure is not None:
                raise self._failure
            self.after_event()
        return True

    def note(self, *words: Any) -> None:
        """A line of the history."""
        line = f"{self.now:12.6f} " + " ".join(map(str, words))
        self.digest = zlib.crc32(line.encode(), self.digest)
        if self._say is not None:
            self._say(line)

    def fail(self, error: BaseException) -> None:
        """Ends the simulation with this error after the present event."""
        self._failure = self._failure or error


class Signal:
    """Tells waiting threads to look again."""

    def __init__(self, world: World):
        self._world = world
        self._waiting: list[Thread] = []

    def add(self, thread: "Thread") -> None:
        """The thread waits for this."""
        self._waiting.append(thread)

    def remove(self, thread: "Thread") -> None:
        """It does no more."""
        if thread in self._waiting:
            self._waiting.remove(thread)

    def notify(self) -> None:
        """Something has changed."""
        for thread in self._waiting:
            thread.wake()


class Thread:
    """A thread of a simulated process."""

    def __init__(self, process: "Process", target: Callable[[], None], name: str):
        self.process, self.name = process, name
        self.ended = Signal(process.world)
        self.alive = False
        self._world = process.world
        self._greenlet = greenlet.greenlet(self._run, process.world.hub)
        self._target = target
        self._woken = 0  # number of the latest wait that is to end

        self._waits = 0

    def start(self) -> None:
        """Starts it after a short while."""
        self.alive = True
        self.process.threads.append(self)
        self._world.soon(self._switch)

    def wake(self) -> None:
        """Ends its present wait after a short while."""
        if self._woken < self._waits:
            self._woken = number = self._waits
            self._world.soon(lambda: self._resume(number))

    def wait(
        self, signals: list[Signal], ready: Callable[[], bool], seconds: float | None
    ) -> bool:
        """Waits until `ready`, asked when a signal comes; false if time is over.

        Called by the thread itself.
        """
        # What takes time takes a microsecond: adding less might not move the clock.
        least = 0.0 if seconds is None or seconds <= 0 else max(seconds, 1e-6)
        end = None if seconds is None else self._world.now + least
        while not ready():
            if end is not None and self._world.now >= end:
                return False
            self._waits += 1
            for signal in signals:
                signal.add(self)
            if end is not None:
                resume = functools.partial(self._resume, self._waits)
                self._world.at_time(end, resume)
            try:
                self._world.hub.switch()
            finally:
                for signal in signals:
                    signal.remove(self)
            self._require_life()
        return True

    def _require_life(self) -> None:
        process = self.process
        if not process.alive:
            raise Died
        while process.paused_until > self._world.now:
            self._waits += 1
            resume = functools.partial(self._resume, self._waits)
            self._world.at_time(process.paused_until, resume)
            self._world.hub.switch()
            if not process.alive:
                raise Died

    def end(self) -> None:
        """Unwinds the thread of a dead process; called from outside."""
        if self.alive:
            self._greenlet.throw()
            self.alive = False

    def _resume(self, number: int) -> None:
        if number == self._waits:
            self._waits += 1
            self._woken = self._waits
            self._switch()

    def _switch(self) -> None:
        if self.process.alive and self.alive:
            self._greenlet.switch()

    def _run(self) -> None:
        try:
            self._require_life()
            self._target()
        except Died:
            pass
        except BaseException as error:
            if self.process.alive:
                self.process.crashed(self, error)
        finally:
            self.alive = False
            self.ended.notify()


class Handle:
    """What a process has opened: gone when it is closed, or when its process dies."""

    def __init__(self, process: "Process"):
        self.process = process
        self.changed = Signal(process.world)  # for those who wait for it
        self.is_open = True
        self.descriptor = process.descriptor(self)
        process.at_death.append(self.drop)

    def close(self) -> None:
        """Closes it, as its process asks."""
        if not self.process.alive:
            raise Died
        if self.is_open:
            self.process.at_death.remove(self.drop)
            del self.process.open[self.descriptor]
            self.drop()

    def drop(self) -> None:
        """It is gone."""
        self.is_open = False


class Process:
    """A simulated process: its threads and what the system holds for it."""

    def __init__(self, world: World, host: Any, name: str, number: int):
        self.world, self.host, self.name, self.number = world, host, name, number
        self.alive = True
        self.paused_until = 0.0
        self.selected = 0.0  # when it last looked at its sockets
        self.threads: list[Thread] = []
        self.handlers: dict[int, Any] = {}  # of signals
        self.open: dict[int, Any] = {}  # descriptors
        self.at_death: list[Callable[[], None]] = []
        self.on_send: Callable[[bytes], None] = lambda data: None  # before it is sent
        self.on_end: Callable[[BaseException | None], None] = lambda error: None
        self.random = random.Random(f"process {world.seed} {name} {number}")
        self._calls, self._called = 0, 0.0  # at one time, and when

    def start(self, main: Callable[[], None]) -> None:
        """Runs `main` in the process's main thread; its end is the process's."""

        def run():
            main()
            self.die("ends")

        self.main = Thread(self, run, "main")
        self.main.start()

    def current(self) -> Thread:
        """The thread that calls its system now."""
        found = greenlet.getcurrent()
        for thread in self.threads:
            if thread._greenlet is found:
                return thread
        raise RuntimeError(f"{self.name}: called from outside of its threads")

    def call(self) -> None:
        """Every call of the system passes here: it may be the last one."""
        if not self.alive:
            raise Died
        dice, world = self.world.dice, self.world
        self._calls = self._calls + 1 if world.now == self._called else 0
        self._called = world.now
        if self._calls > _SPINNING:
            world.fail(RuntimeError(f"{self.name} spins without end"))
            self.die("spins")
            raise Died
        if dice.falls("kill"):
            self.die("is killed")
            raise Died
        if dice.falls("power"):
            self.host.lose_power()
            raise Died
        if dice.falls("pause"):
            seconds = 30 * world.random.random() ** 3
            world.note(self.name, f"stops for {seconds:.3f} s")
            self.paused_until = world.now + seconds
        if dice.falls("wall_jump"):
            self.host.date_offset += world.random.uniform(-86400, 86400)
            world.note(self.host.name, "has its date changed")
        if dice.falls("signal") and 15 in self.handlers:
            world.note(self.name, "gets SIGTERM")
            self.handlers[15](15, None)
        if self.paused_until > world.now or dice.falls("preempt"):
            self.pass_time(1e-4 * world.random.random())

    def pass_time(self, seconds: float) -> None:
        """Has the calling thread wait; others go on."""
        self.current().wait([], lambda: False, seconds)

    def descriptor(self, what: Any) -> int:
        """A descriptor: the lowest that is free, so numbers come again."""
        number = _DESCRIPTOR
        while number in self.open:
            number += 1
        self.open[number] = what
        return number

    def crashed(self, thread: Thread, error: BaseException) -> None:
        """An error has ended a thread."""
        if thread is self.main:
            self.on_end(error)
            self.die("ends")
        else:
            self.world.fail(error)

    def die(self, how: str) -> None:
        """Everything that the process was is gone."""
        if not self.alive:
            return
        self.world.note(self.name, how)
        self.alive = False
        for release in list(self.at_death):
            release()
        self.open.clear()
        self.world.at(0.0, self._reap)

    def _reap(self) -> None:
        for thread in self.threads:
            thread.end()
        self.threads.clear()
        self.world.processes.remove(self)
