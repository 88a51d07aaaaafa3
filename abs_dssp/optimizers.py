"""Optax optimisers whose schedule may follow either clock of a stale run.

What `parse` knows by name is here too: `optimizers.adam` is `optax.adam`.
"""

from typing import Any

from abs_dssp.training import named_optimizers, optimizers
from abs_dssp.training.named_optimizers import *  # noqa: F403
from abs_dssp.training.optimizers import *  # noqa: F403

__all__ = [*optimizers.__all__, *named_optimizers.__all__]


def __getattr__(name: str) -> Any:
    return named_optimizers.named(name)
