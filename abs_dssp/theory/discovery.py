"""How long it takes any method to find a chain's coordinates one after another.

A gradient shows the next coordinate with probability p, and only if it was begun where
the one before was known. Within x seconds of a discovery at most sum_i floor(x / h_i)
gradients are begun and ended, so nothing is found in that time with probability at
least (1 - p)^that: T discoveries take at least T times its integral, on average. No
constant and no assumption on the method but that it takes steps only along coordinates
that it has seen (Arjevani et al., https://arxiv.org/abs/1912.02365; Tyurin and
Richtarik, https://arxiv.org/abs/2305.12387, state it up to constants).
"""

import math

import numpy as np

__all__ = ["discovery_time"]

_NEGLIGIBLE = 1e-12  # probability of finding nothing, beyond which the sum ends


def discovery_time(times, probability: float, length: int = 1) -> float:
    """T int_0^inf (1 - p)^(sum_i floor(x / h_i)) dx: no method is faster on average.

    Args:
      times: h_i, (N,) seconds per gradient, above 0.
      probability: p, in (0, 1].
      length: T, coordinates to be found.

    Returns:
      Seconds.

    Raises:
      ValueError: for times or a probability out of range.

    Example:
      >>> from abs_dssp import theory
      >>> round(theory.discovery_time([2.0], probability=0.5), 6)  # 2 + 1 + 1/2 + ...
      4.0
      >>> theory.discovery_time([1.0, 1.0], probability=1.0, length=3)
      3.0
    """
    times = np.asarray(times, float)
    if times.ndim != 1 or not times.size or not (times > 0).all():
        raise ValueError(f"discovery_time: times must be above 0, got {times}.")
    if not 0 < probability <= 1:
        raise ValueError(
            f"discovery_time: probability must be in (0, 1], got {probability}."
        )
    if probability == 1:
        return length * float(times.min())
    # So many gradients end with something found, but for a negligible chance.
    count = math.ceil(math.log(_NEGLIGIBLE) / math.log1p(-probability))
    rounds = np.arange(1, count + 1)
    ends = np.sort((times[:, None] * rounds).ravel())[:count]
    gaps = np.diff(ends, prepend=0.0)
    return length * float(gaps @ (1 - probability) ** np.arange(count))
