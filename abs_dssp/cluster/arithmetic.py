"""The server's arithmetic on its device: pushes in, versions out."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp.cluster import memory
from abs_dssp.cluster.effects import Accumulate, Commit
from abs_dssp.tasks.base import Task
from abs_dssp.training import flat, mesh
from abs_dssp.training.parameters import Parameters, advances

_SMALL = 1 << 18  # bytes of a vector
_FLOAT32 = np.dtype(np.float32)


class Arithmetic:
    """The parameters of a run. Belongs to the serving thread, but for `evaluate`."""

    def __init__(self, task: Task, functions: flat.Functions, seed: int):
        """The parameters at version 0.

        Args:
          task: model and data.
          functions: compiled for this task.
          seed: of the run.
        """
        self.task, self.functions = task, functions
        self._key = jax.random.key(seed)
        self._device = jax.local_devices()[0]
        self._travels_as_it_is = functions.wire.pull == "float32"
        self._views = memory.Views([self._device], 2 * task.num_workers)
        self._size = functions.layout.size
        self._parameters = Parameters(functions, functions.initial(self._key))
        self._versions: dict[int, np.ndarray] = {}  # of the latest `advance`, (D,)
        # Versions made in one call are for models whose arithmetic takes less than one.
        # They do not carry on local optimisers.
        small = 4 * functions.layout.size <= _SMALL and task.num_workers > 1
        self.advances = small and not functions.local_size and advances(functions)

    @functools.cached_property
    def _inputs(self) -> tuple[Any, Any]:
        """Data and key where pushes are computed again."""
        return self.functions.placed((self.task.data, self._key))

    @property
    def vector(self) -> Any:
        """The present version, float32, on the device; gone at the next commit."""
        return self._parameters.vector

    def accumulate(self, push: Accumulate, pulled: np.ndarray) -> np.ndarray | None:
        """Adds a push to the next commit; its buffer may change afterwards.

        Args:
          push: with its vector, or none if it is to be computed again.
          pulled: the version it was computed from, as it travelled.

        Returns:
          The state of the worker's local optimiser, (S,); None if it is not kept.
        """
        vector = push.vector
        if vector is None:
            data, key = self._inputs
            computed, _ = self.functions.compute(
                jax.numpy.array(pulled),
                data,
                key,
                push.worker,
                push.clock,
                push.pulled,
                np.float32(push.epoch),
            )
            vector = mesh.whole(computed)
        local = None
        if self.functions.local_size:
            vector = np.asarray(vector)
            local = vector[self._size :].copy()
            own = vector[: self._size].copy()  # `Views` knows whole buffers alone
            vector = jax.device_put(own, self._device)
            pulled = pulled[: self._size]
        self._parameters.receive(
            self._placed(vector), push.weight, push.worker, push.commit, pulled
        )
        if not push.commit:
            self._parameters.keep()
        return local

    def commit(self, version: int, epoch: float) -> None:
        """Makes the next version, see `effects.Commit`."""
        self._versions.clear()
        self._parameters.commit(epoch, version)

    def advance(self, pushes: Sequence[tuple[Accumulate, Commit]]) -> None:
        """Makes several versions, each of one push; all can be read until the next.

        Only if `advances`, and with nothing accumulated.
        """
        vectors = [self._placed(push.vector) for push, _ in pushes]
        numbers = [(push.weight, made.epoch, made.version) for push, made in pushes]
        versions = np.asarray(self._parameters.advance(vectors, numbers))
        first = pushes[0][1].version + 1
        self._versions = dict(enumerate(versions, first))

    def read(self, version: int) -> Any:
        """A version as it travels: the present one, or one of those just made."""
        vector = self._versions.get(version)
        if vector is None:
            vector = self.vector
        return vector if self._travels_as_it_is else self.functions.pulled(vector)

    def evaluate(self, vector: Any) -> dict[str, float]:
        """What the task measures of a version; from any thread."""
        measures = self.functions.evaluate(self.task.data, vector)
        return {name: float(value) for name, value in measures.items()}

    def objective(self) -> float:
        """The training objective of the present version."""
        vector = self.functions.pulled(self.vector)
        return float(self.functions.objective(self.task.data, vector))

    def copy(self) -> Any:
        """The present version, for another thread."""
        return self.functions.copy(self.vector)

    def copies(self) -> list[Any]:
        """The whole state, for a checkpoint; the parameters first."""
        copy = self.functions.copy
        leaves = self._parameters.leaves()
        return [copy(leaf) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]

    def restore(self, leaves: Sequence[Any]) -> None:
        """Goes on from what `copies` returned."""
        self._parameters.restore(leaves)

    def start_local(self, version: Any) -> np.ndarray:
        """A local optimiser at its start at a version as it travels, (S,)."""
        return np.asarray(self.functions.start_local(jax.numpy.asarray(version)))

    def finite(self, vector: Any, loss: float) -> bool:
        """Whether a push's values and its loss are."""
        if not math.isfinite(loss):
            return False
        if vector.dtype != _FLOAT32:
            return bool(_all_finite(vector))
        values = np.asarray(vector)[: self._size]  # behind them may be any bits
        if math.isfinite(np.vdot(values, values)):  # which `dot` would warn of
            return True
        return bool(np.isfinite(values).all())  # large values overflow the product

    def warm_up(self, push_dtype: np.dtype, pull_dtype: np.dtype) -> None:
        """Compiles what a push needs, before the first one."""
        functions = self.functions
        scratch = Parameters(functions, functions.initial(self._key))
        like = np.zeros(functions.layout.size, push_dtype)
        pulled = np.zeros(functions.layout.size, pull_dtype)
        # As they come over a transport, and from this process.
        for push in (self._placed(like), jax.device_put(like, self._device)):
            for count in (1, 3):
                for _ in range(count):
                    scratch.receive(push, 0.5, 0, True, pulled)
                    scratch.keep()
                scratch.commit(0.0, 0)
            self.finite(push, 0.0)
        jax.block_until_ready(functions.copy(functions.pulled(scratch.vector)))
        self.evaluate(functions.copy(scratch.vector))

    def _placed(self, vector: Any) -> Any:
        """A push where the optimiser can read it, without a copy if it can be.

        Transports receive pushes in memory that they use again and again.
        """
        if isinstance(vector, np.ndarray):
            return self._views.of(vector)
        same = vector.device == self._device
        return vector if same else jax.device_put(vector, self._device)


@jax.jit
def _all_finite(vector):
    return jax.numpy.isfinite(vector).all()
