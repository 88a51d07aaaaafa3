"""Which states were seen, by their hashes."""

import numpy as np


class Seen:
    """Which rows were seen, by their hashes; equal hashes are compared.

    Args:
      rows: int32 (S, W), the first ones.
    """

    def __init__(self, rows: np.ndarray):
        self._generator = np.random.default_rng(0)
        self._rows = np.empty((1024, rows.shape[1]), np.int32)
        self._count = 0
        self._hashes = np.empty(0, np.uint64)  # in order
        self._order = np.empty(0, np.int64)  # numbers of their states
        self._again()
        self.add(rows)

    def add(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes rows in.

        Returns:
          `(places, new)`: the number of each row's state, and the indices in `rows`
          of those that were new, in the order of their numbers.
        """
        while True:
            hashes = self._hash(rows)
            _, first, inverse = np.unique(
                hashes, return_index=True, return_inverse=True
            )
            unique = rows[first]
            at = np.searchsorted(self._hashes, hashes[first])
            at = np.minimum(at, max(len(self._hashes) - 1, 0))
            if self._count:
                known = self._hashes[at] == hashes[first]
                old = self._order[at]
                same = (self._rows[old] == unique).all(axis=1)
            else:
                known = np.zeros(len(first), bool)
                old, same = np.zeros(len(first), np.int64), known
            # Different rows of one hash: seldom, and then with other hashes.
            if (known & ~same).any() or (unique[inverse] != rows).any():
                self._again()
                continue
            break
        new = np.sort(first[~known])  # in the order in which they were found
        place_of = np.empty(len(rows), np.int64)
        place_of[new] = self._count + np.arange(len(new))
        numbers = np.where(known, old, place_of[first])
        self._keep(rows[new], hashes[new])
        return numbers[inverse], new

    def _keep(self, rows: np.ndarray, hashes: np.ndarray) -> None:
        count = self._count + len(rows)
        if count > len(self._rows):
            grown = np.empty((2 * count, self._rows.shape[1]), np.int32)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        self._rows[self._count : count] = rows
        together = np.concatenate([self._hashes, hashes])
        numbers = np.concatenate([self._order, np.arange(self._count, count)])
        order = np.argsort(together, kind="stable")
        self._hashes, self._order = together[order], numbers[order]
        self._count = count

    def _again(self) -> None:
        """Other hashes."""
        width = self._rows.shape[1]
        self._factors = self._generator.integers(
            2**63, size=width, dtype=np.uint64
        ) * np.uint64(2) + np.uint64(1)
        hashes = self._hash(self._rows[: self._count])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def _hash(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.int64).view(np.uint64) @ self._factors
