"""Who is connected as which worker, which pushes count, and how often they come."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from abs_dssp.cluster.core import COMPUTING, Core
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.history.events import Event

_RATE_WINDOW = 256  # pushes


@dataclasses.dataclass
class Session:
    """The connection of one worker, and its signs of life; times as `now`."""

    index: int
    peer: Any = None  # transport.Peer, or None
    nonce: str = ""  # tells a process from an earlier one with the same index
    process: str = ""  # such as "process 1, pid 4711"
    ready: bool = False
    heard: float = 0.0
    steps: int = -1  # finished, as its heartbeats say
    progressed: float = 0.0  # when `steps` last rose
    answered: float = 0.0  # when it was last told its grant
    greeted: bool = False  # said HELLO or joined, and has got no grant since
    told: int = 0  # id of the grant that followed


class Pushes:
    """Makes events of messages. Not thread-safe."""

    def __init__(
        self,
        core: Core,
        finite: Callable[[Any, float], bool],
        seconds: Callable[[float], float],
        now: float,
    ):
        """No push has come.

        Args:
          core: of the run.
          finite: whether a push's vector and loss are.
          seconds: of the run, from a time.
          now: the present time.
        """
        self._core, self.finite, self._seconds = core, finite, seconds
        self._recent: list[float] = []  # seconds of the latest pushes
        self.latest = now  # when one came

    def is_answer(self, message: Message) -> bool:
        """Whether a push is what its worker was granted to compute."""
        worker = self._core.workers[message.worker]
        asked = (worker.grant, worker.mark, worker.pushes + 1, worker.pulled)
        answers = (message.grant_id, message.mark, message.clock, message.version)
        return asked == answers and worker.state == COMPUTING

    def event(self, message: Message, now: float) -> Event:
        """The event of a push."""
        loss = float(np.float32(message.loss))  # as the log keeps it
        return Event("push", message.worker, self._seconds(now), message.seconds, loss)

    def together(
        self,
        sessions: Sequence[Session],
        arrivals: Sequence[tuple[Any, Message | None]],
        times: Sequence[float],
    ) -> tuple[list[Event], list[Any]]:
        """The first arrivals, if they are pushes that can be decided at once.

        Args:
          sessions: of all workers.
          arrivals: peers and their messages, None at the end of a connection.
          times: the present one for each.

        Returns:
          Their events and vectors; nothing if there are not two.
        """
        events: list[Event] = []
        vectors: list[Any] = []
        if not self._core.together or self._core.ended:
            return [], []
        known: set[int] = set()
        for (peer, message), now in zip(arrivals, times, strict=True):
            if message is None or message.kind is not Kind.PUSH:
                break
            worker = message.worker
            if not 0 <= worker < len(sessions) or sessions[worker].peer is not peer:
                break
            if worker in known:
                break
            known.add(worker)
            if not self.is_answer(message):
                break
            events.append(self.event(message, now))
            vectors.append(message.payload)
        count = self._core.pushes_together(events)
        events, vectors = events[:count], vectors[:count]
        pairs = zip(vectors, events, strict=True)
        if count < 2 or not all(self.finite(v, event.loss) for v, event in pairs):
            return [], []
        return events, vectors

    def note(self, event: Event, now: float) -> None:
        """A push counts."""
        self.latest = now
        self._recent.append(event.time)
        if len(self._recent) > 2 * _RATE_WINDOW:
            del self._recent[:_RATE_WINDOW]

    def per_second(self, seconds: float) -> float:
        """Pushes of late per second, at so many seconds of the run."""
        recent = self._recent[-_RATE_WINDOW:]
        span = seconds - recent[0] if recent else 0.0
        return len(recent) / span if span > 0 else 0.0
