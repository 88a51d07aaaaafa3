"""Virtual time of a run in which the fragments of the parameters are pushed in turn.

Every fragment has a `Machine` of its own. A worker computes, pushes the next fragment,
waits until that fragment's rule releases it, and computes again; or it computes on, and
waits some pushes later. The events are those of `event_loop`, one by one on the host:
with one fragment the rows are the same.
"""

import heapq
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from abs_dssp import checks, policies
from abs_dssp.history import builder, fragments
from abs_dssp.history.events import Event
from abs_dssp.history.fragments import FragmentedTrace
from abs_dssp.history.machine import Machine
from abs_dssp.policies import Policy
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delay_base, event_rows
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delay_base import BLOCK, Delays
from abs_dssp.simulation.event_rows import DeadlockError

_DRAWN = 1024  # durations of each worker that are drawn at first, at most


def require_no_absences(where: str, absences: Absences | None) -> None:
    """Refuses deaths, after which a worker would have other values of each fragment.

    Args:
      where: the caller's name, for messages.
      absences: of the run.

    Raises:
      ValueError: if there are any.
    """
    if absences is not None:
        raise ValueError(
            f"{where}: fragments need workers that stay, got absences="
            f"{absences.spec!r}; leave absences out, or take fragments=1."
        )


def overlap_of(where: str, overlap: int, fragments: int) -> int:
    """Checks how many pushes a worker makes before it takes a release.

    Args:
      where: the caller's name, for messages.
      overlap: as it was given.
      fragments: F.

    Raises:
      ValueError: unless it is one of 0..F-1.

    Example:
      >>> overlap_of("train", 2, fragments=2)
      Traceback (most recent call last):
      ValueError: train: overlap must be below fragments=2, got 2: a worker pushes no \
fragment again before it has taken it.
    """
    overlap = checks.whole(where, "overlap", overlap)
    if overlap >= fragments:
        raise ValueError(
            f"{where}: overlap must be below fragments={fragments}, got {overlap}: a "
            "worker pushes no fragment again before it has taken it."
        )
    return overlap


def require_policy(where: str, policy: Policy, num_workers: int) -> None:
    """Refuses a rule that has no meaning for one fragment among several.

    A cancelled computation would be one that other fragments need, a deadline of one
    fragment may fall into a computation for another, and an estimate of the loss is of
    all fragments, so that their histories would depend on each other.

    Args:
      where: the caller's name, for messages.
      policy: the rule.
      num_workers: N.

    Raises:
      ValueError: if it cancels computations, sets deadlines or reads the loss.

    Example:
      >>> require_policy("train", policies.ringmaster(2, threshold=2, stop=True), 2)
      Traceback (most recent call last):
      ValueError: train: fragments need a policy that cancels no computation, sets no \
deadline and reads no loss, got ringmaster(threshold=2,stop=True), which may cancel \
computations; take asp(), ssp() or dssp(), or fragments=1.
    """
    why = ""
    if policy.on_time is not None:
        why = "sets deadlines"
    elif policy.properties.restarts:
        why = "may cancel computations"
    elif policies.reads_loss(policy, num_workers):
        why = "reads the loss"
    if why:
        raise ValueError(
            f"{where}: fragments need a policy that cancels no computation, sets no "
            f"deadline and reads no loss, got {policies.describe(policy)}, which "
            f"{why}; take asp(), ssp() or dssp(), or fragments=1."
        )


class _Push(NamedTuple):
    """A push that is computed or on its way; in the order in which links serve them."""

    served: float  # seconds; arrival, or on a shared link the end of the computation
    worker: int
    number: int  # pushes of this worker before it
    duration: float  # of its computation


class _Workers:
    """What the workers are doing, and the durations drawn for them.

    A worker's next computation begins when the one before has ended and, with o =
    `overlap`, when it was released for its o-th push before that one.
    """

    def __init__(
        self,
        delays: Delays,
        links: Sequence[Communication],
        seed: int,
        num_pushes: int,
        overlap: int,
    ):
        count = delays.num_workers
        self._delays, self._seed, self._overlap = delays, seed, overlap
        # Each table is another program: as few as can be.
        drawn = -(-min(num_pushes, _DRAWN) // BLOCK) * BLOCK
        self._drawn = delay_base.table(delays, drawn, seed)
        with jax.enable_x64(True):
            each = [communication_lib.per_worker(link, count) for link in links]
        self._seconds = [np.asarray(seconds) for seconds in each]
        self._shared = links[0].shared
        self._link = 0.0  # when the shared link is free
        self._links = [0.0] * count  # when each worker's own is
        self._begun = [0] * count  # computations
        self._ends = [0.0] * count  # of the latest computation
        # Since when a worker may compute with each fragment; inf before it may.
        self._released = np.zeros((count, len(links)))
        self._pushes: list[_Push] = []  # a heap
        for worker in range(count):
            self._go_on(worker)

    def fragment(self, number: int) -> int:
        """The one that a push is of."""
        return number % len(self._seconds)

    def needed(self, worker: int) -> int:
        """The fragment that a worker's next computation waits for."""
        return self.fragment(self._begun[worker] - 1 - self._overlap)

    def release(self, worker: int, fragment: int, now: float) -> None:
        """A worker is given a fragment, and begins what it can begin."""
        self._released[worker, fragment] = now
        self._go_on(worker)

    def next(self) -> tuple[_Push, float]:
        """Which push is next, and when it arrives; inf if nobody computes."""
        if not self._pushes:
            return _Push(math.inf, 0, 0, 0.0), math.inf
        push = self._pushes[0]  # of those served together that of the first worker
        now = push.served
        if self._shared:
            now = max(now, self._link) + self._transfer(push)
        return push, now

    def arrived(self, now: float) -> None:
        """The push that `next` told of is taken."""
        heapq.heappop(self._pushes)
        self._link = now

    def _go_on(self, worker: int) -> None:
        while True:
            number, begin = self._begun[worker], self._ends[worker]
            if number > self._overlap:
                begin = max(begin, self._released[worker, self.needed(worker)])
                if math.isinf(begin):
                    return
            self._begin(worker, number, begin)

    def _begin(self, worker: int, number: int, begin: float) -> None:
        if number == self._drawn.shape[1]:
            self._drawn = delay_base.table(self._delays, 8 * number, self._seed)
        duration = float(self._drawn[worker, number])
        served = self._ends[worker] = begin + duration
        push = _Push(served, worker, number, duration)
        if not self._shared:
            served = max(served, self._links[worker]) + self._transfer(push)
            self._links[worker] = served
            push = push._replace(served=served)
        heapq.heappush(self._pushes, push)
        self._released[worker, self.fragment(number)] = math.inf
        self._begun[worker] += 1

    def _transfer(self, push: _Push) -> float:
        return float(self._seconds[self.fragment(push.number)][push.worker])


def schedule(
    policy: Policy,
    delays: Delays,
    links: Sequence[Communication],
    num_pushes: int | None,
    until: float | None,
    seed: int,
    settings: dict[str, Any],
    overlap: int = 0,
) -> FragmentedTrace:
    """Runs a policy in virtual time, once for every fragment.

    Args:
      policy: the rule of every fragment; see `require_policy`.
      delays: durations of the computations.
      links: of each of F fragments, the time of a push of it; all `shared` or none, and
        all with the same `update`.
      num_pushes: stop after so many; None where only time ends the run.
      until: seconds; the last push comes at this time or before. None: no limit.
      seed: for the durations.
      settings: the trace's remaining fields, without the seed.
      overlap: pushes of other fragments that a worker makes before it takes what it was
        given for one; below F.

    Returns:
      A validated trace.

    Raises:
      DeadlockError: if every worker waits before a limit is reached.
      ValueError: for a policy that fragments cannot have, or where time stands still.
    """
    count = delays.num_workers
    require_policy("schedule", policy, count)
    machines = [Machine(policy, count) for _ in links]
    # Since when each worker computes for each fragment, as its state machine has it
    # where a commit keeps nobody waiting.
    released = np.zeros((len(links), count))
    made = fragments.Builder(count, len(links))
    workers = _Workers(delays, links, seed, num_pushes or _DRAWN, overlap)
    update = 0.0 if links[0].update is None else float(links[0].update)
    busy = 0.0
    still, latest = 0, -1.0
    while num_pushes is None or len(made) < num_pushes:
        push, arrival = workers.next()
        if math.isinf(arrival):
            waits = [workers.needed(each) for each in range(count)]
            _stuck(settings, waits, len(made))
        now = max(arrival, busy) if update else arrival
        if until is not None and now > until:
            break
        worker, fragment = push.worker, workers.fragment(push.number)
        workers.arrived(arrival)
        event = Event("push", worker, now, push.duration)
        done = machines[fragment].apply(event)
        if done.restart:
            raise ValueError(
                f"schedule: {settings['policy']} cancelled a computation at push "
                f"{len(made) + 1}, though its properties say restarts=False."
            )
        began = released[fragment, worker]
        made.push(fragment, event, done._replace(released=began))
        ready = now + update if done.commit else now
        busy = ready
        for each in done.release:
            released[fragment, each] = ready
            workers.release(each, fragment, ready)
        still, latest = (still + 1 if now == latest else 0), now
        if num_pushes is None and still > event_rows.STILL:
            event_rows.refuse_standstill(still, now)
    endings = [
        builder.ending(machine.state)._replace(released=since)
        for machine, since in zip(machines, released, strict=True)
    ]
    settings = {k: v for k, v in settings.items() if k != "num_workers"}
    return made.trace(endings, seed=seed, overlap=overlap, **settings).validate()


def _stuck(settings: dict[str, Any], waits: Sequence[int], pushes: int) -> None:
    """Says who waits for which fragment."""
    raise DeadlockError(
        f"every worker waits, nobody computes, at push {pushes + 1}: "
        f"{settings['policy']} releases nobody any more; workers 0 to "
        f"{len(waits) - 1} wait at fragments {', '.join(map(str, waits))}. Where these "
        "differ, each fragment waits for those who wait at another: take a rule that "
        "waits for fewer workers."
    )
