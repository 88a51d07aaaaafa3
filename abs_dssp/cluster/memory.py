"""Shared memory without names: nothing is left behind, whoever is killed.

A segment is an anonymous file in memory whose descriptor travels over a socket; it goes
when the last process that holds it does.
"""

import contextlib
import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4)


def supported() -> bool:
    """Whether this system has such memory (Linux does)."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


class Segment:
    """A piece of memory that several processes can map."""

    def __init__(self, nbytes: int, descriptor: int | None = None):
        """Makes a segment, or maps the one behind `descriptor`, which it then owns.

        Raises:
          ValueError: if the segment behind the descriptor has another size, or could
            be cut short by its maker.
        """
        self.nbytes = nbytes
        length = max(nbytes, 1)
        made = descriptor is None
        if descriptor is None:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            descriptor = os.memfd_create("abs_dssp", flags)
        self.descriptor = descriptor
        # At most once, whether by `close`, by the collector or at the process's end.
        self._finalizer = weakref.finalize(self, _close, descriptor)
        if made:
            os.ftruncate(descriptor, length)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        if os.fstat(descriptor).st_size != length:
            raise ValueError(f"a segment of {length} bytes was expected.")
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("a segment that can still be cut short.")
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self._map = mmap.mmap(descriptor, length, flags=flags)

    def array(self, dtype: np.dtype, offset: int = 0, nbytes: int | None = None):
        """A vector in the segment; it keeps the memory mapped."""
        count = (self.nbytes if nbytes is None else nbytes) // dtype.itemsize
        return np.frombuffer(self._map, dtype, count, offset)

    def close(self) -> None:
        """Lets go of the descriptor; the memory goes with the last array."""
        self._finalizer()


class Pool:
    """Buffers of one size, counted: a version stays while somebody computes from it.

    Not thread-safe but for `drop` through the owner's thread.
    """

    def __init__(self, nbytes: int, dtype: np.dtype, shared: bool):
        self.nbytes, self.dtype, self._shared = nbytes, dtype, shared
        self.segments: list[Segment | None] = []
        self.arrays: list[np.ndarray] = []
        self._holders: list[int] = []

    def take(self) -> int:
        """A free buffer, held once."""
        for index, holders in enumerate(self._holders):
            if holders == 0:
                self._holders[index] = 1
                return index
        if self._shared:
            segment = Segment(self.nbytes)
            self.segments.append(segment)
            self.arrays.append(segment.array(self.dtype))
        else:
            self.segments.append(None)
            self.arrays.append(aligned(self.nbytes, self.dtype))
        self._holders.append(1)
        return len(self._holders) - 1

    def hold(self, index: int) -> None:
        """One more holder."""
        self._holders[index] += 1

    def drop(self, index: int) -> None:
        """One holder less."""
        self._holders[index] -= 1

    def close(self) -> None:
        """Lets go of all segments."""
        for segment in self.segments:
            if segment is not None:
                segment.close()


class Views:
    """Device arrays over memory that is used again and again, each made once.

    To JAX an array never changes; one of these has what lies in the memory when a
    computation reads it.
    """

    def __init__(self, devices: Sequence[Any], limit: int = 64):
        """Nothing is viewed.

        Args:
          devices: that read the memory. Several take parts of an array, and these from
            the memory itself.
          limit: views kept, those that were used last.
        """
        self._device = devices[0] if len(devices) == 1 else None
        self._limit = limit
        self._views: dict[int, tuple[np.ndarray, Any]] = {}

    def of(self, array: np.ndarray) -> Any:
        """The view of an array, or a copy where the device cannot use its memory."""
        if self._device is None:
            return array
        found = self._views.pop(id(array), None)
        if found is None:
            view = jax.device_put(array, self._device, may_alias=True)
            jax.block_until_ready(view)  # a copy is made before the memory changes
            on_cpu = self._device.platform == "cpu"
            if not on_cpu or view.unsafe_buffer_pointer() != array.ctypes.data:
                return view
            found = (array, view)  # keeps the array, and so its id
            if len(self._views) >= self._limit:
                del self._views[next(iter(self._views))]
        self._views[id(array)] = found
        return found[1]


def aligned(nbytes: int, dtype: np.dtype) -> np.ndarray:
    """Private memory on a 64-byte boundary, for a CPU device to use in place."""
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes].view(dtype)


def _close(descriptor: int, close=os.close) -> None:
    """Closes a descriptor; nobody can act on an error any more."""
    with contextlib.suppress(OSError):
        close(descriptor)
