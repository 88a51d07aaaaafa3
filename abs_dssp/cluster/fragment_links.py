"""How a worker talks to the servers of its fragments: one link to each.

A link takes what the server grants whenever it is looked at, and says again what may
not have arrived; what is computed and when is its worker's (`fragment_worker`).
"""

from typing import Any

import numpy as np

from abs_dssp.cluster.fragment_server import BEGINS, FRAGMENT, OVER
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.transport import Channel, ClosedError, Sizes
from abs_dssp.cluster.worker import Connect, Heartbeats
from abs_dssp.cluster.worker_errors import WorkerError


class StoppedError(Exception):
    """A server says that it is over: for everybody, or for this worker alone."""

    def __init__(self, reason: str, resumes: bool, everybody: bool = False):
        super().__init__(reason)
        self.resumes, self.everybody = resumes, everybody


def identity_of(process: dict[str, Any], fragment: int) -> dict[str, Any]:
    """What a process's workers say of themselves to the server of a fragment.

    A server may have the address that another one had. Signs of life meant for that one
    must not count.

    Args:
      process: what they say to any server.
      fragment: 0..F-1.
    """
    nonce = f"{process['nonce']}.{fragment}"
    return process | {"nonce": nonce, FRAGMENT: fragment}


class LinkHeartbeats(Heartbeats):
    """Signs of life for the server of one fragment."""

    reconnects = True


class Link:
    """A worker's connection to the server of one fragment.

    Attributes:
      fragment: 0..F-1.
      grant: the latest, without its vector; None before the first.
      part: its vector, a copy; None once it has been taken.
      acknowledged: whether nothing more need be sent for it.
      logged: whether the server has logged the push that answers it.
      ahead: whether the worker has gone on after that without the next grant.
      introduced: whether the server knows this worker.
      clock: the worker's, as the server's rule sees it.
    """

    def __init__(
        self,
        fragment: int,
        worker: Any,
        connect: Connect,
        identity: dict[str, Any],
        heartbeats: Heartbeats,
        sizes: Sizes,
    ):
        """Nothing is connected.

        Args:
          fragment: 0..F-1.
          worker: a `FragmentWorker`.
          connect: opens a connection to the server.
          identity: what the worker says of itself, see `identity_of`.
          heartbeats: to the same server.
          sizes: of the fragment's vectors.
        """
        self.fragment, self._worker, self._connect = fragment, worker, connect
        self._identity, self._heartbeats, self._sizes = identity, heartbeats, sizes
        self._channel: Channel | None = None
        self._generation = 0
        self.grant: Message | None = None
        self.part: np.ndarray | None = None
        self.acknowledged = self.logged = self.ahead = self.introduced = False
        self.clock = 0
        self._idle = 0
        self._least = 0  # grant on this connection so far: messages may be late
        self._answered = False  # whether the server has heard READY
        self._asked = 0.0  # when it was last said

    # What a heartbeat says of the worker to this fragment's server.

    @property
    def index(self) -> int:
        """0..N-1."""
        return self._worker.index

    @property
    def grant_id(self) -> int:
        """Of the latest grant; 0 before the first."""
        return 0 if self.grant is None else self.grant.grant_id

    @property
    def waiting(self) -> bool:
        """Whether this server is waited for."""
        return self._worker.waits_at == self.fragment

    @property
    def steps(self) -> int:
        """Grows while the worker computes, and while it waits for another server."""
        self._idle += self._worker.waits_at not in (None, self.fragment)
        return self._worker.steps + self._idle

    def open(self, seconds: float) -> None:
        """Connects and introduces the worker, unless that is done.

        Raises:
          OSError: if the server does not answer within so many seconds.
          WorkerError: if it refuses this worker.
        """
        if self._channel is not None and self._generation != (
            self._heartbeats.generation
        ):
            self.close()  # the server does not know this worker any more
        if self._channel is not None:
            return
        self._generation = self._heartbeats.generation
        self._channel = self._connect()
        try:
            self._introduce(seconds)
        except BaseException:
            self.close()
            raise

    def _introduce(self, seconds: float) -> None:
        assert self._channel is not None
        said = self._identity | {BEGINS: self.grant is None}
        self._channel.send(Message(Kind.HELLO, self.index, text=said))
        end = self._worker.now() + seconds
        while (left := end - self._worker.now()) > 0:
            answer = self._channel.receive(min(left, 0.2))
            if answer is not None and answer.kind is Kind.WELCOME:
                break
            self._look(answer)
        else:
            raise ClosedError(self._channel.silence)
        self._channel.expect(self._sizes)
        self.acknowledged, self.introduced = False, True
        self._least, self._answered = 0, False
        self._say_ready()

    def _say_ready(self) -> None:
        self._asked = self._worker.now()
        self.send(Message(Kind.READY, self.index))

    def close(self) -> None:
        """Ends the connection."""
        self.introduced = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def send(self, message: Message, vector: Any = None) -> None:
        """Sends.

        Raises:
          OSError: if the connection has ended.
        """
        if self._channel is None:
            raise ClosedError("there is no connection")
        self._channel.send(message, vector)

    def go_on(self) -> None:
        """The worker does not wait for the grant that follows what is logged."""
        self.ahead = True
        self.clock += 1

    def poll(self, seconds: float) -> bool:
        """Reads what comes within some seconds; whether a newer grant has come.

        Raises:
          OSError: if the connection has ended.
          StoppedError: if the run has.
        """
        if self._channel is None:
            raise ClosedError("there is no connection")
        late = self._worker.now() - self._asked > self._worker.settings.resend
        if late and not self._answered:
            self._say_ready()
        return self._look(self._channel.receive(seconds))

    def _look(self, message: Message | None) -> bool:
        if message is None:
            return False
        self._heartbeats.answered = self._worker.now()
        if message.kind is Kind.STOP:
            text = message.text or {}
            raise StoppedError(
                str(text.get("reason")), bool(text.get("resumes")), OVER in text
            )
        if message.kind is Kind.REFUSED:
            raise WorkerError(f"worker {self.index}: {message.text}")
        if message.kind is Kind.HELLO:
            raise ClosedError("the server asks who this is")
        held = self.grant
        if message.kind is Kind.WAIT:
            self._answered = True
            # Without a number: what was granted is not wanted any more.
            self.acknowledged |= message.grant_id in (0, self.grant_id)
            self.logged |= message.grant_id == self.grant_id > 0
        if message.kind is not Kind.GRANT or message.grant_id < self._least:
            return False
        self._least, self._answered = message.grant_id, True
        if held is not None:
            if (held.grant_id, held.mark) == (message.grant_id, message.mark):
                self.acknowledged = False  # what answers it has not come
                return False
        # A channel has but a few vectors, and reuses them.
        self.part = np.array(message.payload)
        message.payload = None
        if message.text is not None:
            self.clock = int(message.text)
        elif held is not None and not self.ahead:
            self.clock += max(0, message.clock - held.clock)
        self.logged = self.ahead = False
        self.grant, self.acknowledged = message, False
        return True
