"""What a cluster's server says of itself while it runs."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class WorkerStatus:
    """One worker."""

    index: int
    place: str  # such as "process 1, pid 4711"
    transport: str  # "reference", "shm" or "zmq"; "" while not connected
    clock: int  # pushes received
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
    measures: Mapping[str, float]  # of the latest evaluation; may be empty
    train_loss: float  # mean of the latest pushes
    bytes_received: int
    bytes_sent: int
    recoveries: int
    messages_refused: int
    workers: tuple[WorkerStatus, ...]
