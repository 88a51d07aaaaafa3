"""Which worker has which samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from abs_dssp import literals


class Partition(NamedTuple):
    """Lists of sample indices, padded to the longest."""

    indices: Int[np.ndarray, "N M"]
    sizes: Int[np.ndarray, " N"]  # how many of each row count


Splitter = Callable[[np.ndarray, int, int], list[np.ndarray]]  # labels, N, seed


def equal() -> Splitter:
    """A random split into parts whose sizes differ by one at most."""

    def split(labels, num_workers, seed):
        order = np.random.default_rng(seed).permutation(len(labels))
        return np.array_split(order, num_workers)

    return split


def shared() -> Splitter:
    """Every worker samples everything, each in its own order."""

    def split(labels, num_workers, seed):
        del seed
        return [np.arange(len(labels))] * num_workers

    return split


def dirichlet(alpha: float) -> Splitter:
    """Label skew: of each class the workers get Dirichlet(alpha) shares.

    Small `alpha` gives each worker few classes, a large one an equal split. Nobody is
    left without a sample: the largest part gives one to an empty part.

    Raises:
      ValueError: if `alpha` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"dirichlet: alpha must be above 0, got {alpha}.")

    def split(labels, num_workers, seed):
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
                rich = int(np.argmax([len(part) for part in lists]))
                lists[rich], lists[i] = lists[rich][1:], lists[rich][:1]
        return lists

    return split


SPLITTERS: dict[str, Callable[..., Splitter]] = {
    "dirichlet": dirichlet,
    "equal": equal,
    "shared": shared,
}


def make(text: str, labels: np.ndarray, num_workers: int, seed: int = 0) -> Partition:
    """The partition that `text` describes, e.g. `"dirichlet(alpha=0.3)"`.

    Raises:
      ValueError: for an unknown partition, no workers, or fewer samples than workers.
    """
    if num_workers < 1:
        raise ValueError(
            f"partition: num_workers must be at least 1, got {num_workers}."
        )
    if len(labels) < num_workers:
        raise ValueError(
            f"partition: {num_workers} workers need at least as many samples, "
            f"got {len(labels)}."
        )
    splitter = literals.build(text, "partition", SPLITTERS)
    lists = splitter(labels, num_workers, seed)
    sizes = np.array([len(part) for part in lists], np.int32)
    indices = np.zeros((num_workers, sizes.max()), np.int32)
    for row, part in zip(indices, lists, strict=True):
        row[: len(part)] = part
    return Partition(indices, sizes)
