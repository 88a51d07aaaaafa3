"""TCP's sockets as a process sees them, and what its process owes to the other side."""

import collections
import errno
import os
from collections.abc import Sequence
from typing import Any

from abs_dssp.cluster.messages import HEADER_BYTES, MessageError, announced, decode
from abs_dssp.cluster.simulate.network import End, Network
from abs_dssp.cluster.simulate.world import Handle, Process


class Connection(Handle):
    """A connected socket. Never blocks: nobody asks it to."""

    def __init__(self, process: Process, network: Network, end: End):
        super().__init__(process)
        self._network, self._end = network, end
        self.changed = end.changed
        end.process = process
        self._left = 0  # bytes of the message being sent to come
        self._offered = b""  # what there was no room for

    # What a selector looks at.

    def readable(self) -> bool:
        end = self._end
        return bool(end.inbox or end.ended or end.broken)

    def writable(self) -> bool:
        return self._end.broken or self._end.wire.room() > 0

    # As in the module.

    def fileno(self) -> int:
        return self.descriptor if self.is_open else -1

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def setsockopt(self, *_: Any) -> None:
        if not self.is_open:
            raise _error(errno.EBADF)

    def getsockname(self) -> tuple[str, int]:
        return self._end.address

    def getpeername(self) -> tuple[str, int]:
        return self._end.other.address

    def recv_into(self, place: memoryview) -> int:
        self._called()
        end, random = self._end, self.process.world.random
        count = min(len(place), len(end.inbox))
        if count:
            if count > 1 and random.random() < 0.1:
                count = random.randrange(1, count)
            place[:count] = end.inbox[:count]
            del end.inbox[:count]
            end.other.changed.notify()  # there is room
            return count
        self._raise_error()
        if end.ended or end.broken:
            return 0
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def send(self, data: bytes | memoryview) -> int:
        self._called()
        end, world, given = self._end, self.process.world, bytes(data)
        self._raise_error()
        if end.broken:
            raise _error(errno.EPIPE)
        self._require_a_message(given)
        self._offered = given
        count = min(len(given), end.wire.room())
        if not count:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if count > 1 and world.dice.falls("short"):
            count = world.random.randrange(1, count)
        self._offered = given[count:]
        self._left -= count
        end.wire.write(given[:count])
        return count

    def sendmsg(self, parts: Sequence[bytes | memoryview]) -> int:
        return self.send(b"".join(parts))

    def drop(self) -> None:
        super().drop()
        self._end.process = None  # else a connection would keep a dead process's memory
        self._network.close(self._end, self.process.host.dark)

    def _called(self) -> None:
        self.process.call()
        if not self.is_open:
            raise _error(errno.EBADF)

    def _raise_error(self) -> None:
        error, self._end.error = self._end.error, None
        if error is not None:
            raise error

    def _require_a_message(self, data: bytes) -> None:
        """Messages are sent one after the other, whole, and do not change meanwhile."""
        process, wrong = self.process, ""
        if self._offered:
            wrong = "" if data == self._offered else "what it was sending has changed"
        elif not self._left:
            try:
                length = announced(data)
                head = decode(data[: HEADER_BYTES - 4] + bytes(4))
                process.on_send(data[:length])
                self._left = length + head.nbytes
            except MessageError as error:
                wrong = f"sends what is no message: {error}"
        if len(data) > self._left:
            wrong = wrong or "sends more than it has announced"
        if wrong:
            process.world.fail(RuntimeError(f"{process.name}: {wrong}"))


class Listener(Handle):
    """A listening socket."""

    def __init__(self, process: Process, network: Network, address: tuple[str, int]):
        super().__init__(process)
        if not address[1]:
            address = network.free(address[0], process.number)
        if address in network.listening:
            self.close()
            raise _error(errno.EADDRINUSE)
        self._network, self._address = network, address
        self._waiting: collections.deque[End] = collections.deque()
        network.listening[address] = self

    def readable(self) -> bool:
        return bool(self._waiting)

    def writable(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.descriptor if self.is_open else -1

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def getsockname(self) -> tuple[str, int]:
        return self._address

    def accept(self) -> tuple[Connection, tuple[str, int]]:
        self.process.call()
        if not self._waiting:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self.process.world.dice.falls("no_descriptor"):
            raise _error(errno.EMFILE)
        end = self._waiting.popleft()
        if end.broken and self.process.world.random.random() < 0.5:
            self._network.close(end)
            raise _error(errno.ECONNABORTED)
        return Connection(self.process, self._network, end), end.other.address

    def meet(self, client: tuple[str, int]) -> End | None:
        """A connection of a client, to be accepted; None if too many are waiting."""
        if len(self._waiting) >= _BACKLOG:
            return None
        end = self._network.pair(client, self._address)
        self._waiting.append(end.other)
        self.changed.notify()
        return end

    def drop(self) -> None:
        super().drop()
        if not hasattr(self, "_waiting"):
            return
        self._network.listening.pop(self._address, None)
        for end in self._waiting:
            self._network.close(end, self.process.host.dark)


_BACKLOG = 128


def connect(
    process: Process, network: Network, address: tuple[str, int], timeout: float
) -> Connection:
    """What `socket.create_connection` does."""
    process.call()
    world, here = process.world, process.host.name
    away = network.away(here, address[0])
    if away:  # asked again and again, at longer and longer intervals
        away *= 1 + world.random.random()
    elif world.dice.falls("refuse"):
        if world.random.random() < 0.5:
            raise _error(errno.ECONNREFUSED)
        away = timeout
    process.pass_time(min(away, timeout) + network.latency())
    if away >= timeout:
        raise TimeoutError("timed out")
    listener = network.listening.get(address)
    if listener is None:
        raise _error(errno.ECONNREFUSED)
    end = listener.meet((here, 40000 + process.number))
    if end is None:
        process.pass_time(timeout)
        raise TimeoutError("timed out")
    connection = Connection(process, network, end)
    process.pass_time(network.latency())
    return connection


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
