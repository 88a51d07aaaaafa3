"""What a channel is, seen from either side."""

import abc
from typing import Any, NamedTuple

import numpy as np

from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.training import flat, mesh


class ClosedError(ConnectionError):
    """The other side is gone."""


class Sizes(NamedTuple):
    """Bytes of the vectors, and their formats."""

    push: int
    push_dtype: np.dtype
    pull: int
    pull_dtype: np.dtype

    @classmethod
    def of(cls, count: int, wire: flat.Wire) -> "Sizes":
        """Those of vectors of so many values, in the formats of a run."""
        push, pull = (np.dtype(flat.DTYPES[name]) for name in wire)
        return cls(count * push.itemsize, push, count * pull.itemsize, pull)

    @classmethod
    def of_functions(cls, functions: Any) -> "Sizes":
        """Those of what a worker is given and sends back: `flat.Functions`."""
        return cls.of(functions.layout.size + functions.local_size, functions.wire)


class Channel(abc.ABC):
    """A worker's end. A channel belongs to one thread."""

    transport = ""
    silence = "the server does not answer"  # what to say if it never did

    @abc.abstractmethod
    def send(self, message: Message, vector: Any = None) -> None:
        """Sends; a vector is copied at most once."""

    @abc.abstractmethod
    def receive(self, seconds: float) -> Message | None:
        """The next message, with its vector in `payload`; None if none comes."""

    @abc.abstractmethod
    def expect(self, sizes: Sizes) -> None:
        """Tells the sizes, before the first vector."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection."""


class Peer(abc.ABC):
    """The server's end of a channel."""

    transport = ""
    name = "?"
    open = True
    ends_with_its_process = True  # whether its end tells that the process has died

    @abc.abstractmethod
    def send(self, message: Message) -> None:
        """Sends, now or when the other side has room again. Never blocks or raises.

        A vector is named by `message.buffer`, its index in the pool of versions.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection."""


class Outbox:
    """The one message that a peer could not be sent yet.

    Every message of the server says how things stand now, so the latest replaces the
    ones before it; only the last word of a run or of a refusal is never replaced.
    """

    message: Message | None = None

    def put(self, message: Message) -> None:
        """Keeps the message, unless the last word is there."""
        last = self.message is not None and self.message.kind in (
            Kind.STOP,
            Kind.REFUSED,
        )
        if not last:
            self.message = message


def fill(memory: np.ndarray, vector: Any) -> None:
    """Copies a vector to memory of the host; part by part where devices have parts."""
    if isinstance(vector, mesh.Shards):
        vector.copy_to(memory)
    else:
        np.copyto(memory, np.asarray(vector))


Event = tuple[Peer, Message | None]  # None: the connection has ended
