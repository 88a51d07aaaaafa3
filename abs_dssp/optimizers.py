"""Optax optimisers whose schedule may follow either clock of a stale run."""

from abs_dssp.training import named_optimizers, optimizers
from abs_dssp.training.named_optimizers import *  # noqa: F403
from abs_dssp.training.optimizers import *  # noqa: F403

__all__ = [*optimizers.__all__, *named_optimizers.__all__]
