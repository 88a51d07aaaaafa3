"""Times and limits of a cluster, in one place."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Settings:
    """Seconds unless said otherwise."""

    beat: float = 1.0  # between two signs of life of a process
    lease: float = 10.0  # without one, its workers have left
    progress: float = 300.0  # without a finished step, a worker is stuck
    start: float = 300.0  # to wait for all workers at the beginning
    reconnect: float = 300.0  # workers look for a server that is gone
    resend: float = 2.0  # before an unanswered message is sent again
    empty: float = 60.0  # the server waits for somebody to come back
    watchdog: float = 30.0  # without a push: say who waits for whom
    checkpoint: float = 60.0  # between two checkpoints
    evaluate: float = 10.0  # between two evaluations
    max_refused: int = 3  # pushes in a row that are not finite, then expelled
    # Look for messages so long before sleeping, if cores are free: longer than the
    # other side needs for a small push, since waking up takes as long as that.
    spin: float = 300e-6
    sync_log: bool = False  # wait for the disk at every push: survives a loss of power
    drop: float = 0.0  # share of messages that a worker loses, for tests
    duplicate: float = 0.0  # share of messages that it sends twice, for tests

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise ValueError(f"{field.name} must be at least 0, got {value}.")
        if self.lease <= self.beat:
            raise ValueError(
                f"lease must be longer than beat, got {self.lease} and {self.beat}."
            )


def spin_seconds(settings: Settings, busy: int) -> float:
    """How long to spin where `busy` processes share this machine's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return settings.spin if busy <= cores else 0.0
