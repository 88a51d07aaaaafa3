"""Performance profiles: in how many cases is a method nearly as fast as the best?

E. D. Dolan and J. J. More, Benchmarking optimization software with performance
profiles, Mathematical Programming 91 (2002), arXiv cs/0102001.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

WORST = 20.0  # up to this factor profiles are drawn and scored


def ratios(times: Float[np.ndarray, "M C"]) -> Float[np.ndarray, "M C"]:
    """Times over the least of the case; inf where a method did not get there.

    Cases in which nobody got there count for nobody: all their ratios are inf.

    Args:
      times: seconds by method and case, inf for never.

    Example:
      >>> ratios(np.array([[2.0, np.inf], [1.0, np.inf]])).tolist()
      [[2.0, inf], [1.0, inf]]
    """
    best = times.min(axis=0)
    return np.divide(
        times, best, out=np.full_like(times, np.inf), where=np.isfinite(times)
    )


def profile(
    ratios: Float[np.ndarray, "M C"], factors: Sequence[float] | np.ndarray
) -> Float[np.ndarray, "M F"]:
    """Share of the cases in which a method is within each factor of the best.

    Example:
      >>> profile(np.array([[1.0, 3.0, np.inf]]), [1.0, 3.0]).round(2).tolist()
      [[0.33, 0.67]]
    """
    return (ratios[:, :, None] <= np.asarray(factors)).mean(axis=1)


def score(ratios: Float[np.ndarray, "M C"]) -> Float[np.ndarray, " M"]:
    """Area under the profile over log factor from 1 to `WORST`, 1 at most.

    It is the mean over cases of 1 - log(ratio) / log(WORST), and 0 beyond.

    Example:
      >>> score(np.array([[1.0, 20.0], [1.0, 1.0]])).tolist()
      [0.5, 1.0]
    """
    lost = np.log(np.minimum(ratios, WORST)) / np.log(WORST)
    return (1 - lost).mean(axis=1)
