"""A server of one fragment of the parameters: that of a whole model, and its pushes.

It decides, logs and recovers as `Server` does. What differs: pushes are read again
where a server of the whole model computes them again, and are on disk before the log
says so (`push_store`).
"""

from typing import Any

import numpy as np

from abs_dssp.cluster import effects
from abs_dssp.cluster.core import WAITING
from abs_dssp.cluster.effects import Effect
from abs_dssp.cluster.log import LogError, UnwritableError
from abs_dssp.cluster.membership import Membership
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.push_store import PushStore, Turn, read_turn
from abs_dssp.cluster.pushes import Session
from abs_dssp.cluster.server import Server

OVER = "over"  # in the text of an end that is the whole run's: of all fragments
BEGINS = "begins"  # in what a worker says of itself: whether it has no grant yet
FRAGMENT = "fragment"  # in what a worker says of itself: whose server it looks for


class FragmentMembership(Membership):
    """Tells who joins how far the slowest is, which a worker's turn depends on."""

    def _answer(self, session: Session, now: float) -> Effect:
        answer = super()._answer(session, now)
        assert isinstance(answer, effects.Send)
        message = answer.message
        if message.kind is Kind.GRANT:
            if session.greeted:  # its first grant since then, however often it is told
                session.greeted, session.told = False, message.grant_id
            if session.told == message.grant_id:
                message.text = self.core.clock_of(session.index)
        return answer

    def farewell(self, resumes: bool) -> list[Effect]:
        """Tells everybody that it is over for everybody."""
        said = super().farewell(resumes)
        for effect in said:
            assert isinstance(effect, effects.Send)
            effect.message.text[OVER] = True
        return said

    def _hello(self, peer, session: Session, message: Message, now) -> list[Effect]:
        session.greeted = True  # not by READY, which may be lost
        wanted = super()._hello(peer, session, message, now)
        text = message.text if isinstance(message.text, dict) else {}
        welcome = session.peer is peer and text.get(BEGINS)
        if welcome and self._worker(session).state == WAITING:
            # A new process, and perhaps a new server, which does not know that. It
            # needs this fragment before it pushes any for which others may wait.
            wanted = [*self._leave(session, "replaced", now), *wanted]
        return wanted

    def _join(self, session: Session, now: float) -> list[Effect]:
        session.greeted = True
        return super()._join(session, now)


class FragmentServer(Server):
    """Serves one fragment; see `Server`."""

    membership_class = FragmentMembership

    def __init__(self, training, config, log, pushes: PushStore, **settings: Any):
        """Prepares a run, or recovers one.

        Args:
          training: see `Server`; its functions are `fragmented.PartFunctions`.
          config: see `Server`.
          log: see `Server`.
          pushes: opened.
          **settings: see `Server`.

        Raises:
          ServerError: see `Server`.
          LogError: if a push that must be read again is not there.
        """
        self._pushes, self._fragment = pushes, training.functions.fragment
        self._turns: dict[int, Turn] = {}  # of the latest message, by worker
        super().__init__(training, config, log, **settings)

    def _recover(self) -> None:
        try:
            super()._recover()
        except LogError as error:
            if self._store is None or not self._store.unread:
                raise
            raise UnwritableError(
                f"{self._store.unread}; without this checkpoint there is not enough "
                "to go on from; start the same command again."
            ) from error

    def _receive(self) -> list[tuple[Any, Any]]:
        arrivals = []
        for peer, message in super()._receive():
            if message is None or self._noted(peer, message):
                arrivals.append((peer, message))
        return arrivals

    def _noted(self, peer: Any, message: Message) -> bool:
        """Whether a message is one; keeps what a push says beside its vector."""
        text, sessions = message.text, self.membership.sessions
        if message.kind is Kind.HELLO and isinstance(text, dict):
            if text.get(FRAGMENT, self._fragment) != self._fragment:
                # It has the address of another server, which was here before.
                peer.send(Message(Kind.HELLO))
                return False
        known = 0 <= message.worker < len(sessions)
        if not known or sessions[message.worker].peer is not peer:
            return True  # refused there
        if message.kind is Kind.BYE and isinstance(text, dict) and OVER in text:
            self.stop(str(text[OVER]), resumes=bool(text.get("resumes")))
        if message.kind is Kind.PUSH:
            try:
                self._turns[message.worker] = read_turn(text)
            except ValueError:
                return False
        return True

    def execute(self, wanted: list[Effect]) -> list[float]:
        """Does it, in order; the vectors of pushes are written first."""
        return super().execute([self._with_vector(effect) for effect in wanted])

    def _with_vector(self, effect: Effect) -> Effect:
        if isinstance(effect, effects.Accumulate):
            return self._kept(effect)
        if isinstance(effect, effects.Advance):
            pairs = tuple((self._kept(push), made) for push, made in effect.pushes)
            return effects.Advance(pairs)
        return effect

    def _kept(self, push: effects.Accumulate) -> effects.Accumulate:
        if push.vector is None:
            vector = self._pushes.vector(push.worker, push.clock)
            return push._replace(vector=vector)
        turn = self._turns[push.worker]
        self._pushes.add(push.worker, push.clock, turn, np.asarray(push.vector))
        return push

    def saving(self, records: int) -> None:
        """The vectors of later pushes go into another file."""
        self._pushes.begin(records)

    def saved(self) -> None:
        """Vectors that no kept checkpoint needs are given up."""
        steps = self._store.usable()
        # The older of two serves if the newer is damaged; before there are two, the
        # beginning of the log does.
        self._pushes.give_up(steps[0] if len(steps) > 1 else 0)
