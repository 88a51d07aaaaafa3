"""What a cluster's server says of itself while it runs."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from abs_dssp import policies
from abs_dssp.cluster.core import COMPUTING, LEAVING, STATES, WAITING
from abs_dssp.cluster.measures import Histogram
from abs_dssp.history.events import Entry
from abs_dssp.training import evaluation

__all__ = [
    "STATES",
    "Status",
    "WorkerStatus",
    "missing",
    "of",
    "of_server",
    "waits_for",
]


@dataclasses.dataclass(frozen=True)
class WorkerStatus:
    """One worker."""

    index: int
    process: str  # such as "process 1, pid 4711"
    transport: str  # "reference", "shm" or "tcp"; "" while not connected
    clock: int  # pushes received
    policy_clock: int  # as the policy sees it: at a join, that of the slowest
    state: str  # "computing", "waiting", "absent", "left" or "expelled"
    since: float  # seconds in this state
    pulled: int  # version that it computes from
    staleness: int  # of its last push
    mean_staleness: float
    waiting_share: float  # of the run's time, 0..1
    restarts: int  # computations cancelled
    refused: int  # pushes dropped because they were not finite


@dataclasses.dataclass(frozen=True)
class Status:
    """The server at one moment."""

    policy: str
    seconds: float  # since the start
    pushes: int
    total: int | None  # pushes at which the run ends; None if time ends it
    version: int
    pushes_per_second: float  # lately
    epoch: float
    workers: tuple[WorkerStatus, ...]
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)  # latest
    train_loss: float = math.nan  # mean of the latest pushes
    bytes_received: int = 0
    bytes_sent: int = 0
    recoveries: int = 0
    messages_refused: int = 0
    # Of the pushes that this server took, by the names of `measures.HISTOGRAMS`.
    histograms: Mapping[str, Histogram] = dataclasses.field(default_factory=dict)
    # Seconds: "serving" since the run began or went on here, of which "idle"; beside it
    # "evaluations" and "checkpoints".
    spent: Mapping[str, float] = dataclasses.field(default_factory=dict)


def of(membership: Any, now: float, policy: str = "") -> Status:
    """The state of a run; what only the shell knows is left at its default.

    Args:
      membership: with its core.
      now: as `Membership` counts it.
      policy: as text.
    """
    core, seconds = membership.core, membership.seconds(now)
    return Status(
        policy=policy,
        seconds=seconds,
        pushes=core.pushes,
        total=core.limits.pushes,
        version=core.version,
        pushes_per_second=membership.pushes_per_second(now),
        epoch=core.epochs,
        workers=tuple(
            _of_worker(worker, session, seconds, core.clock_of(session.index))
            for worker, session in zip(core.workers, membership.sessions, strict=True)
        ),
    )


def of_server(server: Any, now: float, since: float) -> Status:
    """The state of a run, with what its server knows.

    Args:
      server: a `Server`.
      now: as `Membership` counts it.
      since: seconds of the run when this server began.
    """
    core, sizes = server.core, server.sizes
    status = of(server.membership, now, policies.describe(server.training.policy))
    record = server.records[-1] if server.records else {}
    return dataclasses.replace(
        status,
        measures={k: v for k, v in record.items() if k not in evaluation.BASIC},
        train_loss=core.estimate.recent,
        bytes_received=core.pushes * sizes.push,
        bytes_sent=sum(worker.grant for worker in core.workers) * sizes.pull,
        recoveries=server.recoveries,
        messages_refused=server.refused,
        histograms=server.measures.histograms(),
        spent={
            "serving": status.seconds - since,
            "idle": server.measures.idle,
            "evaluations": server.evaluations.seconds,
            "checkpoints": server.checkpoints.seconds,
        },
    )


def _of_worker(
    worker: Any, session: Any, seconds: float, policy_clock: int
) -> WorkerStatus:
    waited = worker.waited
    if worker.state == WAITING:
        waited += seconds - worker.since
    return WorkerStatus(
        index=session.index,
        process=session.process,
        transport=session.peer.transport if session.peer is not None else "",
        clock=worker.pushes,
        policy_clock=policy_clock,
        state=worker.state,
        since=max(0.0, seconds - worker.since),
        pulled=worker.pulled,
        staleness=worker.staleness,
        mean_staleness=worker.staleness_sum / max(1, worker.pushes),
        waiting_share=min(1.0, waited / seconds) if seconds > 0 else 0.0,
        restarts=worker.restarts,
        refused=worker.refused,
    )


def missing(entries: Iterable[Entry], expected: int) -> str:
    """Which workers were expected and are not there at the end, and why.

    Args:
      entries: of the whole log.
      expected: the workers 0 to `expected` - 1 were; others come as they like.

    Returns:
      Such as "worker 1 never came; worker 3 is gone: its connection ended"; empty if
      all are there or have left in order.
    """
    left: dict[int, str] = {}
    for entry in entries:
        if entry.event.kind == "leave":
            left[entry.event.worker] = entry.event.reason
        elif entry.event.kind == "join":
            left.pop(entry.event.worker, None)
    how = LEAVING | {"absent": "never came"}
    return "; ".join(
        f"worker {worker} {how[reason]}"
        for worker, reason in sorted(left.items())
        if worker < expected and reason != "finished"
    )


def waits_for(status: Status, patience: float) -> str:
    """Who waits for whom, for a run in which nothing happens.

    Args:
      status: of the run.
      patience: seconds in which somebody must compute again.
    """
    present = [w for w in status.workers if w.state in (COMPUTING, WAITING)]
    waiting = [str(w.index) for w in present if w.state == WAITING]
    others = [w for w in status.workers if w.state in ("computing", "absent")]
    # A worker's state may change without a push, but the last push changed one.
    quiet = min((w.since for w in present if w.clock), default=status.seconds)
    line = f"no push for {quiet:.0f} s"
    if waiting:
        one = len(waiting) == 1
        line += f": worker{'' if one else 's'} {', '.join(waiting)} wait{'s' * one}"
    for worker in others[:4]:
        does = "been computing" if worker.state == "computing" else "been absent"
        line += (
            f"; worker {worker.index} ({worker.process or 'not connected'}) has {does} "
            f"for {worker.since:.0f} s"
        )
    if len(others) > 4:
        line += f"; {len(others) - 4} more compute or are absent"
    if not any(w.state == COMPUTING for w in present):
        line += f"; nobody computes, which ends the run after {patience:.0f} s"
    return line
