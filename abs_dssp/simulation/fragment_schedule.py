"""Virtual time of a run in which the fragments of the parameters are pushed in turn.

Every fragment has a `Machine` of its own. A worker computes, pushes the next fragment,
waits until that fragment's rule releases it, and computes again. The events are those
of `event_loop`, one by one on the host: with one fragment the rows are the same.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp import policies
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


class _Workers:
    """What the workers are doing, and the durations drawn for them."""

    def __init__(
        self,
        delays: Delays,
        links: Sequence[Communication],
        seed: int,
        num_pushes: int,
    ):
        count = delays.num_workers
        self._delays, self._seed = delays, seed
        # Each table is another program: as few as can be.
        drawn = -(-min(num_pushes, _DRAWN) // BLOCK) * BLOCK
        self._drawn = delay_base.table(delays, drawn, seed)
        with jax.enable_x64(True):
            each = [communication_lib.per_worker(link, count) for link in links]
        self._seconds = [np.asarray(seconds) for seconds in each]
        self._shared = links[0].shared
        self._link = 0.0  # when the shared link is free
        self._begun = [0] * count  # computations
        self.pushes = [0] * count
        self.duration = [0.0] * count  # of the present computation
        self._finish = np.zeros(count)
        for worker in range(count):
            self.begin(worker, 0.0)

    def fragment(self, worker: int) -> int:
        """The one that a worker pushes next."""
        return self.pushes[worker] % len(self._seconds)

    def before(self, worker: int) -> int:
        """The one that a worker has pushed last."""
        return (self.pushes[worker] - 1) % len(self._seconds)

    def begin(self, worker: int, now: float) -> None:
        """A worker begins a computation."""
        number = self._begun[worker]
        if number == self._drawn.shape[1]:
            self._drawn = delay_base.table(self._delays, 8 * number, self._seed)
        self._begun[worker] += 1
        self.duration[worker] = float(self._drawn[worker, number])
        self._finish[worker] = now + self.duration[worker]
        if not self._shared:
            self._finish[worker] += self._transfer(worker)

    def next(self) -> tuple[int, float]:
        """Who pushes next, and when that arrives; inf if nobody computes."""
        worker = int(np.argmin(self._finish))  # first of equal ones
        now = float(self._finish[worker])
        if self._shared:
            now = max(now, self._link) + self._transfer(worker)
        return worker, now

    def arrived(self, worker: int, now: float) -> None:
        """The push that `next` told of is taken."""
        self._finish[worker] = math.inf
        self._link = now
        self.pushes[worker] += 1

    def _transfer(self, worker: int) -> float:
        return float(self._seconds[self.fragment(worker)][worker])


def schedule(
    policy: Policy,
    delays: Delays,
    links: Sequence[Communication],
    num_pushes: int | None,
    until: float | None,
    seed: int,
    settings: dict[str, Any],
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
    workers = _Workers(delays, links, seed, num_pushes or _DRAWN)
    update = 0.0 if links[0].update is None else float(links[0].update)
    busy = 0.0
    still, latest = 0, -1.0
    while num_pushes is None or len(made) < num_pushes:
        worker, arrival = workers.next()
        if math.isinf(arrival):
            waits = [workers.before(each) for each in range(count)]
            _stuck(settings, waits, len(made))
        now = max(arrival, busy) if update else arrival
        if until is not None and now > until:
            break
        fragment, duration = workers.fragment(worker), workers.duration[worker]
        workers.arrived(worker, arrival)
        event = Event("push", worker, now, duration)
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
            workers.begin(each, ready)
        still, latest = (still + 1 if now == latest else 0), now
        if num_pushes is None and still > event_rows.STILL:
            event_rows.refuse_standstill(still, now)
    endings = [
        builder.ending(machine.state)._replace(released=since)
        for machine, since in zip(machines, released, strict=True)
    ]
    settings = {k: v for k, v in settings.items() if k != "num_workers"}
    return made.trace(endings, seed=seed, **settings).validate()


def _stuck(settings: dict[str, Any], waits: Sequence[int], pushes: int) -> None:
    """Says who waits for which fragment."""
    raise DeadlockError(
        f"every worker waits, nobody computes, at push {pushes + 1}: "
        f"{settings['policy']} releases nobody any more; workers 0 to "
        f"{len(waits) - 1} wait at fragments {', '.join(map(str, waits))}. Where these "
        "differ, each fragment waits for those who wait at another: take a rule that "
        "waits for fewer workers."
    )
