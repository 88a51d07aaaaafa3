"""Means and spreads over seeds."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def spread(
    values: Sequence[float] | np.ndarray, form: str = "{:.3f}", deviation: str = ""
) -> str:
    """Mean and sample standard deviation, as `0.512 ± 0.004`.

    Args:
      values: one per seed; a single one has no deviation.
      form: of the mean.
      deviation: form of the deviation, that of the mean by default.
    """
    values = np.asarray(values, float)
    text = form.format(values.mean())
    if len(values) < 2:
        return text
    return f"{text} ± {(deviation or form).format(values.std(ddof=1))}"


def mean_time(times: Sequence[float | None]) -> float | None:
    """The mean over seeds; None unless every seed reached the target."""
    known = [t for t in times if t is not None]
    return float(np.mean(known)) if known and len(known) == len(times) else None


def time_text(
    times: Sequence[float | None], form: str = "{:.0f}", unit: str = ""
) -> str:
    """Mean and spread of the seeds that reached the target, and how many did."""
    known = [t for t in times if t is not None]
    if not known:
        return "never"
    text = f"{spread(known, form)} {unit}".rstrip()
    return text if len(known) == len(times) else f"{text} ({len(known)}/{len(times)})"


def smoothed(values: Float[np.ndarray, " E"], half: int = 2) -> Float[np.ndarray, " E"]:
    """Means over the nearest evaluations, as many before as after.

    Args:
      values: of one run, in order.
      half: evaluations to either side; fewer near the ends.

    Example:
      >>> smoothed(np.array([0.0, 3.0, 0.0, 3.0, 6.0])).tolist()
      [0.0, 1.0, 2.4, 3.0, 6.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    reach = np.minimum(half, np.minimum(place, len(values) - 1 - place))
    return (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)


def crossing(
    x: Float[np.ndarray, " E"], values: Float[np.ndarray, " E"], target: float
) -> float | None:
    """Where a line through the points first is as high as the target, or None.

    Example:
      >>> crossing(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.4, 0.8]), 0.6)
      1.5
    """
    above = np.flatnonzero(values >= target)
    if not above.size:
        return None
    last = int(above[0])
    if last == 0:
        return float(x[0])
    low, high = values[last - 1], values[last]
    share = (target - low) / (high - low)
    return float(x[last - 1] + share * (x[last] - x[last - 1]))
