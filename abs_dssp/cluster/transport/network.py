"""Between hosts: TCP, with TLS 1.3 in which both sides show the run's key.

A peer without the key is hung up on before a message of its reaches us.
"""

import math
import selectors
import socket
from typing import Any

import numpy as np

from abs_dssp.cluster import addresses, memory
from abs_dssp.cluster.keys import Keys
from abs_dssp.cluster.messages import Kind, Message, MessageError
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.transport.base import (
    Channel,
    ClosedError,
    Event,
    Outbox,
    Peer,
    Sizes,
)
from abs_dssp.cluster.transport.stream import KeyRefusedError, Reader, Stream, Writer

_CONNECTING = 10.0  # seconds for a connection to be made
_PATIENCE = 60.0  # seconds for the server to take more of a message
_STRANGERS = 64  # connections of those who have not been answered yet
_LINGER = 0.5  # seconds for last words
_BACKLOG = 128


class NetworkChannel(Channel):
    """A worker on any host."""

    transport = "tcp"

    def __init__(
        self,
        endpoint: str,
        keys: Keys | None,
        spin: float = 0.0,
        system: System = REAL,
    ):
        """Connects.

        Args:
          endpoint: such as `tcp://10.0.0.1:5555`.
          keys: for TLS; None without encryption.
          spin: seconds to look for a message before sleeping.
          system: has sockets and the clock.

        Raises:
          OSError: if nobody listens there.
        """
        self._spin, self._now = spin, system.time.perf_counter
        self._os = system.os
        self._sizes: Sizes | None = None
        self._vectors: list[np.ndarray] = []
        self._latest = 0  # grant
        context = None if keys is None else keys.context(server=False)
        connection = system.socket.create_connection(
            addresses.parts(endpoint), timeout=_CONNECTING
        )
        try:
            self._stream = Stream(connection, context, seldom=not spin)
        except KeyRefusedError as error:
            connection.close()
            raise KeyRefusedError(
                f"the server at {endpoint} has another key; give every process the "
                "same --key_file"
            ) from error
        except BaseException:
            connection.close()
            raise
        self._reader = Reader(self._stream, self._room)
        self._writer = Writer(self._stream)
        self._readable, self._writable = system.select.poll(), system.select.poll()
        self._readable.register(self._stream.socket, system.select.POLLIN)
        self._writable.register(self._stream.socket, system.select.POLLOUT)

    def expect(self, sizes: Sizes) -> None:
        self._sizes = sizes
        # Two: one is computed from, one received. The latest grant is in the first.
        self._vectors = [memory.aligned(sizes.pull, sizes.pull_dtype) for _ in range(2)]

    def send(self, message: Message, vector: Any = None) -> None:
        array = None
        if vector is not None:
            array = np.asarray(vector)
            message.nbytes = array.nbytes
        self._writer.put(message, array)
        while True:
            try:
                return self._writer.flush()
            except BlockingIOError:
                if not self._writable.poll(1e3 * _PATIENCE):
                    raise ClosedError("the server takes nothing any more") from None

    def receive(self, seconds: float) -> Message | None:
        end = self._now() + seconds
        there = self._reader.has_more
        while there or self._wait(end):
            try:
                return self._reader.next()
            except BlockingIOError:  # less than a message
                there = False
        return None

    def _wait(self, end: float) -> bool:
        """Whether something comes until then."""
        now = self._now()
        if self._spin:
            until = min(now + self._spin, end)
            while not self._readable.poll(0) and (now := self._now()) < until:
                self._os.sched_yield()  # to whoever has something to do
        return bool(self._readable.poll(math.ceil(1e3 * max(end - now, 0))))

    def _room(self, message: Message) -> np.ndarray:
        if self._sizes is None:
            raise MessageError("a vector before the welcome.")
        if message.nbytes != self._sizes.pull:
            raise MessageError("a vector of another size.")
        if message.grant_id < self._latest:  # late: what is computed from must stay
            return self._vectors[1]
        if message.grant_id > self._latest:
            self._latest = message.grant_id
            self._vectors.reverse()
        return self._vectors[0]

    def close(self) -> None:
        self._stream.close()


class NetworkAcceptor:
    """The server's listening socket for workers of other hosts, and its connections."""

    def __init__(
        self,
        address: str,
        pool: memory.Pool,
        sizes: Sizes,
        keys: Keys | None,
        system: System = REAL,
        seldom: bool = False,
    ):
        """Listens.

        Args:
          address: `tcp://HOST:PORT`; port 0 takes a free one, see `endpoint`.
          pool: of versions.
          sizes: of the vectors.
          keys: for TLS; None without encryption.
          system: has sockets and the clock.
          seldom: see `Stream`.

        Raises:
          ValueError: if the port is taken or the address is not this host's.
        """
        self.pool, self.sizes, self._system = pool, sizes, system
        self.seldom = seldom
        self._context = None if keys is None else keys.context(server=True)
        host, port = addresses.parts(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = system.socket.create_server(
                (host, port), family=family, backlog=_BACKLOG
            )
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(
                f"cannot listen on {address}: {why}; choose another --listen=HOST:PORT."
            ) from None
        self._listener.setblocking(False)
        self.endpoint = addresses.endpoint(*self._listener.getsockname()[:2])
        self._selector: Any = None
        self._peers: dict[_NetworkPeer, None] = {}  # in the order of their coming
        self._unread: dict[_NetworkPeer, None] = {}  # in this order
        self._given: set[_NetworkPeer] = set()  # a message since the last `rest`
        self.refused = 0  # messages and connections
        self._strangers = 0

    def register(self, selector: Any) -> None:
        """Has the selector watch the listening socket, and later the connections.

        The data of every key is a function that returns what came.
        """
        self._selector = selector
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def has_more(self) -> bool:
        """Whether `rest` has something that the selector does not know of."""
        return bool(self._unread)

    def rest(self) -> list[Event]:
        """What had come together with messages before it, once those are dealt with.

        Called after the selector's, every time: a peer whose message has just been
        handed out is left alone, as its next one may take the place of the vector.
        """
        peers = [peer for peer in self._unread if peer not in self._given]
        for peer in peers:
            del self._unread[peer]
        events = [event for peer in peers for event in peer.receive()]
        self._given.clear()
        return events

    def _accept(self, _: int) -> list[Event]:
        try:
            connection, name = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # gone again
            return []
        except OSError:  # no descriptor is left
            self._make_room(0)
            return []
        self._make_room(_STRANGERS - 1)
        try:
            peer = _NetworkPeer(self, connection, name, self._context)
        except (OSError, ValueError):  # gone again
            connection.close()
            return []
        self._peers[peer] = None
        self._selector.register(peer.stream.socket, selectors.EVENT_READ, peer.serve)
        return []

    def _make_room(self, most: int) -> None:
        """Hangs up on those who came first of too many that nobody has answered."""
        unknown = [peer for peer in self._peers if not peer.known]
        for peer in unknown[: max(0, len(unknown) - most)]:
            self.refused += 1
            peer.close()

    def watch(self, peer: "_NetworkPeer", writable: bool) -> None:
        """Has a peer be flushed when it has room again, or no longer."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(peer.stream.socket, mask, peer.serve)

    def given(self, peer: "_NetworkPeer", more: bool) -> None:
        """A peer has given a message; there may be more that no selector knows of."""
        self._given.add(peer)
        if more:
            self._unread[peer] = None

    def turned_away(self, key: bool) -> None:
        """A connection was of no use; because of its key, or not."""
        self.refused += 1
        self._strangers += key

    def forget(self, peer: "_NetworkPeer") -> None:
        """A connection has ended."""
        self._unread.pop(peer, None)
        if self._peers.pop(peer, peer) is None:
            self._selector.unregister(peer.stream.socket)

    def strangers(self) -> int:
        """Connections refused for their key since the last call."""
        count, self._strangers = self._strangers, 0
        return count

    def close(self) -> None:
        """Closes the connections, after their last words."""
        self._listener.close()
        end = self._system.time.perf_counter() + _LINGER
        waiting = [peer for peer in self._peers if not peer.flush()]
        while waiting and self._system.time.perf_counter() < end:
            self._system.time.sleep(0.01)
            waiting = [peer for peer in waiting if not peer.flush()]
        for peer in list(self._peers):
            peer.close()


class _NetworkPeer(Peer):
    transport = "tcp"
    ends_with_its_process = False  # the connection may be lost, and made anew
    known = False  # whether it was welcomed, or its process is a known one

    def __init__(self, acceptor: NetworkAcceptor, connection: Any, name: Any, context):
        self._acceptor, self.name = acceptor, addresses.endpoint(*name[:2])[6:]
        seldom = acceptor.seldom
        self.stream = Stream(connection, context, server=True, seldom=seldom)
        self._reader = Reader(self.stream, self._room)
        self._writer = Writer(self.stream)
        self._outbox = Outbox()
        self._watched = False  # for room
        self._sending = -1  # the buffer of the pool that is being sent
        self._vector: np.ndarray | None = None  # where pushes are received

    def serve(self, mask: int) -> list[Event]:
        """What the connection has brought; sends on what it had no room for."""
        if mask & selectors.EVENT_WRITE:
            self.flush()
        return self.receive() if mask & selectors.EVENT_READ and self.open else []

    def receive(self) -> list[Event]:
        """The next message, if it is there; None for the end of the connection."""
        try:
            message = self._reader.next()
        except BlockingIOError:
            return []
        except (MessageError, ClosedError) as error:
            wrong_key = isinstance(error, KeyRefusedError)
            if wrong_key or isinstance(error, MessageError):
                self._acceptor.turned_away(wrong_key)
            self.close()
            return [(self, None)]
        message.buffer = -1
        self._acceptor.given(self, self._reader.has_more)
        return [(self, message)]

    def _room(self, message: Message) -> np.ndarray:
        if message.kind is not Kind.PUSH or not self.known:
            raise MessageError("an unexpected vector.")
        sizes = self._acceptor.sizes
        if message.nbytes != sizes.push:
            raise MessageError(f"{message.nbytes} bytes, expected {sizes.push}.")
        if self._vector is None:
            self._vector = memory.aligned(sizes.push, sizes.push_dtype)
        return self._vector

    def send(self, message: Message) -> None:
        if not self.open:
            return
        if message.kind in (Kind.WELCOME, Kind.HEARTBEAT_ACK):
            self.known = True
        self._outbox.put(message)
        self.flush()

    def flush(self) -> bool:
        """Sends what is in the outbox; false if there is no room for all of it."""
        while self.open:
            try:
                self._writer.flush()
            except BlockingIOError:
                break
            except ClosedError:  # its end will be read
                self._outbox.message = None
                self._let_go()
                break
            self._let_go()
            message, self._outbox.message = self._outbox.message, None
            if message is None:
                break
            self._put(message)
        waits = self.open and not self._writer.is_done
        if waits != self._watched and self.open:
            self._watched = waits
            self._acceptor.watch(self, waits)
        return not waits

    def _put(self, message: Message) -> None:
        vector, pool = None, self._acceptor.pool
        if message.buffer >= 0:
            self._sending = message.buffer
            pool.hold(self._sending)  # as long as it is sent
            vector = pool.arrays[self._sending]
            message.nbytes = vector.nbytes
            message.buffer = -1  # it travels
        self._writer.put(message, vector)

    def _let_go(self) -> None:
        """The version that was sent is needed no more."""
        if self._sending >= 0:
            self._acceptor.pool.drop(self._sending)
            self._sending = -1

    def close(self) -> None:
        if self.open:
            self.open = False
            self._let_go()
            self._acceptor.forget(self)
            self.stream.close()
