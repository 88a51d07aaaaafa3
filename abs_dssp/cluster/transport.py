"""Channels between workers and server, three kinds behind one interface.

`reference`: inside a process, queues and references. `shm`: on one host, vectors in
shared memory, headers over a Unix socket, whose end tells that a process died. `zmq`:
between hosts, ZeroMQ with CURVE. The server's thread owns every server-side object; a
channel belongs to its worker's thread. Nothing is pickled.
"""

import os
import queue
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from abs_dssp.cluster import memory, messages
from abs_dssp.cluster.keys import Keys
from abs_dssp.cluster.messages import Kind, Message, MessageError

NAMES = ("auto", "reference", "shm", "zmq")
_SLOTS = 2  # pushes of one worker that the ring holds


class ClosedError(ConnectionError):
    """The other side is gone."""


class Sizes(NamedTuple):
    """Bytes of the vectors, and their formats."""

    push: int
    push_dtype: np.dtype
    pull: int
    pull_dtype: np.dtype


class Channel(Protocol):
    """A worker's end."""

    transport: str

    def send(self, message: Message, vector: Any = None) -> None:
        """Sends; a vector is copied at most once."""

    def receive(self, seconds: float) -> Message | None:
        """The next message, with its vector in `payload`; None if none comes."""

    def expect(self, sizes: Sizes) -> None:
        """Tells the sizes, before the first vector."""

    def close(self) -> None:
        """Ends the connection."""


class Peer:
    """The server's end of a channel."""

    transport = ""
    name = "?"
    open = True

    def send(self, message: Message) -> None:
        """Sends; never blocks, never raises: who cannot be reached is `open` no more.

        A vector is named by `message.buffer`, its place in the pool of versions.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Ends the connection."""


Event = tuple[Peer, Message | None]  # None: the connection has ended


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


class ReferenceChannel:
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


class SharedChannel:
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
        if self._slots:
            data, ancillary = self._socket.recv(limit), []
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


class NetworkChannel:
    """A worker on any host."""

    transport = "zmq"

    def __init__(self, endpoint: str, keys: Keys | None):
        """Connects in the background; ZeroMQ reconnects by itself.

        Args:
          endpoint: such as `tcp://10.0.0.1:5555`.
          keys: for CURVE; None without encryption.
        """
        import zmq

        self._zmq = zmq
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.routing_id = b"w" + os.urandom(15)
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = 100, 5000
        if keys is not None:
            self._socket.curve_serverkey = keys.server_public
            self._socket.curve_publickey = keys.client_public
            self._socket.curve_secretkey = keys.client_secret
        self._sizes: Sizes | None = None
        self._socket.connect(endpoint)

    def expect(self, sizes: Sizes) -> None:
        self._sizes = sizes

    def send(self, message: Message, vector: Any = None) -> None:
        frames: list[Any] = []
        if vector is not None:
            array = np.asarray(vector)
            message.nbytes = array.nbytes
            frames = [_bytes(array)]
        try:
            self._socket.send_multipart(
                [messages.encode(message), *frames], self._zmq.NOBLOCK, copy=False
            )
        except self._zmq.Again:
            pass  # not connected: the message is sent again later
        except self._zmq.ZMQError as error:
            raise ClosedError(str(error)) from error

    def receive(self, seconds: float) -> Message | None:
        if not self._socket.poll(max(seconds, 0) * 1e3):
            return None
        head, *rest = self._socket.recv_multipart(copy=False)
        message = messages.decode(head.buffer)
        if message.nbytes:
            assert self._sizes is not None
            if len(rest) != 1 or len(rest[0].buffer) != self._sizes.pull:
                raise MessageError("a vector of another size.")
            message.payload = np.frombuffer(rest[0].buffer, self._sizes.pull_dtype)
        return message

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class NetworkAcceptor:
    """The server's ZeroMQ socket."""

    def __init__(
        self, address: str, pool: memory.Pool, sizes: Sizes, keys: Keys | None
    ):
        """Listens.

        Args:
          address: `tcp://HOST:PORT`; port 0 takes a free one, see `endpoint`.
          pool: of versions.
          sizes: of the vectors.
          keys: for CURVE; None without encryption.

        Raises:
          ValueError: if the port is taken or the address is not this host's.
        """
        import zmq
        import zmq.auth.thread

        self._zmq = zmq
        self._pool, self._sizes = pool, sizes
        self._context = zmq.Context()
        self._authenticator = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.router_handover = 1
        self._socket.router_mandatory = 1
        self._socket.maxmsgsize = max(
            sizes.push, messages.HEADER_BYTES + messages.MAX_TEXT
        )
        if keys is not None:
            authenticator = zmq.auth.thread.ThreadAuthenticator(self._context)
            authenticator.start()
            authenticator.configure_curve_callback("*", _Known(keys.client_public))
            self._authenticator = authenticator
            self._socket.curve_server = True
            self._socket.curve_publickey = keys.server_public
            self._socket.curve_secretkey = keys.server_secret
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(
                f"cannot listen on {address}: {error.strerror}; choose another port."
            ) from None
        self.endpoint: str = self._socket.last_endpoint.decode().rstrip("\0")
        self._peers: dict[bytes, _NetworkPeer] = {}
        self.refused = 0

    def filenos(self) -> list[int]:
        return [self._socket.getsockopt(self._zmq.FD)]

    def ready(self) -> list[Event]:
        """Everything that has come; its descriptor tells of changes only."""
        events: list[Event] = []
        while True:
            try:
                identity, *frames = self._socket.recv_multipart(
                    self._zmq.NOBLOCK, copy=False
                )
            except self._zmq.Again:
                return events
            name = bytes(identity.buffer)
            peer = self._peers.get(name)
            if peer is None:
                self._peers = {k: p for k, p in self._peers.items() if p.open}
                address = identity.get("Peer-Address") or "?"
                peer = self._peers[name] = _NetworkPeer(self, name, str(address))
            try:
                events.append((peer, self._message(frames)))
            except MessageError:
                self.refused += 1

    def _message(self, frames: Sequence[Any]) -> Message:
        if not 1 <= len(frames) <= 2:
            raise MessageError(f"{len(frames)} frames.")
        message = messages.decode(frames[0].buffer)
        message.buffer = -1
        if message.kind is Kind.PUSH:
            size = self._sizes.push
            if len(frames) != 2 or len(frames[1].buffer) != size:
                raise MessageError("a push without its vector, or of another size.")
            if message.nbytes != size:
                raise MessageError(f"{message.nbytes} bytes, expected {size}.")
            message.payload = np.frombuffer(frames[1].buffer, self._sizes.push_dtype)
        elif len(frames) != 1:
            raise MessageError("an unexpected vector.")
        return message

    def send(self, identity: bytes, message: Message) -> bool:
        frames: list[Any] = [identity]
        vector = None
        if message.buffer >= 0:
            vector = self._pool.arrays[message.buffer]
            message.nbytes, message.buffer = vector.nbytes, -1
        frames.append(messages.encode(message))
        if vector is not None:
            frames.append(_bytes(vector))
        try:
            self._socket.send_multipart(frames, self._zmq.NOBLOCK, copy=False)
        except self._zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()


class _Known:
    """Accepts one public key, as ZeroMQ's authenticator asks."""

    def __init__(self, key: bytes):
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        del domain
        import zmq.utils.z85

        return zmq.utils.z85.encode(key) == self._key


class _NetworkPeer(Peer):
    transport = "zmq"

    def __init__(self, acceptor: NetworkAcceptor, identity: bytes, address: str):
        self._acceptor, self._identity, self.name = acceptor, identity, address

    def send(self, message: Message) -> None:
        if self.open and not self._acceptor.send(self._identity, message):
            self.open = False

    def close(self) -> None:
        self.open = False


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array without a copy, also of formats that Python lacks."""
    return memoryview(array.view(np.uint8))
