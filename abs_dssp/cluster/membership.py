"""Who takes part: messages and time in, events for the core and effects out.

Nothing here reads a clock, a socket or a disk. `now` is always seconds of a clock that
never goes back; the shell and tests choose which.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from abs_dssp.cluster import effects, run_config, status
from abs_dssp.cluster.complaints import Complaints
from abs_dssp.cluster.core import COMPUTING, EXPELLED, LEFT, Core, Worker
from abs_dssp.cluster.effects import Effect
from abs_dssp.cluster.idleness import Idleness
from abs_dssp.cluster.messages import Kind, Message, heartbeats
from abs_dssp.cluster.pushes import Pushes, Session
from abs_dssp.cluster.settings import Settings
from abs_dssp.history.events import NOBODY, Event

_EXPELLED = "expelled: too many pushes in a row were not finite"
_STRANGER = (
    "refused a connection: its key is not this run's; give every process the same "
    "--key_file"
)


class Membership:
    """The protocol between workers and the core. Not thread-safe."""

    def __init__(
        self,
        core: Core,
        settings: Settings,
        config: Mapping[str, Any],
        incarnation: str,
        expected: int,
        finite: Callable[[Any, float], bool],
        now: float,
    ):
        """Nobody is connected yet.

        Args:
          core: of the run; new, or recovered.
          settings: times and limits.
          config: what every worker must agree on, by name.
          incarnation: of this server's process.
          expected: workers to wait for at the start.
          finite: whether a push's vector and loss are.
          now: the present time.
        """
        self.core, self.settings, self.config = core, settings, config
        self.sessions = [
            Session(index, heard=now, progressed=now)
            for index in range(core.num_workers)
        ]
        self.failed = False  # ended by something that the user must look at
        self._pushes = Pushes(core, finite, self.seconds, now)
        self._incarnation, self._expected = incarnation, expected
        self._offset = 0.0  # seconds of the run at `_begun`
        self._begun = self._opened = self._ticked = self._told_quiet = now
        policy = str(config.get("policy", "the policy"))
        self._idleness = Idleness(core, settings.empty, policy)
        self._complaints = Complaints()

    def seconds(self, now: float) -> float:
        """Of the run."""
        return self._offset + (now - self._begun if self.core.started else 0.0)

    def resume(self, seconds: float, now: float) -> None:
        """The run goes on at so many seconds, after a recovery."""
        self._offset, self._begun, self._pushes.latest = seconds, now, now

    # What arrives.

    def wake(self, now: float) -> list[Effect]:
        """Asks the policy at its deadline, if that has come.

        Called as soon as `until_wake` says. The event has the time of the deadline.
        """
        wanted = self._overdue(now)
        return wanted + self._deadline(now) if self.until_wake(now) == 0 else wanted

    def _overdue(self, now: float) -> list[Effect]:
        """The deadlines before something else: what is at the same time comes first."""
        wanted: list[Effect] = []
        while self.until_wake(now) < 0:
            wanted += self._deadline(now)
        return wanted

    def _deadline(self, now: float) -> list[Effect]:
        event = Event("timer", NOBODY, self.core.wake)
        return self._addressed(self.core.apply(event), now)

    def until_wake(self, now: float) -> float:
        """Seconds until the policy's deadline; inf if there is none in this run."""
        core, limit = self.core, self.core.limits.seconds
        never = limit is not None and core.wake > limit
        if never or core.ended or not core.started:
            return math.inf
        return core.wake - self.seconds(now)

    def message(self, peer: Any, message: Message, now: float) -> list[Effect]:
        """A message of a peer, after the deadlines before it."""
        return [*self._overdue(now), *self._received(peer, message, now)]

    def _received(self, peer: Any, message: Message, now: float) -> list[Effect]:
        if self.core.ended:
            return []
        if message.kind is Kind.HEARTBEAT:
            return self._heartbeat(peer, message, now)
        if not 0 <= message.worker < self.core.num_workers:
            return self._turn_away(
                peer,
                f"there is no worker {message.worker}: this run has "
                f"{self.core.num_workers}; start it with more --max_workers.",
                now,
            )
        session = self.sessions[message.worker]
        if message.kind is Kind.HELLO:
            return self._hello(peer, session, message, now)
        if session.peer is not peer:
            return [effects.Send(peer, Message(Kind.HELLO))]  # who are you?
        if message.kind is Kind.PUSH:
            return self._push(session, message, now)
        if message.kind is Kind.READY:
            return self._ready(session, now)
        if message.kind is Kind.BYE:
            session.ready = False
            return self._leave(session, "finished", now)
        return []

    def closed(self, peer: Any, now: float) -> list[Effect]:
        """A connection has ended."""
        wanted = self._overdue(now)
        for session in self.sessions:
            if session.peer is peer:
                session.peer, session.ready = None, False
                if peer.ends_with_its_process:  # or else it may come back in time
                    wanted += self._leave(session, "died", now)
        return self._addressed(wanted, now)

    def tick(self, now: float, strangers: int = 0) -> list[Effect]:
        """Time has passed: leases, limits, and who waits for whom.

        Called several times a second. A longer pause was the server's own, and is not
        held against the workers.

        Args:
          now: the present time.
          strangers: connections refused for their key since the last call.
        """
        if self.core.ended:
            return []
        wanted = self._complaints.rest(now)
        for _ in range(strangers):
            wanted += self._complaints.add(_STRANGER, now)
        pause = now - self._ticked - self.settings.lease / 2
        self._ticked = now
        if pause > 0:
            for session in self.sessions:
                session.heard += pause
                session.progressed += pause
        if not self.core.started:
            return wanted + self._wait_for_workers(now)
        limit = self.core.limits.seconds
        if limit is not None and self.seconds(now) >= limit:
            self.core.end("end")
            return wanted
        wanted += self._overdue(now)
        wanted += self._check_leases(now)
        self._fail(self._idleness.sentence(now))
        quiet = max(self._pushes.latest, self._told_quiet)
        if now - quiet > self.settings.watchdog:
            self._told_quiet = now
            line = status.waits_for(status.of(self, now), self.settings.empty)
            wanted.append(effects.warning(line))
        return wanted

    def farewell(self, resumes: bool) -> list[Effect]:
        """Tells everybody that it is over."""
        text = {"reason": self.core.ended, "resumes": resumes}
        return [
            effects.Send(session.peer, Message(Kind.STOP, session.index, text=text))
            for session in self.sessions
            if session.peer is not None
        ]

    def _hello(self, peer, session: Session, message: Message, now) -> list[Effect]:
        try:
            nonce, process = str(message.text["nonce"]), str(message.text["process"])
            differs = run_config.first_difference(self.config, message.text["run"])
        except (TypeError, KeyError):
            return self._turn_away(peer, "it does not say what it would train.", now)
        if differs is not None:
            name, mine, its = differs
            return self._turn_away(
                peer,
                f"its {name} is {its!r}, the server's {mine!r}; start all processes "
                "with the same flags and the same code.",
                now,
            )
        if self._worker(session).state == EXPELLED:
            return [_dismissal(peer, _EXPELLED)]
        wanted: list[Effect] = []
        if session.nonce and session.nonce != nonce:
            wanted += self._leave(session, "replaced", now)
            if session.peer is not None:
                why = "another process has taken this one's place"
                wanted.append(_dismissal(session.peer, why))
            session.ready = False
        session.peer, session.nonce, session.process = peer, nonce, process
        session.heard = session.progressed = now
        welcome = {"incarnation": self._incarnation, "workers": self.core.num_workers}
        greeting = Message(Kind.WELCOME, session.index, text=welcome)
        return [*wanted, effects.Send(peer, greeting)]

    def _turn_away(self, peer, why: str, now: float) -> list[Effect]:
        said = self._complaints.add(f"refused {peer.name}: {why}", now)
        return [*said, effects.Send(peer, Message(Kind.REFUSED, text=why))]

    def _ready(self, session: Session, now: float) -> list[Effect]:
        session.ready = True
        session.heard = session.progressed = now
        if not self.core.started:
            if sum(s.ready for s in self.sessions) >= self._expected:
                return self._start(now)
            return self._addressed([effects.Tell(session.index)], now)
        if self._worker(session).active:
            return self._addressed([effects.Tell(session.index)], now)
        return self._join(session, now)

    def _heartbeat(self, peer, message: Message, now: float) -> list[Effect]:
        parsed = heartbeats(message.text, self.core.num_workers)
        if parsed is None:
            return []
        nonce, lives = parsed
        wanted: list[Effect] = []
        if any(s.nonce == nonce and s.peer is not None for s in self.sessions):
            wanted.append(effects.Send(peer, Message(Kind.HEARTBEAT_ACK)))
        for index, steps, waits in lives:
            session = self.sessions[index]
            if session.nonce != nonce or session.peer is None:
                wanted.append(effects.Send(peer, Message(Kind.HELLO)))
                continue
            session.heard = now
            moved = steps != session.steps
            if moved or waits:
                session.steps, session.progressed = steps, now
            if not self.core.started:
                continue
            session.ready = True  # it has said so, though perhaps nobody has heard it
            state = self._worker(session).state
            if state == LEFT and (moved or waits):
                wanted += self._join(session, now)
            elif waits and state == COMPUTING and now > session.answered + 1:
                wanted += self._addressed([effects.Tell(index)], now)
        return wanted

    def pushes(
        self, arrivals: Sequence[tuple[Any, Message | None]], times: Sequence[float]
    ) -> tuple[list[Effect], int]:
        """Pushes that have come together, as `message` would take them one by one.

        Args:
          arrivals: peers and their messages, None at the end of a connection.
          times: the present one for each, rising.

        Returns:
          What is to be done, and how many arrivals, from the first, are dealt with;
          0 if the first one needs `message`.
        """
        events, vectors = self._pushes.together(self.sessions, arrivals, times)
        if not events:
            return [], 0
        wanted, taken = self.core.apply_pushes(events, vectors)
        for event, now in zip(events[:taken], times, strict=False):
            self._pushes.note(event, now)
        return self._addressed(wanted, times[taken - 1]), taken

    def _push(self, session: Session, message: Message, now: float) -> list[Effect]:
        pushes = self._pushes
        if not pushes.is_answer(message):
            return self._addressed([effects.Tell(session.index)], now)
        event = pushes.event(message, now)
        if not pushes.finite(message.payload, event.loss):
            return self._refuse(session, now)
        pushes.note(event, now)
        return self._addressed(self.core.apply(event, message.payload), now)

    def _refuse(self, session: Session, now: float) -> list[Effect]:
        """A push was not finite: asked for again, a few times in a row."""
        worker = self._worker(session)
        count = worker.refused_in_row + 1
        line = (
            f"dropped push {worker.pushes + 1} of worker {session.index} "
            f"({session.process}): not finite ({count} in a row)"
        )
        wanted: list[Effect] = [effects.warning(line)]
        if count < self.settings.max_refused:
            event = Event("refuse", session.index, self.seconds(now))
            return wanted + self._addressed(self.core.apply(event), now)
        wanted += self._leave(session, "expelled", now)
        if session.peer is not None:
            wanted.append(_dismissal(session.peer, _EXPELLED))
        return wanted

    # Members.

    def _start(self, now: float) -> list[Effect]:
        """Begins the run with those who are ready."""
        self._begun = self._pushes.latest = self._ticked = now
        wanted = self.core.start()
        for session in self.sessions:
            if not session.ready:
                event = Event("leave", session.index, 0.0, reason="absent")
                wanted += self.core.apply(event)
        return self._addressed(wanted, now)

    def _join(self, session: Session, now: float) -> list[Effect]:
        seconds = self.seconds(now)
        session.heard = session.progressed = now
        line = f"{seconds:.1f} s: worker {session.index} joins ({session.process})"
        wanted = self.core.apply(Event("join", session.index, seconds))
        return [*self._addressed(wanted, now), effects.Say(line)]

    def _leave(self, session: Session, why: str, now: float) -> list[Effect]:
        """A member is gone, for one of `events.REASONS`; nothing if it is none."""
        if not self.core.started or not self._worker(session).active:
            return []
        event = Event("leave", session.index, self.seconds(now), reason=why)
        wanted = self._addressed(self.core.apply(event), now)
        if session.peer is not None:  # a grant that it has not read is worth nothing
            message = Message(Kind.WAIT, session.index)
            wanted.append(effects.Send(session.peer, message))
        return wanted

    def _check_leases(self, now: float) -> list[Effect]:
        wanted: list[Effect] = []
        for session in self.sessions:
            worker = self._worker(session)
            if not worker.active:
                continue
            if now - session.heard > self.settings.lease:
                wanted += self._leave(session, "silent", now)
            elif (
                worker.state == COMPUTING
                and now - session.progressed > self.settings.progress
            ):
                wanted += self._leave(session, "stuck", now)
        return wanted

    def _wait_for_workers(self, now: float) -> list[Effect]:
        """Starts without those who are late."""
        if now - self._opened < self.settings.start:
            return []
        late = [s.index for s in self.sessions[: self._expected] if not s.ready]
        if not any(session.ready for session in self.sessions):
            self._fail(
                f"no worker came within {self.settings.start:.0f} s; look at the "
                "workers' logs."
            )
            return []
        line = (
            f"starting without worker(s) {', '.join(map(str, late))}: not here after "
            f"{self.settings.start:.0f} s"
        )
        return [effects.warning(line), *self._start(now)]

    def _fail(self, why: str) -> None:
        """Ends the run, if there is a reason."""
        if why:
            self.failed = True
            self.core.end(why)

    # Answers.

    def _addressed(self, wanted: list[Effect], now: float) -> list[Effect]:
        """The effects, with messages to connections instead of `Tell`."""
        found: list[Effect] = []
        for effect in wanted:
            if type(effect) is not effects.Tell:
                found.append(effect)
                continue
            session = self.sessions[effect.worker]
            member = self._worker(session).active or not self.core.started
            if session.peer is not None and member:
                found.append(self._answer(session, now))
        return found

    def _answer(self, session: Session, now: float) -> Effect:
        """Where a worker stands: what to compute from, or to wait."""
        worker = self._worker(session)
        if worker.state != COMPUTING:
            message = Message(Kind.WAIT, session.index, grant_id=worker.grant)
            return effects.Send(session.peer, message)
        session.answered = now
        granted = (worker.pushes + 1, worker.grant, worker.pulled)
        message = Message(
            Kind.GRANT, session.index, *granted, mark=worker.mark, epoch=worker.epoch
        )
        return effects.Send(session.peer, message)

    def _worker(self, session: Session) -> Worker:
        return self.core.workers[session.index]

    def pushes_per_second(self, now: float) -> float:
        """Throughput of late; 0 before there is one."""
        return self._pushes.per_second(self.seconds(now))


def _dismissal(peer, why: str) -> Effect:
    """Ends a worker's part in a run that goes on."""
    text = {"reason": why, "resumes": False}
    return effects.Send(peer, Message(Kind.STOP, text=text))
