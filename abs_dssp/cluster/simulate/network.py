"""A network between simulated hosts, and the part of ZeroMQ that is used over it.

A connection delivers in order and once, as TCP does, until a fault says otherwise:
messages may be lost, doubled, delayed past others and cut short, which is more than
TCP allows.
"""

import collections
import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster.simulate.world import Handle, Process, World

_ROOM = 24  # messages on the way and not read, of one connection and direction


class ZMQError(Exception):
    """As in ZeroMQ."""

    def __init__(self, number: int = errno.EINVAL):
        super().__init__(os.strerror(number))
        self.errno, self.strerror = number, os.strerror(number)


class Again(ZMQError):
    """Nothing there, or no room."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN)


class Network:
    """Which hosts reach each other, and who listens where."""

    def __init__(self, world: World):
        self.world = world
        self.listening: dict[str, _Router] = {}
        self._cut: dict[frozenset[str], float] = {}  # until when

    def reaches(self, one: Process, other: Process) -> bool:
        """Whether messages pass between the hosts of two processes now."""
        names = frozenset((one.host.name, other.host.name))
        if len(names) > 1 and self.world.dice.falls("partition"):
            seconds = 30 * self.world.random.random() ** 2
            self.world.note("no way between", *sorted(names), f"for {seconds:.3f} s")
            self._cut[names] = self.world.now + seconds
        return self._cut.get(names, 0.0) <= self.world.now


class Frame:
    """A received part of a message."""

    def __init__(self, data: bytes):
        self.buffer = memoryview(data)

    def get(self, name: str) -> str:
        """A property of the connection."""
        del name
        return "simulated"


class _Link:
    """One connection of a dealer to a router; gone at a reset."""

    def __init__(self, dealer: "_Dealer", router: "_Router"):
        self.dealer, self.router = dealer, router
        self.is_open = True
        self._latest = {False: 0.0, True: 0.0}  # arrival, by whether to the dealer
        self.pending = {False: 0, True: 0}

    def send(self, frames: list[Any], to_dealer: bool) -> None:
        """Frames that are on their way; they are read when they arrive."""
        network = self.router.network
        world, dice = network.world, network.world.dice
        if dice.falls("reset"):
            world.note(self.dealer.process.name, "has its connection reset")
            self.cut()
            return
        if not network.reaches(self.dealer.process, self.router.process):
            if world.random.random() < 0.5:  # sent again by TCP, or given up
                self.cut()
                return
        copies = 0 if dice.falls("lose") else 2 if dice.falls("double") else 1
        for _ in range(copies):
            delay = 1e-4 + 1e-3 * world.random.random()
            arrival = max(world.now + delay, self._latest[to_dealer])
            if dice.falls("delay"):  # past what is sent later
                arrival = world.now + 5 * world.random.random() ** 2
            else:
                self._latest[to_dealer] = arrival
            cut = dice.falls("truncate")
            self.pending[to_dealer] += 1
            world.at_time(
                arrival, functools.partial(self._arrive, frames, to_dealer, cut)
            )

    def _arrive(self, frames: list[Any], to_dealer: bool, cut: bool) -> None:
        self.pending[to_dealer] -= 1
        if not self.is_open:
            return
        parts = [bytes(frame) for frame in frames]
        if cut:
            random = self.router.network.world.random
            which = random.randrange(len(parts))
            parts[which] = parts[which][: random.randint(0, len(parts[which]))]
            if random.random() < 0.3 and len(parts) > 1:
                del parts[which]
        if to_dealer:
            self.dealer.arrived(parts)
        else:
            self.router.arrived(self, parts)

    def cut(self) -> None:
        """Ends the connection; its dealer makes another one."""
        if self.is_open:
            self.is_open = False
            self.router.links.pop(self.dealer.identity, None)
            self.dealer.disconnected()


class _Base(Handle):
    """What dealers and routers share."""

    def __init__(self, network: Network, process: Process):
        super().__init__(process)
        self.network = network
        self.inbox: collections.deque[list[bytes]] = collections.deque()

    def readable(self) -> bool:
        return bool(self.inbox)

    def writable(self) -> bool:
        return True

    def poll(self, milliseconds: float) -> bool:
        self.process.call()
        thread = self.process.current()
        return thread.wait([self.changed], self.readable, milliseconds / 1e3)

    def recv_multipart(self, flags: int = 0, copy: bool = True) -> list[Frame]:
        del flags, copy
        self.process.call()
        if not self.inbox:
            raise Again
        return [Frame(part) for part in self.inbox.popleft()]


class _Dealer(_Base):
    """A worker's socket: connects by itself, again and again."""

    routing_id = b""
    link: _Link | None = None

    def connect(self, endpoint: str) -> None:
        self.process.call()
        self._endpoint = endpoint
        self.identity = self.routing_id
        self._queue: collections.deque[list[Any]] = collections.deque()
        self.network.world.at(1e-3, self._connect)

    def _connect(self) -> None:
        if not self.is_open or self.link is not None:
            return
        router = self.network.listening.get(self._endpoint)
        if router is None or not self.network.reaches(self.process, router.process):
            self.network.world.at(0.5, self._connect)
            return
        self.link = router.links[self.identity] = _Link(self, router)
        while self._queue and self.link is not None:
            self.link.send(self._queue.popleft(), to_dealer=False)

    def send_multipart(self, frames: list, flags: int = 0, copy: bool = True) -> None:
        del flags, copy
        self.process.call()
        if self.link is not None:
            if self.link.pending[False] >= _ROOM:
                raise Again
            self.link.send(frames, to_dealer=False)
        elif len(self._queue) < _ROOM:
            self._queue.append(frames)
        else:
            raise Again

    def arrived(self, parts: list[bytes]) -> None:
        """A message has come."""
        self.inbox.append(parts)
        self.changed.notify()

    def disconnected(self) -> None:
        """Connects again, in a while."""
        self.link = None
        if self.is_open:
            self.network.world.at(
                0.1 + self.network.world.random.random(), self._connect
            )

    def drop(self) -> None:
        super().drop()
        if self.link is not None:
            self.link.cut()


class _Router(_Base):
    """The server's socket."""

    sndhwm, maxmsgsize = 1000, -1
    endpoint = ""

    def bind(self, address: str) -> None:
        self.process.call()
        if address.endswith(":0"):
            address = f"{address[:-1]}{20000 + self.process.number}"
        if address in self.network.listening:
            raise ZMQError(errno.EADDRINUSE)
        self.endpoint = address
        self.network.listening[address] = self
        self.links: dict[bytes, _Link] = {}

    def getsockopt_string(self, option: str) -> str:
        del option
        return self.endpoint

    def getsockopt(self, option: str) -> int:
        del option
        return self.descriptor

    def send_multipart(self, frames: list, flags: int = 0, copy: bool = True) -> None:
        del flags, copy
        self.process.call()
        link = self.links.get(bytes(frames[0]))
        if link is None:
            raise ZMQError(errno.EHOSTUNREACH)
        if link.pending[True] + len(link.dealer.inbox) >= min(self.sndhwm, _ROOM):
            raise Again
        self.process.on_send(bytes(frames[1]))
        link.send(frames[1:], to_dealer=True)

    def arrived(self, link: _Link, parts: list[bytes]) -> None:
        """A message has come; one that is too long ends its connection."""
        if any(len(part) > self.maxmsgsize >= 0 for part in parts):
            link.cut()
            return
        self.inbox.append([link.dealer.identity, *parts])
        self.changed.notify()

    def drop(self) -> None:
        super().drop()
        self.network.listening.pop(self.endpoint, None)
        for link in list(getattr(self, "links", {}).values()):
            link.cut()


class ZeroMQ:
    """Stands in for the module `zmq`."""

    DEALER, ROUTER, NOBLOCK, LAST_ENDPOINT, FD = "DEALER", "ROUTER", 1, "endpoint", "fd"
    Again, ZMQError = Again, ZMQError

    def __init__(self, network: Network, process: Process):
        self._network, self._process = network, process

    def Context(self) -> "ZeroMQ":  # noqa: N802
        return self

    def socket(self, kind: str) -> _Base:
        made: Callable = _Dealer if kind == self.DEALER else _Router
        return made(self._network, self._process)

    def term(self) -> None:
        """Nothing is left to do."""
