"""Virtual time: `schedule`, `sweep` and `train`."""

from abs_dssp.simulation.scheduling import DeadlockError, schedule, sweep
from abs_dssp.training.virtual import push_limit, train

__all__ = ["DeadlockError", "push_limit", "schedule", "sweep", "train"]
