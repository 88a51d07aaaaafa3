"""Messages over a byte stream: a TCP connection, with TLS 1.3 or without.

A header, its text and its vector follow each other on the stream. Nothing here blocks,
and a vector is received into memory that is used again and again.
"""

import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from abs_dssp.cluster import messages
from abs_dssp.cluster.messages import Message
from abs_dssp.cluster.transport.base import ClosedError

_JOINED = 1 << 16  # bytes of a vector whose copy costs less than a call of the system
# Bytes on their way within a host, half of what the system then allows: those that have
# left the caches before they are read cost both sides a fifth more. Between hosts it
# depends on the distance, which the system finds out.
_ON_THE_WAY = 1 << 19
_AT_ONCE = 1 << 20  # bytes of a vector to sleep for, where sleeping saves time
_BUFFER = messages.HEADER_BYTES + messages.MAX_TEXT
# Seconds until the other host is asked whether it is there, seconds between two
# questions, and how many may stay unanswered.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}

Room = Callable[[Message], np.ndarray]  # where a vector goes; raises MessageError


class KeyRefusedError(ClosedError):
    """The two sides do not hold the same key."""


class Stream:
    """Bytes over a connected socket. Belongs to one thread."""

    def __init__(
        self,
        connection: Any,
        context: Any = None,
        server: bool = False,
        seldom: bool = False,
    ):
        """Shakes hands, as a client; a server does so as it reads.

        Args:
          connection: a socket, with a timeout as a client.
          context: for TLS, an `ssl.SSLContext`; None without.
          server: which side of TLS this is.
          seldom: whether to be woken up once for many bytes rather than early: where
            others have a use for the core.

        Raises:
          ClosedError: if the other side wants none of it.
        """
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if connection.getsockname()[0] == connection.getpeername()[0]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ON_THE_WAY)
        self._encrypted = context is not None
        # Bytes that wake up; those of TLS are not the vector's.
        self._wakes = 1 if seldom and not self._encrypted else None
        if server:
            connection.setblocking(False)
        if context is not None:
            try:
                connection = context.wrap_socket(
                    connection, server_side=server, do_handshake_on_connect=not server
                )
            except OSError as error:
                raise _named(error) from error
        connection.setblocking(False)
        self.socket = connection

    def read_into(self, place: memoryview) -> int:
        """Bytes received, at least 1.

        Raises:
          BlockingIOError: if nothing is there.
          ClosedError: at the end of the connection.
        """
        try:
            count = self.socket.recv_into(place)
        except OSError as error:
            raise _named(error) from error
        if count == 0:
            raise ClosedError("the other side has closed the connection")
        return count

    def wake_at(self, count: int) -> None:
        """Has selectors take the socket for readable when so many bytes are there.

        For a hint: there may be fewer, or another limit, but never none.
        """
        count = min(count, _AT_ONCE)
        if self._wakes is not None and self._wakes != count:
            self._wakes = count
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Bytes sent of those that follow each other in `parts`, at least 1.

        Raises:
          BlockingIOError: if there is no room.
          ClosedError: at the end of the connection.
        """
        try:
            if len(parts) == 1 or self._encrypted:
                return self.socket.send(parts[0])
            return self.socket.sendmsg(parts)
        except OSError as error:
            raise _named(error) from error

    @property
    def pending(self) -> bool:
        """Whether there is something to read that no selector knows of."""
        return self._encrypted and self.socket.pending() > 0

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()


def _named(error: OSError) -> OSError:
    """What is to be raised for an error of TLS or of the system."""
    if isinstance(
        error, BlockingIOError | ssl.SSLWantReadError | ssl.SSLWantWriteError
    ):
        return BlockingIOError()
    if isinstance(error, ssl.SSLError):
        if any(part in str(error.reason) for part in _KEY_REASONS):
            return KeyRefusedError("its key is another one")
    return ClosedError(str(error))


# How OpenSSL says that one side does not know the other's certificate.
_KEY_REASONS = (
    *("CERTIFICATE_VERIFY_FAILED", "DID_NOT_RETURN_A_CERTIFICATE", "UNKNOWN_CA"),
    *("BAD_CERTIFICATE", "DECRYPT_ERROR", "CERTIFICATE_REQUIRED"),
)


class Reader:
    """Makes messages of what a stream brings."""

    def __init__(self, stream: Stream, room: Room):
        """Nothing is read.

        Args:
          stream: from the other side.
          room: gives the memory for a message's vector, or refuses it.
        """
        self._stream, self._room = stream, room
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0  # what has been received and not looked at
        self._message: Message | None = None  # whose vector is being received
        self._vector = memoryview(b"")  # the rest of its memory

    @property
    def has_more(self) -> bool:
        """Whether there may be a message that no selector knows of."""
        return self._end > self._start or self._stream.pending

    def next(self) -> Message:
        """The next message.

        Raises:
          BlockingIOError: if it is not here yet, or not as a whole.
          ClosedError: at the end of the connection.
          MessageError: if it is none; the connection is then of no use.
        """
        while self._message is None:
            found = messages.first(self._buffer, self._start, self._end)
            if found is None:
                self._fill()
                continue
            message, self._start = found
            if not message.nbytes:
                return message
            self._message = message
            message.payload = self._room(message)
            self._vector = message.payload.view(np.uint8).data
            self._take()
        while self._vector:
            try:
                count = self._stream.read_into(self._vector)
            except BlockingIOError:
                self._stream.wake_at(len(self._vector))
                raise
            self._vector = self._vector[count:]
        self._stream.wake_at(1)
        message, self._message = self._message, None
        return message

    def _fill(self) -> None:
        """Receives more."""
        if self._start:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        self._end += self._stream.read_into(self._buffer[self._end :])

    def _take(self) -> None:
        """Moves what is in the buffer of the vector to its place."""
        count = min(self._end - self._start, len(self._vector))
        self._vector[:count] = self._buffer[self._start : self._start + count]
        self._start += count
        self._vector = self._vector[count:]


class Writer:
    """Sends one message after the other."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._parts: list[bytes | memoryview] = []

    @property
    def is_done(self) -> bool:
        """Whether everything was sent."""
        return not self._parts

    def put(self, message: Message, vector: np.ndarray | None = None) -> None:
        """Adds a message; its vector must not change until all is sent."""
        head = messages.encode(message)
        data = b"" if vector is None else vector.view(np.uint8).data
        if len(data) < _JOINED:
            self._parts.append(head + data)
        else:
            self._parts += head, data

    def flush(self) -> None:
        """Sends what there is.

        Raises:
          BlockingIOError: if there is no room for all of it now.
          ClosedError: at the end of the connection.
        """
        parts = self._parts
        while parts:
            count = self._stream.write(parts)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if count:
                parts[0] = memoryview(parts[0])[count:]
