"""On one host: vectors in shared memory, headers over a Unix socket.

The socket's end tells that a process died. A worker's pushes go through a ring of its
own; versions lie in buffers that all workers map, so a version is copied once.
"""

import os
import selectors
import socket
import struct
from typing import Any

import numpy as np

from abs_dssp.cluster import memory, messages
from abs_dssp.cluster.messages import Kind, Message, MessageError
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.transport.base import (
    Channel,
    ClosedError,
    Event,
    Outbox,
    Peer,
    Sizes,
    fill,
)

_SLOTS = 2  # pushes that a worker's ring holds
_LIMIT = messages.HEADER_BYTES + messages.MAX_TEXT  # bytes of a message
_PATIENCE = 1000.0  # milliseconds to wait for room before trying again
_DESCRIPTORS = 8  # taken with a message; it should have one at most


class SharedChannel(Channel):
    """A worker on the server's host."""

    transport = "shm"

    def __init__(self, address: str, spin: float = 0.0, system: System = REAL):
        """Connects.

        Args:
          address: of the server's socket, an abstract name.
          spin: seconds to look for a message before sleeping.
          system: has the sockets and the clock.

        Raises:
          OSError: if nobody listens there.
        """
        self._system, self._now = system, system.time.perf_counter
        self._socket = _socket(system)
        try:
            self._socket.connect("\0" + address)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._poll, self._room = system.select.poll(), system.select.poll()
        self._poll.register(self._socket, system.select.POLLIN)
        self._room.register(self._socket, system.select.POLLOUT)
        self._spin = spin
        self._ring: memory.Segment | None = None
        self._slots: list[np.ndarray] = []
        self._next = 0
        self._sizes: Sizes | None = None
        self._buffers: dict[int, np.ndarray] = {}

    def expect(self, sizes: Sizes) -> None:
        self._sizes = sizes
        step = -(-sizes.push // 64) * 64
        self._ring = memory.Segment(_SLOTS * step)
        self._slots = [
            self._ring.array(sizes.push_dtype, i * step, sizes.push)
            for i in range(_SLOTS)
        ]

    def send(self, message: Message, vector: Any = None) -> None:
        descriptors: list[int] = []
        if vector is not None:
            slot = self._next
            self._next = (slot + 1) % _SLOTS
            fill(self._slots[slot], vector)
            message.buffer, message.nbytes = slot, self._slots[slot].nbytes
        elif message.kind is Kind.READY and self._ring is not None:
            descriptors = [self._ring.descriptor]
        data = messages.encode(message)
        while True:
            try:
                if descriptors:
                    self._system.socket.send_fds(self._socket, [data], descriptors)
                else:
                    self._socket.send(data)
                return
            except BlockingIOError:
                self._room.poll(_PATIENCE)
            except OSError as error:
                raise ClosedError(str(error)) from error

    def receive(self, seconds: float) -> Message | None:
        if self._spin:
            end = self._now() + min(self._spin, seconds)
            while not self._poll.poll(0) and self._now() < end:
                self._system.os.sched_yield()  # to whoever has something to do
        if not self._poll.poll(max(seconds, 0) * 1e3):
            return None
        try:
            data, descriptors = _receive(self._system, self._socket)
        except BlockingIOError:  # there was nothing after all
            return None
        except OSError as error:
            raise ClosedError(str(error)) from error
        with _Closing(descriptors):
            if not data:
                raise ClosedError("the server has closed the connection")
            message = messages.decode(data)
            if message.buffer >= 0:
                message.payload = self._buffer(message.buffer, descriptors)
        return message

    def _buffer(self, index: int, descriptors: list[int]) -> np.ndarray:
        """The server's buffer of this index, with whose descriptor it came first."""
        if self._sizes is None:
            raise MessageError("a vector before the welcome.")
        if descriptors:
            segment = memory.Segment(self._sizes.pull, descriptors.pop())
            self._buffers[index] = segment.array(self._sizes.pull_dtype)
            segment.close()
        if index not in self._buffers:
            raise MessageError("a buffer that was never sent.")
        return self._buffers[index]

    def close(self) -> None:
        self._socket.close()
        if self._ring is not None:
            self._ring.close()


class SharedAcceptor:
    """The server's socket for workers on its host, and its connections."""

    def __init__(
        self, address: str, pool: memory.Pool, sizes: Sizes, system: System = REAL
    ):
        self.pool, self.sizes, self.system = pool, sizes, system
        self._listener = _socket(system)
        self._listener.bind("\0" + address)  # gone with the process
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._peers: dict[int, _SharedPeer] = {}
        self._selector: Any = None
        self.refused = 0  # messages and connections

    def register(self, selector: Any) -> None:
        """Has the selector watch the listening socket, and later the connections.

        The data of every key is a function that returns what came.
        """
        self._selector = selector
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, _: int) -> list[Event]:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return []
        process, user = whose(connection)
        if user != self.system.os.getuid():
            self.refused += 1
            connection.close()
            return []
        connection.setblocking(False)
        peer = _SharedPeer(self, connection, process)
        self._peers[connection.fileno()] = peer

        def serve(mask: int) -> list[Event]:
            return self._serve(peer, mask)

        assert self._selector is not None
        self._selector.register(connection, selectors.EVENT_READ, serve)
        return []

    def watch(self, peer: "_SharedPeer", writable: bool) -> None:
        """Has a peer be flushed when it has room again, or no longer."""
        if self._selector is None:
            return
        key = self._selector.get_key(peer.socket)
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(peer.socket, mask, key.data)

    def _serve(self, peer: "_SharedPeer", mask: int) -> list[Event]:
        """What a connection has brought; sends on what it had no room for."""
        if mask & selectors.EVENT_WRITE:
            peer.flush()
        if not mask & selectors.EVENT_READ:
            return []
        message = None
        try:
            message = peer.receive()
        except (MessageError, ValueError):
            self.refused += 1
        except BlockingIOError:
            return []
        except OSError:
            pass
        if message is None:
            assert self._selector is not None
            self._selector.unregister(peer.socket)
            del self._peers[peer.socket.fileno()]
            peer.close()
        return [(peer, message)]

    def close(self) -> None:
        self._listener.close()
        for peer in list(self._peers.values()):
            peer.close()
        self._peers.clear()


class _SharedPeer(Peer):
    transport = "shm"

    def __init__(self, acceptor: SharedAcceptor, connection: Any, process: int):
        self.socket, self._acceptor = connection, acceptor
        self._pool, self._sizes = acceptor.pool, acceptor.sizes
        self._system = acceptor.system
        self.name = f"pid {process}"
        self._outbox = Outbox()
        self._slots: list[np.ndarray] = []
        self._known: set[int] = set()  # buffers whose descriptor was sent

    def receive(self) -> Message | None:
        """The next message; None at the end of the connection."""
        descriptors: list[int] = []
        if self._slots:  # whoever sends descriptors now loses them
            data = self.socket.recv(_LIMIT)
        else:
            data, descriptors = _receive(self._system, self.socket)
        with _Closing(descriptors):
            if not data:
                return None
            message = messages.decode(data)
            if message.kind is Kind.READY and descriptors:
                self._map(descriptors.pop())
        if message.kind is Kind.PUSH:
            sizes = self._sizes
            if not 0 <= message.buffer < len(self._slots):
                raise MessageError(f"no slot {message.buffer} in the ring.")
            if message.nbytes != sizes.push:
                raise MessageError(f"{message.nbytes} bytes, expected {sizes.push}.")
            message.payload = self._slots[message.buffer]
        return message

    def _map(self, descriptor: int) -> None:
        """Takes the worker's ring of pushes."""
        size, dtype = self._sizes.push, self._sizes.push_dtype
        step = -(-size // 64) * 64
        ring = memory.Segment(_SLOTS * step, descriptor)
        self._slots = [ring.array(dtype, i * step, size) for i in range(_SLOTS)]
        ring.close()

    def send(self, message: Message) -> None:
        if not self.open:
            return
        waited = self._outbox.message is not None
        self._outbox.put(message)
        if not waited:
            self.flush()

    def flush(self) -> None:
        """Sends what is in the outbox, or asks to be told when there is room."""
        message = self._outbox.message
        if message is None or not self.open:
            return
        waited = self._waits
        try:
            self._transmit(message)
            self._outbox.message = None
        except BlockingIOError:
            pass
        except OSError:  # gone: the end of the connection is told by its descriptor
            self.open = False
            self._outbox.message = None
        self._waits = self._outbox.message is not None
        if self._waits != waited:
            self._acceptor.watch(self, self._waits)

    _waits = False  # whether it is watched for room

    def _transmit(self, message: Message) -> None:
        data = messages.encode(message)
        if message.buffer >= 0 and message.buffer not in self._known:
            segment = self._pool.segments[message.buffer]
            assert segment is not None
            send = self._system.socket.send_fds
            send(self.socket, [data], [segment.descriptor])
            self._known.add(message.buffer)
        else:
            self.socket.send(data)

    def close(self) -> None:
        self.open = False
        self.socket.close()


def whose(connection: Any) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    process, user, _ = struct.unpack("3i", told)
    return process, user


def _socket(system: System) -> Any:
    return system.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _receive(system: System, connection: Any) -> tuple[bytes, list[int]]:
    """The next message, and the descriptors that came with it."""
    receive = system.socket.recv_fds
    data, descriptors, _, _ = receive(connection, _LIMIT, _DESCRIPTORS)
    return data, descriptors


class _Closing:
    """Closes the descriptors that nobody has taken out of the list."""

    def __init__(self, descriptors: list[int]):
        self._descriptors = descriptors

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
