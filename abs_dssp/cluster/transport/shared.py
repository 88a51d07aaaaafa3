"""On one host: vectors in shared memory, headers over a Unix socket.

The socket's end tells that a process died. A worker's pushes go through a ring of its
own; versions lie in buffers that all workers map, so a version is copied once.
"""

import os
import select
import socket
import struct
import time
from typing import Any

import numpy as np

from abs_dssp.cluster import memory, messages
from abs_dssp.cluster.messages import Kind, Message, MessageError
from abs_dssp.cluster.transport.base import Channel, ClosedError, Event, Peer, Sizes

_SLOTS = 2  # pushes that a worker's ring holds


class SharedChannel(Channel):
    """A worker on the server's host."""

    transport = "shm"

    def __init__(self, address: str, spin: float = 0.0):
        """Connects.

        Args:
          address: of the server's socket, an abstract name.
          spin: seconds to look for a message before sleeping.

        Raises:
          OSError: if nobody listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect("\0" + address)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
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
            place = self._next
            self._next = (place + 1) % _SLOTS
            np.copyto(self._slots[place], np.asarray(vector))
            message.buffer, message.nbytes = place, self._slots[place].nbytes
        elif message.kind is Kind.READY and self._ring is not None:
            descriptors = [self._ring.descriptor]
        data = messages.encode(message)
        try:
            self._socket.setblocking(True)
            if descriptors:
                socket.send_fds(self._socket, [data], descriptors)
            else:
                self._socket.send(data)
        except OSError as error:
            raise ClosedError(str(error)) from error
        finally:
            self._socket.setblocking(False)

    def receive(self, seconds: float) -> Message | None:
        end = time.perf_counter() + min(self._spin, seconds)
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    messages.HEADER_BYTES + messages.MAX_TEXT, 64
                )
                break
            except BlockingIOError:
                if time.perf_counter() < end:
                    continue
            except OSError as error:
                raise ClosedError(str(error)) from error
            if not self._poll.poll(max(seconds, 0) * 1e3):
                return None
            end, seconds = 0.0, 0.0
        if not data:
            raise ClosedError("the server has closed the connection")
        message = messages.decode(data)
        if message.buffer >= 0:
            assert self._sizes is not None
            for _, _, packed in ancillary:
                (descriptor,) = struct.unpack_from("i", packed)
                segment = memory.Segment(self._sizes.pull, descriptor)
                self._buffers[message.buffer] = segment.array(self._sizes.pull_dtype)
                segment.close()
            message.payload = self._buffers[message.buffer]
        return message

    def close(self) -> None:
        self._socket.close()
        if self._ring is not None:
            self._ring.close()


class SharedAcceptor:
    """The server's socket for workers on its host, and its connections."""

    def __init__(self, address: str, pool: memory.Pool, sizes: Sizes):
        self._pool, self._sizes = pool, sizes
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("\0" + address)  # gone with the process
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._peers: dict[int, _SharedPeer] = {}
        self.refused = 0

    def filenos(self) -> list[int]:
        return [self._listener.fileno(), *self._peers]

    def ready(self, descriptor: int, poller: Any) -> list[Event]:
        """What came on one of the descriptors; registers new ones."""
        if descriptor == self._listener.fileno():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return []
            credentials = connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
            process, user, _ = struct.unpack("3i", credentials)
            if user != os.getuid():
                self.refused += 1
                connection.close()
                return []
            connection.setblocking(False)
            peer = _SharedPeer(connection, process, self._pool, self._sizes)
            self._peers[connection.fileno()] = peer
            poller.register(connection.fileno(), select.EPOLLIN)
            return []
        peer = self._peers[descriptor]
        try:
            message = peer.receive()
        except (MessageError, ValueError):
            self.refused += 1
            message = None
        except BlockingIOError:
            return []
        except OSError:
            message = None
        if message is None:
            poller.unregister(descriptor)
            del self._peers[descriptor]
            peer.close()
        return [(peer, message)]

    def close(self) -> None:
        self._listener.close()
        for peer in list(self._peers.values()):
            peer.close()
        self._peers.clear()


class _SharedPeer(Peer):
    transport = "shm"

    def __init__(self, connection: socket.socket, process: int, pool, sizes: Sizes):
        self._socket, self._pool, self._sizes = connection, pool, sizes
        self.name = f"pid {process}"
        self._slots: list[np.ndarray] = []
        self._known: set[int] = set()

    def receive(self) -> Message | None:
        """The next message; None at the end of the connection."""
        limit = messages.HEADER_BYTES + messages.MAX_TEXT
        ancillary: list[Any] = []
        if self._slots:
            data = self._socket.recv(limit)
        else:
            data, ancillary, _, _ = self._socket.recvmsg(limit, 64)
        descriptors = [struct.unpack_from("i", packed)[0] for *_, packed in ancillary]
        if not data:
            return None
        message = messages.decode(data)
        sizes = self._sizes
        step = -(-sizes.push // 64) * 64
        if message.kind is Kind.READY and descriptors:
            ring = memory.Segment(_SLOTS * step, descriptors.pop())
            self._slots = [
                ring.array(sizes.push_dtype, i * step, sizes.push)
                for i in range(_SLOTS)
            ]
            ring.close()
        for descriptor in descriptors:
            os.close(descriptor)
        if message.kind is Kind.PUSH:
            if not 0 <= message.buffer < len(self._slots):
                raise MessageError(f"no slot {message.buffer} in the ring.")
            if message.nbytes != sizes.push:
                raise MessageError(f"{message.nbytes} bytes, expected {sizes.push}.")
            message.payload = self._slots[message.buffer]
        return message

    def send(self, message: Message) -> None:
        if not self.open:
            return
        data = messages.encode(message)
        try:
            if message.buffer >= 0 and message.buffer not in self._known:
                segment = self._pool.segments[message.buffer]
                socket.send_fds(self._socket, [data], [segment.descriptor])
                self._known.add(message.buffer)
            else:
                self._socket.send(data)
        except OSError:  # gone, or stuck with a full socket
            self.open = False

    def close(self) -> None:
        self.open = False
        self._socket.close()
