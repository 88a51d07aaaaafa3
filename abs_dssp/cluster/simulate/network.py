"""TCP between simulated hosts: bytes in order, in pieces, late, until the way is gone.

A `Wire` also follows the messages that pass, and so may lose, double, delay past others
and cut short whole ones, which is more than TCP allows. TLS is not simulated.
"""

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster.messages import HEADER_BYTES, MAGIC, MessageError, announced
from abs_dssp.cluster.messages import decode as decoded
from abs_dssp.cluster.simulate.world import Process, Signal, World

_KEEPALIVE = 45.0  # seconds until an idle end asks in vain, as `stream` sets it up
_RETRIES = 1000.0  # seconds at most until what is sent again and again is given up
_PORTS = 20000  # and up, where nobody asks for one
_LOOK = 3.0  # seconds between two looks at who should have hung up,
_LOOKS = 3  # and how many in vain are too many


class Network:
    """Which hosts reach each other, and who listens where."""

    def __init__(self, world: World):
        self.world = world
        self.listening: dict[tuple[str, int], Any] = {}  # tcp.Listener
        self.reuses_ports = False  # whether a port that is chosen is the first free one
        self._cut: dict[frozenset[str], float] = {}  # until when

    def free(self, host: str, number: int) -> tuple[str, int]:
        """An address that the process of this number may listen on."""
        port = _PORTS + (0 if self.reuses_ports else number)
        while (host, port) in self.listening:
            port += 1
        return host, port

    def away(self, one: str, other: str, strikes: bool = True) -> float:
        """Seconds until two hosts reach each other; 0 if they do.

        Args:
          one: a host.
          other: another one, or the same.
          strikes: whether the way may go now.
        """
        names, world = frozenset((one, other)), self.world
        if strikes and len(names) > 1 and world.dice.falls("partition"):
            seconds = 30 * world.random.random() ** 2
            world.note("no way between", *sorted(names), f"for {seconds:.3f} s")
            self._cut[names] = world.now + seconds
        return max(0.0, self._cut.get(names, 0.0) - world.now)

    def latency(self) -> float:
        """Seconds that a piece is on its way."""
        return 1e-4 + 1e-3 * self.world.random.random()

    def pair(self, client: tuple[str, int], server: tuple[str, int]) -> "End":
        """A new connection; its client's end."""
        one, other = End(self, client), End(self, server)
        one.other, other.other = other, one
        for end in (one, other):
            # Small, as the messages here are: few are taken as a whole.
            end.wire = Wire(self, end, int(96 * 64 ** self.world.random.random()))
        return one

    def close(self, end: "End", dark: bool = False) -> None:
        """Its process has closed it, or is dead.

        Args:
          end: of a connection.
          dark: its host has lost its power, and tells nobody.
        """
        if end.closed:
            return
        end.closed = True
        if end.broken:
            return
        if dark or self.world.dice.falls("half_open"):
            self.lose(end)
        elif end.inbox:  # it will never read them
            end.wire.finish(functools.partial(end.other.fail, _reset()))
        else:
            end.wire.finish(end.other.end)

    def lose(self, end: "End") -> None:
        """The way is gone for this connection; each end learns it by itself, late."""
        random = self.world.random
        for each in (end, end.other):
            if each.wire.is_dead:
                continue
            self.world.note("the way from", each.name, "is gone")
            each.wire.is_dead = True
            luck = random.random()
            if luck < 0.3:  # the other host is there again, and knows nothing
                each.fail_in(60 * random.random(), _reset())
            else:
                seconds = _KEEPALIVE if luck < 0.7 else _RETRIES * random.random()
                each.fail_in(seconds, _timeout())

    def reset(self, end: "End") -> None:
        """The connection is gone, with what is on its way; both ends are told."""
        self.world.note("the connection of", end.name, "is reset")
        for each in (end, end.other):
            if self.world.random.random() < 0.5:
                each.inbox.clear()
            each.fail(_reset())


class End:
    """An end of a connection as its host has it, with or without a process."""

    other: "End"
    wire: "Wire"  # to the other end

    def __init__(self, network: Network, address: tuple[str, int]):
        self.address, self.name = address, f"{address[0]}:{address[1]}"
        self.changed = Signal(network.world)
        self.inbox = bytearray()  # arrived, not read
        self.closed = False  # by its process
        self.ended = False  # nothing comes after what has come
        self.broken = False  # nothing comes or goes
        self.error: OSError | None = None  # not told yet
        self.process: Process | None = None  # which has it
        self._world = network.world

    def end(self) -> None:
        """The other end has sent its last byte."""
        self.ended = True
        self.changed.notify()

    def fail(self, error: OSError) -> None:
        """Nothing comes or goes any more."""
        if not self.broken:
            self.broken, self.error = True, error
            self.wire.is_dead = True
            self.changed.notify()

    def fail_in(self, seconds: float, error: OSError) -> None:
        """Does so later."""
        self._world.at(seconds, functools.partial(self.fail, error))

    def poison(self) -> None:
        """All that was no message has come: whoever has read it must hang up."""
        self._require_end(0)

    def _require_end(self, looks: int) -> None:
        """Looks at it every few seconds; so many times it should have been closed."""
        if self.closed or self.broken:
            return
        if looks > _LOOKS:
            error = RuntimeError(f"nonsense from {self.other.name} is listened to")
            self._world.fail(error)
        process, now = self.process, self._world.now
        # A server that has served its time looks at its sockets no more.
        asleep = (
            process is None
            or process.paused_until > now
            or process.selected < now - _LOOK
        )
        looks = 0 if self.inbox or asleep else looks + 1
        self._world.at(_LOOK, functools.partial(self._require_end, looks))


class Wire:
    """One direction of a connection."""

    def __init__(self, network: Network, source: End, capacity: int):
        """Nothing is on its way.

        Args:
          network: of the connection.
          source: who sends.
          capacity: bytes that are on their way or not read, at most.
        """
        self.source, self._network, self._world = source, network, network.world
        self.is_raw = False  # whether what passes is no message
        self.is_dead = False  # what is on its way never arrives
        self._capacity = capacity
        self._away = 0  # bytes on their way
        self._latest = 0.0  # arrival so far
        self._head = b""  # of a message that is not begun
        self._left = 0  # bytes of the present message to come
        self._fate = ""  # its fault
        self._kept = b""  # what has come of it, for its fault
        self._cut_after = 0  # bytes of it
        self._queue: list[bytes] = []  # delayed ones, for the end of the present one

    def room(self) -> int:
        """Bytes that can be sent now."""
        used = self._away + len(self.source.other.inbox) + len(self._head)
        return max(0, self._capacity - used)

    @property
    def is_between(self) -> bool:
        """Whether a message begins with the next byte."""
        return not (self._left or self._head)

    def write(self, data: bytes) -> None:
        """Sends bytes; there is room for them."""
        while data and not self.source.broken:
            if self.is_raw:
                return self._emit(data)
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                self._pass(part)
            else:
                missing = HEADER_BYTES - len(self._head)
                self._head, data = self._head + data[:missing], data[missing:]
                if len(self._head) == HEADER_BYTES:
                    self._begin()

    def finish(self, told: Callable[[], None]) -> None:
        """Sends the last bytes, and then tells the other end."""
        self._emit(self._head)
        self._at_its_time(told)

    def poison(self) -> None:
        """What has been sent is no message, and so is what follows."""
        self.is_raw = True
        self._at_its_time(self.source.other.poison)

    def _begin(self) -> None:
        """A message begins: decides what happens to it."""
        head, self._head = self._head, b""
        try:
            self._left = announced(head) + decoded(head[:-4] + bytes(4)).nbytes
        except MessageError:
            self.is_raw = True
            return self._emit(head)
        network, dice, random = self._network, self._world.dice, self._world.random
        if dice.falls("reset"):
            return network.reset(self.source)
        hosts = self.source.address[0], self.source.other.address[0]
        if network.away(*hosts) and random.random() < 0.3:
            network.lose(self.source)
        names = ("lose", "double", "delay", "truncate")
        self._fate = next(filter(dice.falls, names), "")
        if self._fate == "truncate" and random.random() < 0.5:
            self._emit(garbage(self._world))
            return self.poison()
        self._kept = b""
        self._cut_after = random.randrange(self._left)
        self._left -= len(head)
        self._pass(head)

    def _pass(self, part: bytes) -> None:
        """A part of the present message; the last one if nothing is left."""
        fate, before = self._fate, len(self._kept)
        self._kept += part
        if fate == "truncate" and self._kept[self._cut_after :]:
            self._emit(part[: max(0, self._cut_after - before)])
            return self._network.reset(self.source)
        if fate not in ("lose", "delay"):
            self._emit(part)
        if self._left:
            return
        if fate == "double":
            self._emit(self._kept)
        elif fate == "delay":  # past what is sent later
            late = functools.partial(self._insert, self._kept)
            self._world.at(5 * self._world.random.random() ** 2, late)
        self._fate = ""
        while self._queue:
            self._emit(self._queue.pop())

    def _insert(self, message: bytes) -> None:
        """A delayed message arrives between two others."""
        if self.source.closed:
            return
        if self.is_between:
            self._emit(message)
        else:
            self._queue.append(message)

    def _emit(self, data: bytes) -> None:
        """Puts bytes on their way, in one piece or in several."""
        random = self._world.random
        while data:
            length = len(data)
            if length > 1 and random.random() < 0.2:
                length = random.randrange(1, length)
            self._away += length
            arrives = functools.partial(self._arrive, data[:length])
            data = data[length:]
            self._at_its_time(arrives)

    def _at_its_time(self, what: Callable[[], None]) -> None:
        """Does something after all that has been sent has arrived, if it arrives."""
        network, random = self._network, self._world.random
        hosts = self.source.address[0], self.source.other.address[0]
        when = self._world.now + network.latency()
        away = network.away(*hosts, strikes=False)
        if away:  # sent again and again, at longer and longer intervals
            when += away * (1 + random.random())
        if self._world.dice.falls("stall"):
            when += 5 * random.random() ** 2
        self._latest = max(self._latest, when)

        def do() -> None:
            if not self.is_dead:
                what()

        self._world.at_time(self._latest, do)

    def _arrive(self, data: bytes) -> None:
        self._away -= len(data)
        there = self.source.other
        if there.closed:
            self.source.fail_in(self._network.latency(), _reset())
        elif not there.broken:
            there.inbox += data
            there.changed.notify()


def garbage(world: World) -> bytes:
    """Bytes that no message begins with, as many as a header at least."""
    data = world.random.randbytes(HEADER_BYTES + world.random.randrange(100))
    return data if data[:1] != MAGIC[:1] else b"x" + data


def _reset() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def _timeout() -> OSError:
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
