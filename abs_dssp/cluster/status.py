"""What a cluster's server says of itself while it runs."""

import dataclasses
from collections.abc import Mapping

STATES = ("computing", "waiting", "absent", "left", "expelled")  # of a worker


@dataclasses.dataclass(frozen=True)
class WorkerStatus:
    """One worker."""

    index: int
    place: str  # such as "process 1, pid 4711"
    transport: str  # "reference", "shm" or "zmq"; "" while not connected
    clock: int  # pushes received
    state: str  # one of STATES
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
    measures: Mapping[str, float]  # of the latest evaluation; may be empty
    train_loss: float  # mean of the latest pushes
    bytes_received: int
    bytes_sent: int
    recoveries: int
    messages_refused: int
    workers: tuple[WorkerStatus, ...]


def waits_for(status: Status) -> str:
    """One line about who waits for whom, for a run in which nothing happens.

    Example: `no push for 41 s: worker 0 waits; worker 1 (process 1, pid 4711) has been
    computing for 41 s`.
    """
    present = [w for w in status.workers if w.state in ("computing", "waiting")]
    waiting = [str(w.index) for w in present if w.state == "waiting"]
    others = [w for w in status.workers if w.state in ("computing", "absent")]
    # A worker's state may change without a push, but the last push changed one.
    quiet = min((w.since for w in present if w.clock), default=status.seconds)
    line = f"no push for {quiet:.0f} s"
    if waiting:
        one = len(waiting) == 1
        line += f": worker{'' if one else 's'} {', '.join(waiting)} wait{'s' * one}"
    for worker in others[:4]:
        line += (
            f"; worker {worker.index} ({worker.place or 'not connected'}) has been "
            f"{worker.state} for {worker.since:.0f} s"
        )
    if len(others) > 4:
        line += f"; {len(others) - 4} more compute or are absent"
    if not any(w.state == "computing" for w in present):
        line += "; nobody computes"
    return line
