"""Clock, threads, queues and signals of a simulated process."""

import collections
import queue
import signal
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster.messages import Message, encode
from abs_dssp.cluster.simulate.world import Died, Process, Signal, Thread


class Clock:
    """Stands in for the module `time`."""

    def __init__(self, process: Process):
        self._process = process

    def perf_counter(self) -> float:
        """Seconds of the simulation."""
        return self._process.world.now

    def time(self) -> float:
        """What the host takes for the date."""
        return 1.7e9 + self._process.world.now + self._process.host.date_offset

    def sleep(self, seconds: float) -> None:
        """Waits."""
        self._process.call()
        self._process.pass_time(seconds)


class Threading:
    """Stands in for the module `threading`."""

    def __init__(self, process: Process):
        self._process = process

    def current_thread(self) -> Thread:
        """The calling thread."""
        return self._process.current()

    def main_thread(self) -> Thread:
        """The process's first."""
        return self._process.main

    def Thread(  # noqa: N802
        self, target: Callable[..., None], args=(), name: str = "", daemon: bool = False
    ) -> "_Handle":
        """A thread, not started."""
        del daemon  # all end with their process
        return _Handle(self._process, lambda: target(*args), name)

    def Event(self) -> "_Event":  # noqa: N802
        """An event, not set."""
        return _Event(self._process)


class _Handle:
    """A thread as its process sees it."""

    def __init__(self, process: Process, target: Callable[[], None], name: str):
        self._process = process
        self._thread = Thread(process, target, name)

    def start(self) -> None:
        self._process.call()
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.alive

    def join(self, timeout: float | None = None) -> None:
        self._process.call()
        thread = self._thread
        ended = lambda: not thread.alive  # noqa: E731
        self._process.current().wait([thread.ended], ended, timeout)


class _Event:
    def __init__(self, process: Process):
        self._process, self._set = process, False
        self._changed = Signal(process.world)

    def set(self) -> None:
        self._set = True
        self._changed.notify()

    def is_set(self) -> bool:
        if not self._process.alive:
            raise Died
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        self._process.call()
        current = self._process.current()
        return current.wait([self._changed], lambda: self._set, timeout)


class Queues:
    """Stands in for the module `queue`."""

    Empty = queue.Empty

    def __init__(self, process: Process):
        self._process = process

    def SimpleQueue(self) -> "_Queue":  # noqa: N802
        """An empty queue."""
        return _Queue(self._process)


class _Queue:
    def __init__(self, process: Process):
        self._process = process
        self._items: collections.deque[Any] = collections.deque()
        self._changed = Signal(process.world)

    def put(self, item: Any) -> None:
        if isinstance(item, Message):
            self._process.on_send(encode(item))
        self._items.append(item)
        self._changed.notify()

    def empty(self) -> bool:
        if not self._process.alive:
            raise Died
        return not self._items

    def get(self, timeout: float | None = None) -> Any:
        self._process.call()
        current = self._process.current()
        if not current.wait([self._changed], lambda: bool(self._items), timeout):
            raise queue.Empty
        return self._items.popleft()


class Signals:
    """Stands in for the module `signal`."""

    SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM
    Signals = signal.Signals

    def __init__(self, process: Process):
        self._process = process

    def signal(self, number: int, handler: Any) -> Any:
        """Sets a handler; gives the old one."""
        handlers = self._process.handlers
        old = handlers.get(number)
        handlers[number] = handler
        if handler is None:
            del handlers[number]
        return old
