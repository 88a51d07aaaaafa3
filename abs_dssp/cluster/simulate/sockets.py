"""Sockets within a simulated host and beyond, `select` and `selectors` over them."""

import collections
import errno
import os
import select as real_select
import selectors as real_selectors
import socket as real_socket
import struct
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster.simulate import tcp
from abs_dssp.cluster.simulate.network import Network
from abs_dssp.cluster.simulate.world import Handle, Process

USER = 1000  # whose all processes are
_ROOM = 12  # packets that a connection holds


class Socket(Handle):
    """A socket of a process; packets, as in SOCK_SEQPACKET."""

    def __init__(self, process: Process):
        super().__init__(process)
        self.packets: collections.deque[tuple[bytes, list[int]]] = collections.deque()
        self.waiting: collections.deque[Socket] = collections.deque()  # to be accepted
        self.other: Socket | None = None
        self.ended, self._blocking = False, True
        self._name: str | None = None

    # What a selector looks at.

    def readable(self) -> bool:
        return bool(self.packets or self.waiting or self.ended)

    def writable(self) -> bool:
        return self.ended or (self.other is None or len(self.other.packets) < _ROOM)

    # As in the module.

    def fileno(self) -> int:
        return self.descriptor if self.is_open else -1

    def setblocking(self, blocking: bool) -> None:
        self._blocking = blocking

    def bind(self, name: str) -> None:
        self.process.call()
        self._name = name
        self.process.host.listening[name] = self

    def listen(self, backlog: int) -> None:
        del backlog

    def connect(self, name: str) -> None:
        self.process.call()
        listener = self.process.host.listening.get(name)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        self.other = there = Socket(listener.process)
        there.other = self
        listener.waiting.append(there)
        listener.changed.notify()

    def accept(self) -> tuple["Socket", None]:
        self.process.call()
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return self.waiting.popleft(), None

    def getsockopt(self, *_: Any) -> bytes:
        other = self.other.process if self.other else self.process
        return struct.pack("3i", 1000 + other.number, USER, 1000)

    def send(self, data: Any, descriptors: list[int] | None = None) -> int:
        self.process.call()
        if not self.is_open:
            raise OSError(errno.EBADF, "Bad file descriptor")
        while not self.writable():
            if not self._blocking:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            self.process.current().wait([self.changed], self.writable, None)
        if self.ended or self.other is None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        self.process.on_send(bytes(data))
        copies = [os.dup(number) for number in descriptors or []]
        self.other.packets.append((bytes(data), copies))
        self.other.changed.notify()
        return len(data)

    def receive(self, limit: int) -> tuple[bytes, list[int]]:
        """One packet with its descriptors; empty at the connection's end."""
        self.process.call()
        if not self.is_open:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if not self.packets:
            if self.ended:
                return b"", []
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        data, descriptors = self.packets.popleft()
        if self.other is not None:
            self.other.changed.notify()
        return data[:limit], descriptors

    def recv(self, limit: int) -> bytes:
        data, descriptors = self.receive(limit)
        for number in descriptors:
            os.close(number)
        return data

    def drop(self) -> None:
        """The socket is gone, with its process or without."""
        super().drop()
        host = self.process.host
        if self._name is not None and host.listening.get(self._name) is self:
            del host.listening[self._name]
        for there in list(self.waiting):
            there.drop()
        for _, descriptors in self.packets:
            for number in descriptors:
                os.close(number)
        self.packets.clear()
        if self.other is not None:
            self.other.ended = True
            self.other.changed.notify()


class Sockets:
    """Stands in for the module `socket`."""

    AF_UNIX, SOCK_SEQPACKET = real_socket.AF_UNIX, real_socket.SOCK_SEQPACKET

    def __init__(self, process: Process, network: Network):
        self._process, self._network = process, network

    def socket(self, *_: Any) -> Socket:
        self._process.call()
        return Socket(self._process)

    def create_connection(
        self, address: tuple[str, int], timeout: float
    ) -> tcp.Connection:
        return tcp.connect(self._process, self._network, address, timeout)

    def create_server(
        self, address: tuple[str, int], *, family: int, backlog: int
    ) -> tcp.Listener:
        del family, backlog
        self._process.call()
        return tcp.Listener(self._process, self._network, address)

    def socketpair(self) -> tuple[Socket, Socket]:
        one, other = Socket(self._process), Socket(self._process)
        one.other, other.other = other, one
        return one, other

    def send_fds(self, connection: Socket, parts: list, descriptors: list[int]) -> int:
        return connection.send(b"".join(parts), descriptors)

    def recv_fds(self, connection: Socket, limit: int, most: int):
        data, descriptors = connection.receive(limit)
        for number in descriptors[most:]:
            os.close(number)
        return data, descriptors[:most], 0, None


class Select:
    """Stands in for the module `select`."""

    POLLIN, POLLOUT = real_select.POLLIN, real_select.POLLOUT

    def __init__(self, process: Process):
        self._process = process

    def poll(self) -> "_Poll":
        return _Poll(self._process)


class _Poll:
    """Watches one socket, for one thing."""

    def __init__(self, process: Process):
        self._process = process

    def register(self, connection: Any, mask: int) -> None:
        reads = mask == real_select.POLLIN
        self._ready = connection.readable if reads else connection.writable
        self._changed = connection.changed

    def poll(self, milliseconds: float) -> bool:
        self._process.call()
        thread = self._process.current()
        return thread.wait([self._changed], self._ready, milliseconds / 1e3)


class Selectors:
    """Stands in for the module `selectors`."""

    EVENT_READ, EVENT_WRITE = real_selectors.EVENT_READ, real_selectors.EVENT_WRITE

    def __init__(self, process: Process):
        self._process = process

    def DefaultSelector(self) -> "_Selector":  # noqa: N802
        return _Selector(self._process)


class _Selector:
    """Watches everything that has a descriptor here."""

    def __init__(self, process: Process):
        self._process = process
        self._keys: dict[int, real_selectors.SelectorKey] = {}
        self._things: dict[int, Any] = {}  # a closed one is watched no more

    def register(self, thing: Any, mask: int, data: Callable) -> None:
        number = thing.fileno()
        if number < 0:
            raise ValueError(f"Invalid file descriptor: {number}")
        if number in self._keys:
            raise KeyError(f"{thing!r} (FD {number}) is already registered")
        self._keys[number] = real_selectors.SelectorKey(thing, number, mask, data)
        self._things[number] = self._process.open[number]

    def unregister(self, thing: Any) -> None:
        number = self.get_key(thing).fd
        del self._keys[number], self._things[number]

    def modify(self, thing: Any, mask: int, data: Callable) -> None:
        key = self.get_key(thing)
        self._keys[key.fd] = key._replace(events=mask, data=data)

    def get_key(self, thing: Any) -> real_selectors.SelectorKey:
        for key in self._keys.values():
            if key.fileobj is thing:
                return key
        raise KeyError(f"{thing!r} is not registered")

    def select(self, timeout: float | None):
        self._process.call()
        found: list = []

        def ready() -> bool:
            found[:] = self._ready()
            return bool(found)

        signals = [thing.changed for thing in self._things.values()]
        self._process.current().wait(signals, ready, timeout)
        self._process.selected = self._process.world.now
        return found

    def close(self) -> None:
        self._keys.clear()

    def _ready(self) -> list:
        ready = []
        for number, key in self._keys.items():
            thing = self._things[number]
            if not thing.is_open:
                continue
            mask = key.events & real_selectors.EVENT_READ if thing.readable() else 0
            if key.events & real_selectors.EVENT_WRITE and thing.writable():
                mask |= real_selectors.EVENT_WRITE
            if mask:
                ready.append((key, mask))
        return ready
