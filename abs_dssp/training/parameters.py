"""A server's parameters in one vector: pushes in, versions out.

The arithmetic is that of `flat`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.history.machine import TOGETHER
from abs_dssp.training.aggregators import Arrival
from abs_dssp.training.config import DTYPES
from abs_dssp.training.flat import Functions, ServerFunctions, packed

_TRIED = 16384  # values


class Parameters:
    """A server's parameters: receives pushes, makes versions. Not thread-safe.

    `vector` and `optimizer` are donated at every commit, so a version that is needed
    later must be copied. All arrays lie on the process's first device.

    Attributes:
      vector: the present version, (D,) float32.
      optimizer: state of the server's optimiser.
      accumulator: the aggregator's; None until a push goes into it.
    """

    def __init__(self, functions: ServerFunctions, vector: Any):
        self.functions = functions
        # On one device from the start: jit compiles anew for arrays that are not.
        self._device = jax.local_devices()[0]
        self.vector = self._copied(vector)
        start = functions.start_optimizer(self.vector)
        self.optimizer = jax.device_put(start, self._device)
        self.accumulator: Any = None
        self._single = functions.config.aggregator.single is not None
        self._count = 0  # pushes since the last commit that were not discarded
        self._first: Arrival | None = None  # the only such push, not yet accumulated

    def _copied(self, array: Any) -> Any:
        """A copy on the device: the caller keeps what it gave, and may change it."""
        return jnp.copy(jax.device_put(array, self._device))

    def receive(self, push, weight: float, worker: int, committed: bool, pulled):
        """Adds a push to the next commit; one of weight 0 is discarded.

        `push` must not change until `commit` or `keep` was called.

        Args:
          push: (D,), in the format of pushes.
          weight: the policy's.
          worker: who pushed, 0..N-1.
          committed: whether it causes a commit.
          pulled: the version it was computed from as it travelled, (D,).
        """
        if not weight > 0:
            return
        numbers = (np.float32(weight), np.int32(worker), np.bool_(committed))
        arrival = Arrival._make((push, (), *numbers, self.vector, pulled))
        self._count += 1
        if self._count == 1 and self._single:
            self._first = arrival
            return
        for each in (self._first, arrival):
            if each is not None:
                held = self._started_accumulator()
                self.accumulator = self.functions.accumulate(held, each)
        self._first = None

    def _started_accumulator(self) -> Any:
        if self.accumulator is None:
            start = self.functions.init(self.vector)
            self.accumulator = jax.device_put(start, self._device)
        return self.accumulator

    def keep(self) -> None:
        """Makes sure that no pushed buffer is read after this."""
        if self._first is not None:
            push = self.functions.copy(self._first.gradient)
            self._first = self._first._replace(gradient=push)
            jax.block_until_ready(push)
        else:
            jax.block_until_ready(self.accumulator)

    def commit(self, epoch: float, version: int) -> None:
        """Makes the next version.

        Args:
          epoch: samples processed when the present version was made, in epochs.
          version: the present version's number.
        """
        functions, first = self.functions, self._first
        state = (self.vector, self.optimizer)
        if first is not None:
            numbers = packed((first.weight, epoch, version))
            self.vector, self.optimizer = functions.commit_single(
                *state, first.gradient, numbers
            )
        else:
            clock = (np.float32(epoch), np.int32(version))
            self.vector, self.optimizer, self.accumulator = functions.commit(
                *state, self._started_accumulator(), *clock
            )
        self._count, self._first = 0, None

    def advance(self, pushes: Sequence[Any], numbers: Sequence[tuple]) -> Any:
        """Makes several versions, each of one push, as `receive` and `commit` would.

        Nothing may have been received since the last commit. The pushes must not change
        until the versions have been read.

        Args:
          pushes: each (D,), in the format of pushes; 2 or more.
          numbers: of each `(weight, epoch, version)`, as in `receive` and `commit`.

        Returns:
          The versions, (pushes, D) on the device; the last one is `vector`, too.
        """
        assert self._count == 0
        data = packed(*numbers)
        versions, self.vector, self.optimizer = self.functions.commit_singles(
            self.vector, self.optimizer, tuple(pushes), data
        )
        return versions

    def leaves(self) -> list[Any]:
        """The state as arrays, for `restore`; not copied, and without empty ones.

        The first is `vector`, the second the number of pushes since the last commit.
        """
        first = self._first
        push = [] if first is None else [first.gradient, first.weight]
        rest = jax.tree.leaves((self._started_accumulator(), self.optimizer))
        filled = [leaf for leaf in rest if leaf.size]
        return [self.vector, np.int32(self._count), *push, *filled]

    def restore(self, leaves: Sequence[Any]) -> None:
        """Continues from a state that `leaves` returned; the arrays are copied."""
        vector, count, *rest = leaves
        self.vector = self._copied(vector)
        self._count, self._first = int(count), None
        if self._count == 1 and self._single:
            push, weight, *rest = rest
            push = self._copied(push)
            numbers = (np.float32(np.asarray(weight)), np.int32(0), np.bool_(0))
            self._first = Arrival._make((push, (), *numbers, self.vector, push))
        state = (self._started_accumulator(), self.optimizer)
        old, structure = jax.tree.flatten(state)
        filled = [leaf for leaf in old if leaf.size]
        new = iter([self._copied(leaf) for _, leaf in zip(filled, rest, strict=True)])
        self.accumulator, self.optimizer = jax.tree.unflatten(
            structure, [next(new) if leaf.size else leaf for leaf in old]
        )


@functools.lru_cache(maxsize=64)  # a simulated server is started again and again
def advances(functions: Functions) -> bool:
    """Whether `Parameters.advance` can be used: whether it gives single commits' bits.

    It is another program, which XLA may round otherwise (Adam's, for one), so it is
    tried, with numbers enough to notice a difference in one of some thousands.
    """
    if functions.config.aggregator.single is None:
        return False
    size, dtype = functions.layout.size, DTYPES[functions.wire.push]
    counts = range(2, min(TOGETHER, functions.task.num_workers) + 1)
    start = jnp.zeros(size, jnp.float32)
    random = np.random.default_rng(0)
    servers = [
        (c, Parameters(functions, start), Parameters(functions, start)) for c in counts
    ]
    for number in range(max(4, min(256, _TRIED // size))):
        for count, one, many in servers:
            pushes = [
                jnp.asarray(random.normal(size=size), dtype) for _ in range(count)
            ]
            numbers = [
                (random.uniform(0.1, 2), 0.1 * number, count * number + i)
                for i in range(count)
            ]
            versions = np.array(many.advance(pushes, numbers))
            for push, (weight, epoch, version), made in zip(
                pushes, numbers, versions, strict=True
            ):
                one.receive(push, weight, 0, True, start)
                one.commit(epoch, version)
                if not np.array_equal(made, one.vector, equal_nan=True):
                    return False
    return True
