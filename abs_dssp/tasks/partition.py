"""Which worker has which samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Shaped

from abs_dssp import checks, literals


class Partition(NamedTuple):
    """The samples of every worker.

    Attributes:
      indices: (N, M) int32, row i for worker i, padded with 0 to the longest row.
      sizes: (N,) int32, how many entries of each row count.
    """

    indices: Int32[np.ndarray, "N M"]
    sizes: Int32[np.ndarray, " N"]


# (labels, or None where there are none, n, N, seed) -> the samples of each worker
Splitter = Callable[[np.ndarray | None, int, int, int], list[np.ndarray]]


def equal() -> Splitter:
    """A random split into parts whose sizes differ by one at most.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import partition
      >>> partition.make("equal", np.zeros(5), num_workers=2).sizes.tolist()
      [3, 2]
    """

    def split(labels, count, num_workers, seed):
        del labels
        order = np.random.default_rng(seed).permutation(count)
        return np.array_split(order, num_workers)

    return split


def contiguous() -> Splitter:
    """Parts of the data in their order, whose sizes differ by one at most.

    Each worker of a text has a part of it to itself.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import partition
      >>> partition.make("contiguous", np.zeros(4), num_workers=2).indices.tolist()
      [[0, 1], [2, 3]]
    """

    def split(labels, count, num_workers, seed):
        del labels, seed
        return np.array_split(np.arange(count), num_workers)

    return split


def shared() -> Splitter:
    """Every worker samples everything, each in its own order.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import partition
      >>> partition.make("shared", np.zeros(3), num_workers=2).indices.tolist()
      [[0, 1, 2], [0, 1, 2]]
    """

    def split(labels, count, num_workers, seed):
        del labels, seed
        return [np.arange(count)] * num_workers

    return split


def dirichlet(alpha: float) -> Splitter:
    """Label skew: of each class the workers get Dirichlet(alpha) shares.

    Small `alpha` gives each worker few classes, a large one an equal split. Where a
    worker would get no sample, the worker with the most gives it one. Hsu, Qi, Brown,
    "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019 (https://arxiv.org/abs/1909.06335).

    Args:
      alpha: concentration, above 0.

    Raises:
      ValueError: if `alpha` is not above 0.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import partition
      >>> labels = np.arange(100) % 10
      >>> int(partition.make("dirichlet(alpha=0.1)", labels, 4).sizes.sum())
      100
    """
    if not alpha > 0:
        raise ValueError(f"dirichlet: alpha must be above 0, got {alpha}.")

    def split(labels, count, num_workers, seed):
        del count
        if labels is None:
            raise ValueError(
                "dirichlet: splits samples by label, so targets must be integers of "
                "shape (n,); take the partition equal or shared for others."
            )
        generator = np.random.default_rng(seed)
        parts: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(num_workers, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        lists = [np.concatenate(part) for part in parts]
        for i in range(num_workers):
            if not len(lists[i]):
                largest = int(np.argmax([len(part) for part in lists]))
                lists[largest], lists[i] = lists[largest][1:], lists[largest][:1]
        return lists

    return split


SPLITTERS: dict[str, Callable[..., Splitter]] = {
    splitter.__name__: splitter for splitter in (contiguous, dirichlet, equal, shared)
}


def make(
    text: str, labels: Shaped[np.ndarray, " n"] | int, num_workers: int, seed: int = 0
) -> Partition:
    """The partition that `text` describes, e.g. `"dirichlet(alpha=0.3)"`.

    Args:
      text: a call of one of `SPLITTERS` with literal arguments.
      labels: (n,), of all samples; their number n where they have no labels.
      num_workers: number of workers N.
      seed: of the split.

    Raises:
      ValueError: for an unknown partition, no workers, fewer samples than workers, or
        a partition by label of samples that have none.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import partition
      >>> partition.make("equal", np.zeros(8), num_workers=4).indices.shape
      (4, 2)
    """
    checks.text("partition", text, "'equal' or 'dirichlet(alpha=0.3)'")
    num_workers = checks.whole("partition", "num_workers", num_workers, least=1)
    seed = checks.whole("partition", "seed", seed)
    known = None if isinstance(labels, int) else labels
    count = labels if isinstance(labels, int) else len(labels)
    if count < num_workers:
        raise ValueError(
            f"partition: {num_workers} workers need at least as many samples, "
            f"got {count}."
        )
    splitter = literals.build(text, "partition", SPLITTERS)
    lists = splitter(known, count, num_workers, seed)
    sizes = np.array([len(part) for part in lists], np.int32)
    indices = np.zeros((num_workers, sizes.max()), np.int32)
    for row, part in zip(indices, lists, strict=True):
        row[: len(part)] = part
    return Partition(indices, sizes)
