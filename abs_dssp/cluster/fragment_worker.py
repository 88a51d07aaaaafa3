"""A worker of a run of several fragments, each with a server of its own.

It computes, pushes the next fragment, waits until that fragment's server grants a newer
version of it, takes this one fragment, and computes again. Whatever a server grants at
another time (it had taken the worker for dead, or was started again without the end of
its log) is taken before the next computation. With every push the worker tells what it
has taken since the one before, so that a replay needs to know nothing else.

The next fragment is the one that the worker has pushed least, by the clocks of the
rules, the first of several: fragment after fragment, unless it has left one and joined
again. Where it has done so while it waits for another, it waits no more. So nobody
waits for ever: of all clocks of all fragments take the least, of the first such
fragment. Its worker pushes there before it pushes or waits anywhere else where it would
be further on, so that it computes, or waits where nobody is behind it.
"""

import contextlib
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import jax

from abs_dssp.cluster.fragment_links import Link, StoppedError
from abs_dssp.cluster.fragment_server import OVER
from abs_dssp.cluster.messages import Kind, Message, MessageError, push_for
from abs_dssp.cluster.patience import Patience
from abs_dssp.cluster.push_store import Turn
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.worker import StragglerInjection, WorkerPlan
from abs_dssp.cluster.worker_errors import OverError
from abs_dssp.training.fragmented import Division

_TEND = 0.5  # seconds between two looks at the servers that are not waited for


class FragmentWorker:
    """The work of one device; `run` in a thread of its own."""

    def __init__(
        self,
        index: int,
        devices: Sequence[Any],
        plan: WorkerPlan,
        parts: Division,
        injection: StragglerInjection,
        waits: bool = True,
        system: System = REAL,
    ):
        """Prepares a worker; `links` come before `run`.

        Args:
          index: 0..N-1.
          devices: the first computes.
          plan: what is computed.
          parts: the fragments.
          injection: straggling.
          waits: whether the rule makes workers wait; where it does not, one that comes
            back far behind others pushes fragment after fragment all the same.
          system: has the clock.
        """
        self.index, self.settings, self._injection = index, plan.settings, injection
        self._waits = waits
        self._system, self.now = system, system.time.perf_counter
        self._functions, self._parts = plan.functions, parts
        self._device = devices[0]
        self._data = self._functions.placed(plan.task.data, devices)
        self._key = self._functions.placed(jax.random.key(plan.seed), devices)
        self._random = random.Random(f"{plan.seed} {index}")
        self.links: list[Link] = []  # by fragment
        self.steps = 0  # finished steps: progress
        self.waits_at: int | None = None  # whose server is waited for
        self.reason = ""  # why the run is over
        self.resumes = False  # whether it may go on later
        self.leaving = False  # set from outside: end soon
        # What it was last given of every fragment, and the sum of their versions.
        self.seen: tuple[tuple[Any, ...], int] | None = None
        self._computed = 0
        self._tended = 0.0

    def run(self) -> None:
        """Works until a server says that the run is over.

        Raises:
          WorkerError: if one refuses this worker, or cannot be found for too long.
        """
        over: dict[str, Any] | None = None  # what the other servers are told
        try:
            self._compile()
            self._work()
        except StoppedError as stop:
            self.reason, self.resumes = str(stop), stop.resumes
            if stop.everybody:
                over = {OVER: self.reason, "resumes": self.resumes}
        except OverError as stop:
            self.reason = str(stop)
            over = {OVER: self.reason, "resumes": False}
        finally:
            for link in self.links:
                with contextlib.suppress(OSError, MessageError):  # it has ended, too
                    link.send(Message(Kind.BYE, self.index, text=over))
                link.close()

    def _compile(self) -> None:
        """Compiles everything before the clock starts."""
        vector = self._functions.initial(self._key)
        made = self._walk(self._whole(jax.numpy.copy(vector)), 1, 0, 0.0)
        if made is None:
            self._leave()
        own, _ = made
        for link in self.links:
            base = self._functions.pulled(self._parts.part(vector, link.fragment))
            self._push(base, own, link.fragment).block_until_ready()
            self._parts.put(own, link.fragment, base)
        self.steps += 1

    def _walk(self, own: Any, number: int, version: int, epoch: float) -> Any:
        def paused() -> bool:
            self.steps += 1
            return self.leaving

        return self._functions.walk(
            own, self._data, self._key, self.index, number, version, epoch, paused
        )

    def _push(self, base: Any, own: Any, fragment: int) -> Any:
        return self._parts.push(base, own, fragment, self._functions.wire.push)

    def _whole(self, own: Any) -> Any:
        """All variables, and behind them the local optimiser at its start."""
        if not self._functions.config.keeps_local_state:
            return own
        return jax.numpy.concatenate([own, self._functions.start_local(own)])

    def _work(self) -> None:
        links = self.links
        for link in links:
            self._await(link, functools.partial(_granted, link))
        bases: list[Any] = [self._taken(link) for link in links]
        own = self._whole(self._parts.join(bases))
        number, begins = 0, True
        took: dict[int, tuple[int, int]] = {}  # version and mark, by fragment
        for link in links:
            assert link.grant is not None
            number += link.grant.clock - 1
            took[link.fragment] = link.grant.version, link.grant.mark
        versions = [took[link.fragment][0] for link in links]
        turn = self._least_pushed()
        while True:
            for link in links:  # what servers grant at another time
                if link.part is not None:
                    assert link.grant is not None
                    base = bases[link.fragment] = self._taken(link)
                    own = self._parts.put(own, link.fragment, base)
                    took[link.fragment] = link.grant.version, link.grant.mark
                    versions[link.fragment] = link.grant.version
            self.seen = tuple(bases), sum(versions)
            if self._waits:
                turn = self._least_pushed()
            if turn.ahead:
                self._await(turn, functools.partial(self._is_free, turn))
                continue
            link, grant = turn, turn.grant
            assert grant is not None
            made = self._compute(own, number + 1, grant)
            moved, loss, seconds = made
            taken = tuple((fragment, *took[fragment]) for fragment in sorted(took))
            told = Turn(number + 1, begins, taken)
            vector = self._push(bases[link.fragment], moved, link.fragment)
            message = push_for(grant, seconds=seconds, loss=loss, text=list(told))
            self._exchange(link, message, vector)
            assert link.grant is not None
            # The push counts, or else never was.
            if link.ahead or link.grant.clock > grant.clock:
                own, number, begins, took = moved, number + 1, False, {}
                turn = links[(link.fragment + 1) % len(links)]

    def _least_pushed(self) -> Link:
        return min(self.links, key=lambda link: (link.clock, link.fragment))

    def _is_free(self, link: Link) -> bool:
        """Whether a fragment that was pushed need not be waited for any more."""
        return not link.ahead or self._least_pushed() is not link

    def _taken(self, link: Link) -> Any:
        """A fragment that was granted, on the device."""
        part, link.part = jax.device_put(link.part, self._device), None
        jax.block_until_ready(part)
        return part

    def _compute(self, own: Any, number: int, grant: Message):
        """Variables after the local steps, their loss, and the seconds they took."""
        begun = self.now()
        made = self._walk(own, number, grant.version, grant.epoch)
        if made is None:
            self._leave()
        moved, loss = made
        moved.block_until_ready()
        self.steps += 1
        self._computed += 1
        took = self.now() - begun
        end = self.now() + self._injection.missing(self._computed - 1, took)
        while (missing := end - self.now()) > 0:
            self.steps += 1  # asleep on purpose is not stuck
            self._system.time.sleep(min(missing, 0.2))
            if self.leaving:
                self._leave()
        return moved, float(loss), self.now() - begun

    def _exchange(self, link: Link, message: Message, vector: Any) -> None:
        """Pushes, until the fragment's server grants something else to compute from.

        Or until the worker has come back to another fragment so far behind that others
        wait for it there: these may be those for whom it would wait here.
        """
        before, sent = link.grant, -1.0

        def granted() -> bool:
            nonlocal sent
            if link.grant is not before:
                return True
            if link.logged and self._waits and self._least_pushed() is not link:
                link.go_on()
                return True
            late = self.now() - sent > self.settings.resend
            if sent < 0 or (late and not link.acknowledged):
                link.send(message, vector)
                sent = self.now()
            return False

        def again() -> None:
            nonlocal sent
            sent = -1.0  # a new connection has not seen it

        self._await(link, granted, again)

    def _await(
        self,
        link: Link,
        done: Callable[[], bool],
        again: Callable[[], None] = lambda: None,
    ) -> None:
        """Talks to a server until something is so, whatever becomes of connections."""
        self.waits_at = link.fragment
        missing = f"worker {self.index}: no server of fragment {link.fragment}"
        patience = Patience(
            missing, "its process", self.settings, self._random, self._system
        )
        while True:
            if self.leaving:
                self._leave()
            try:
                fresh = not link.introduced
                link.open(self.settings.lease)
                if fresh:
                    again()
                if done():
                    break
                link.poll(min(0.2, self.settings.resend))
                patience.found()
            except (OSError, MessageError) as error:  # ClosedError is an OSError
                link.close()
                patience.fail(error)
            self._tend(link)
        self.waits_at = None
        self._tend(link, now=True)

    def _tend(self, waited_for: Link, now: bool = False) -> None:
        """Looks after the other servers now and then: what they grant, or the end."""
        if not now and self.now() - self._tended < _TEND:
            return
        self._tended = self.now()
        for link in self.links:
            if link is waited_for or link.grant is None:
                continue
            try:
                link.open(1.0)
                while link.poll(0.0):
                    pass
            except (OSError, MessageError):
                link.close()  # found again when it is waited for, or at the next look

    def _leave(self) -> None:
        raise StoppedError("interrupted by SIGTERM", True)


def _granted(link: Link) -> bool:
    return link.part is not None
