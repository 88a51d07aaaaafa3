"""Which rows of a trace can be computed side by side."""

import numpy as np
from jaxtyping import Int


def wavefronts(
    pulled: Int[np.ndarray, " P"],
    version: Int[np.ndarray, " P"],
    start: int,
    stop: int,
    width: int,
    worker: Int[np.ndarray, " P"] | None = None,
) -> tuple[Int[np.ndarray, " W"], Int[np.ndarray, " W"]]:
    """Cuts rows into runs whose pulled versions exist before the run begins.

    Args:
      pulled: version each push was computed from.
      version: version on each arrival.
      start: first row.
      stop: row after the last.
      width: longest run.
      worker: who made each push, if no worker may be twice in a run: its second push
        begins with the local optimiser that the first one leaves.

    Returns:
      First row and length of every run, int32.

    Example:
      >>> first, count = wavefronts(np.array([0, 0, 1]), np.array([0, 1, 2]), 0, 3, 2)
      >>> first.tolist(), count.tolist()  # the third push needs what the first made
      ([0, 2], [2, 1])
    """
    firsts, lengths = [], []
    row = start
    while row < stop:
        end = row + 1
        while end < min(stop, row + width) and pulled[end] <= version[row]:
            if worker is not None and worker[end] in worker[row:end]:
                break
            end += 1
        firsts.append(row)
        lengths.append(end - row)
        row = end
    return np.array(firsts, np.int32), np.array(lengths, np.int32)
