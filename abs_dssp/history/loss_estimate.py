"""The training loss as a loss-driven policy sees it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


class LossEstimate:
    """The training loss as a loss-driven policy sees it.

    The objective at the initial parameters first, then the mean loss of the pushes of
    the latest whole segment of 10 N pushes: a function of the losses alone, so that it
    can be had again from a record of them.

    Example:
      >>> estimate = LossEstimate(num_workers=1, first=2.5)
      >>> for loss in [1.0] * 9:
      ...     estimate.add(loss)
      >>> estimate.value
      2.5
      >>> estimate.add(2.0)
      >>> round(estimate.value, 6)
      1.1
    """

    def __init__(self, num_workers: int, first: float = math.nan):
        self._every = 10 * num_workers
        self.first = first
        self._mean: float | None = None
        self._segment: list[float] = []

    @property
    def value(self) -> float:
        """The estimate for the next decision."""
        return self.first if self._mean is None else self._mean

    @property
    def recent(self) -> float:
        """The mean loss of the pushes since the latest whole segment, if any."""
        return float(np.mean(self._segment)) if self._segment else self.value

    def add(self, loss: float) -> None:
        """One more push."""
        self._segment.append(loss)
        if len(self._segment) == self._every:
            self._mean = float(np.array(self._segment, np.float32).mean())
            self._segment.clear()

    def snapshot(self) -> dict[str, Any]:
        """The state, as values for JSON."""
        return {"mean": self._mean, "segment": list(self._segment)}

    def restore(self, note: Mapping[str, Any]) -> None:
        """Goes on from what `snapshot` returned; `first` is not part of it."""
        self._mean, self._segment = note["mean"], list(note["segment"])
