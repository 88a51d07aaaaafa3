"""Optax optimisers whose schedule may follow either clock of a stale run."""

from abs_dssp.training.optimizers import (
    CLOCKS,
    DelayedNesterovState,
    delayed_nesterov,
    drops,
    elementwise,
    on_clock,
    sgd,
    step_decay,
)

__all__ = [
    "CLOCKS",
    "DelayedNesterovState",
    "delayed_nesterov",
    "drops",
    "elementwise",
    "on_clock",
    "sgd",
    "step_decay",
]
