"""The versions that workers compute from, each copied once into a buffer of a pool.

Where workers keep the state of their local optimiser it lies behind the version, so
that each has a buffer of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from abs_dssp.cluster import memory


class Versions:
    """Who holds which version. Belongs to the serving thread."""

    def __init__(
        self,
        pool: memory.Pool,
        num_workers: int,
        read: Callable[[int], Any],
        start_local: Callable[[Any], Any] | None = None,
    ):
        """Nobody holds anything.

        Args:
          pool: of buffers.
          num_workers: N.
          read: a version as it travels, the present one or another that there is;
            NumPy or a device's array.
          start_local: a local optimiser at its start at a version; None where it is
            not kept.
        """
        self._pool, self._read, self._start_local = pool, read, start_local
        self.local: dict[int, np.ndarray] = {}  # (S,) by worker; never changed in place
        self._held: list[tuple[int, int] | None] = [None] * num_workers
        self._present: tuple[int, int] | None = None  # version, buffer

    def hold(self, worker: int, version: int) -> None:
        """Keeps a version for a worker."""
        if self._start_local is not None:
            self.drop(worker)
            self._held[worker] = version, self._own(worker, self._read(version))
            return
        self.drop(worker)
        if self._present is None or self._present[0] != version:
            self._publish(version)
        assert self._present is not None
        self._pool.hold(self._present[1])
        self._held[worker] = self._present

    def keep(self, worker: int, local: np.ndarray) -> None:
        """The worker's local optimiser after a computation, (S,)."""
        self.local[worker] = local

    def _own(self, worker: int, version: Any) -> int:
        """A buffer of a version and a worker's local optimiser."""
        assert self._start_local is not None
        local = self.local.get(worker)
        if local is None:
            local = self._start_local(version)
        return self._fill(np.concatenate([version, local]))

    def drop(self, worker: int, left: bool = False) -> None:
        """The worker needs what it held no more; if it `left`, nor its optimiser."""
        if left:
            self.local.pop(worker, None)
        held = self._held[worker]
        if held is not None:
            self._pool.drop(held[1])
            self._held[worker] = None

    def buffer(self, worker: int) -> int:
        """The index of the buffer that a worker computes from."""
        held = self._held[worker]
        assert held is not None, f"worker {worker} holds no version"
        return held[1]

    def array(self, worker: int) -> np.ndarray:
        """The version that a worker computes from, as it travels."""
        return self._pool.arrays[self.buffer(worker)]

    def retain(self) -> dict[int, int]:
        """Buffers by version, each held once more; `release` lets them go."""
        found = dict(held for held in self._held if held is not None)
        for buffer in found.values():
            self._pool.hold(buffer)
        return found

    def release(self, retained: Mapping[int, int]) -> None:
        """Lets go of what `retain` returned."""
        for buffer in retained.values():
            self._pool.drop(buffer)

    def restore(
        self, arrays: Mapping[int, Any], pulled: Sequence[int | None], present: int
    ) -> None:
        """Takes up versions from a checkpoint; `local` comes first.

        Args:
          arrays: by version, with whatever lies behind it.
          pulled: the version of every worker; None where it holds none.
          present: number of the present version.
        """
        for worker, version in enumerate(pulled):
            if version is None:
                continue
            if version == present:
                self.hold(worker, version)
                continue
            if self._start_local is not None:
                size = len(self._read(present))
                buffer = self._own(worker, np.asarray(arrays[version])[:size])
                self._held[worker] = version, buffer
                continue
            same = [h for h in self._held if h is not None and h[0] == version]
            buffer = same[0][1] if same else self._fill(np.asarray(arrays[version]))
            if same:
                self._pool.hold(buffer)
            self._held[worker] = (version, buffer)

    def _publish(self, version: int) -> None:
        if self._present is not None:
            self._pool.drop(self._present[1])
        self._present = (version, self._fill(np.asarray(self._read(version))))

    def _fill(self, values: np.ndarray) -> int:
        buffer = self._pool.take()
        np.copyto(self._pool.arrays[buffer], values)
        return buffer
