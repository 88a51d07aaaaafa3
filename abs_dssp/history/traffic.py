"""When bytes travel between workers and server, and how many of them together."""

import numpy as np
from jaxtyping import Float

from abs_dssp import checks
from abs_dssp.history.traces import Trace


def moved(
    trace: Trace, parameter_bytes: int
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Every push at its arrival and every pull at its release, in order of time.

    The first pulls, before anybody computes, are left out, and so are those of workers
    whose computation was cancelled: a trace does not tell when.

    Args:
      trace: of a run; of a `FragmentedTrace` each message has its fragment's part.
      parameter_bytes: of all parameters and statistics.

    Returns:
      `(seconds, bytes)`, float64.

    Example:
      >>> from abs_dssp import simulate
      >>> trace = simulate.schedule("bsp()", "constant([1, 2])", 2)
      >>> seconds, sizes = moved(trace, 100)
      >>> seconds.tolist(), sizes.tolist()
      ([1.0, 2.0, 2.0, 2.0], [100.0, 100.0, 100.0, 100.0])
    """
    checks.whole("moved", "parameter_bytes", parameter_bytes)
    sizes = trace.row_shares * parameter_bytes
    released = ~np.isnan(trace.wait)
    seconds = np.concatenate([trace.time, (trace.time + trace.wait)[released]])
    sizes = np.concatenate([sizes, sizes[released]])
    order = np.argsort(seconds, kind="stable")
    return seconds[order], sizes[order]


def peak_bytes_per_second(
    trace: Trace, parameter_bytes: int, window: float = 1.0
) -> float:
    """The most that travels in any window of time, per second.

    Args:
      trace: see `moved`.
      parameter_bytes: see `moved`.
      window: seconds, above 0; the shorter, the higher the peak.

    Returns:
      Bytes per second; 0 without a push.

    Raises:
      ValueError: for a window that is not above 0.

    Example:
      >>> from abs_dssp import simulate
      >>> speeds = "constant([1, 1])"
      >>> whole = simulate.schedule("bsp()", speeds, 8)
      >>> parts = simulate.schedule("bsp()", speeds, 8, fragments=2)
      >>> [peak_bytes_per_second(each, 100, window=0.5) for each in (whole, parts)]
      [800.0, 400.0]
    """
    checks.number("peak_bytes_per_second", "window", window, above=0)
    seconds, sizes = moved(trace, parameter_bytes)
    if not seconds.size:
        return 0.0
    total = np.concatenate([[0.0], np.cumsum(sizes)])
    # A window is fullest where it begins with a message.
    ends = np.searchsorted(seconds, seconds + window, side="left")
    first = np.searchsorted(seconds, seconds, side="left")
    return float((total[ends] - total[first]).max() / window)
