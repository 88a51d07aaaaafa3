"""Inside a process: queues and references, nothing is copied."""

import os
import queue
from typing import Any

from abs_dssp.cluster import memory
from abs_dssp.cluster.messages import Message
from abs_dssp.cluster.transport.base import Channel, ClosedError, Event, Peer, Sizes


class Inbox:
    """Messages from the server's own process, and a way to wake its thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._wake

    def put(self, event: Event) -> None:
        """From any thread."""
        self._queue.put(event)
        os.eventfd_write(self._wake, 1)

    def wake(self) -> None:
        """From any thread: the server looks at what it has been told."""
        os.eventfd_write(self._wake, 1)

    def ready(self) -> list[Event]:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        events = []
        while not self._queue.empty():
            events.append(self._queue.get())
        return events

    def close(self) -> None:
        os.close(self._wake)


class ReferenceChannel(Channel):
    """A worker in the server's own process."""

    transport = "reference"

    def __init__(self, inbox: Inbox, pool: memory.Pool, name: str):
        self._inbox = inbox
        self._peer = _ReferencePeer(pool, name)

    def send(self, message: Message, vector: Any = None) -> None:
        if not self._peer.open:
            raise ClosedError("the server has closed the connection")
        message.payload = vector
        self._inbox.put((self._peer, message))

    def receive(self, seconds: float) -> Message | None:
        try:
            message = self._peer.queue.get(timeout=max(seconds, 0))
        except queue.Empty:
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

    def __init__(self, pool: memory.Pool, name: str):
        self._pool, self.name = pool, name
        self.queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def send(self, message: Message) -> None:
        if message.buffer >= 0:
            message.payload = self._pool.arrays[message.buffer]
        self.queue.put(message)

    def close(self) -> None:
        self.open = False
        self.queue.put(None)
