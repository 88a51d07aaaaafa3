"""Inside a process: queues and references, nothing is copied.

But for the push of a worker with several devices, whose parts are put together in one
of two buffers of the host.
"""

import contextlib
import math
from typing import Any

import numpy as np

from abs_dssp.cluster import memory
from abs_dssp.cluster.messages import Message
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.transport.base import (
    Channel,
    ClosedError,
    Event,
    Peer,
    Sizes,
    fill,
)
from abs_dssp.training import mesh


class Inbox:
    """Messages from the server's own process, and a way to wake its thread."""

    def __init__(self, system: System = REAL):
        self.system = system
        self._queue = system.queue.SimpleQueue()
        self._reader, self._writer = system.socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something."""
        return self._reader.fileno()

    def put(self, event: Event) -> None:
        """Adds a message; from any thread."""
        self._queue.put(event)
        self.wake()

    def wake(self) -> None:
        """Has the server's thread look around; from any thread, also after `close`."""
        with contextlib.suppress(OSError):  # full: it is awake already
            self._writer.send(b"w")

    def ready(self) -> list[Event]:
        """Everything that has come."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        events = []
        while not self._queue.empty():
            events.append(self._queue.get())
        return events

    def close(self) -> None:
        """Closes the descriptors."""
        self._reader.close()
        self._writer.close()


class ReferenceChannel(Channel):
    """A worker in the server's own process."""

    transport = "reference"

    def __init__(self, inbox: Inbox, pool: memory.Pool, name: str):
        self._inbox = inbox
        self._empty = inbox.system.queue.Empty
        self._peer = _ReferencePeer(pool, name, inbox.system)
        self._slots: list[np.ndarray] = []  # two, as a ring has; made for the first

    def send(self, message: Message, vector: Any = None) -> None:
        if not self._peer.open:
            raise ClosedError("the server has closed the connection")
        message.payload = vector
        if isinstance(vector, mesh.Shards):
            if not self._slots:
                nbytes = math.prod(vector.shape) * vector.dtype.itemsize
                self._slots = [memory.aligned(nbytes, vector.dtype) for _ in range(2)]
            self._slots.reverse()
            fill(self._slots[0], vector)
            message.payload = self._slots[0]
        self._inbox.put((self._peer, message))

    def receive(self, seconds: float) -> Message | None:
        try:
            message = self._peer.queue.get(timeout=max(seconds, 0))
        except self._empty:
            return None
        if message is None:
            raise ClosedError("the server has closed the connection")
        return message

    def expect(self, sizes: Sizes) -> None:
        del sizes

    def close(self) -> None:
        if self._peer.open:
            self._inbox.put((self._peer, None))


class _ReferencePeer(Peer):
    transport = "reference"

    def __init__(self, pool: memory.Pool, name: str, system: System):
        self._pool, self.name = pool, name
        self.queue = system.queue.SimpleQueue()  # None: the connection has ended

    def send(self, message: Message) -> None:
        if message.buffer >= 0:
            message.payload = self._pool.arrays[message.buffer]
        self.queue.put(message)

    def close(self) -> None:
        self.open = False
        self.queue.put(None)
