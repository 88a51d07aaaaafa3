"""Optax optimisers whose schedule may follow either clock of a stale run."""

from abs_dssp.training.optimizers import *  # noqa: F403
from abs_dssp.training.optimizers import __all__ as __all__
