"""A pytree of small arrays as one row of int32, so that states can be compared."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


class Layout:
    """A pytree of small arrays as one row of int32, and back."""

    def __init__(self, example: Any):
        leaves, self._structure = jax.tree.flatten(example)
        self._shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        for shape, dtype in self._shapes:
            if dtype not in (jnp.bool_, jnp.int32, jnp.uint32, jnp.float32):
                raise ValueError(
                    f"verify: the rule's state holds {dtype} of shape {shape}; it may "
                    "hold bool, int32, uint32 and float32."
                )
        sizes = [math.prod(shape) for shape, _ in self._shapes]
        self._ends = np.cumsum(sizes)
        self.width = int(self._ends[-1])
        paths = jax.tree_util.tree_leaves_with_path(example)
        self._places = {
            jax.tree_util.keystr(path): slice(int(end) - size, int(end))
            for (path, _), end, size in zip(paths, self._ends, sizes, strict=True)
        }

    def column(self, rows: np.ndarray, path: str) -> np.ndarray:
        """The columns of an integer leaf, such as `".clocks.alive"`."""
        return rows[..., self._places[path]]

    def on_host(self, row: np.ndarray) -> Any:
        """The pytree of a row, in NumPy."""
        return jax.device_get(self.unpack(jnp.asarray(row)))

    def pack(self, tree: Any) -> Int[Array, " W"]:
        """One row; NaNs and zeros in one form each."""

        def bits(leaf, dtype):
            if dtype == jnp.float32:
                leaf = jnp.where(jnp.isnan(leaf), jnp.nan, leaf + 0.0)
                return jax.lax.bitcast_convert_type(leaf, jnp.int32)
            return leaf.astype(jnp.int32)

        leaves = jax.tree.leaves(tree)
        flat = [
            bits(jnp.asarray(leaf), dtype).ravel()
            for leaf, (_, dtype) in zip(leaves, self._shapes, strict=True)
        ]
        return jnp.concatenate(flat)

    def unpack(self, row: Int[Array, " W"]) -> Any:
        """The pytree of a row."""
        leaves = []
        for part, (shape, dtype) in zip(
            jnp.split(row, self._ends[:-1]), self._shapes, strict=True
        ):
            if dtype == jnp.float32:
                part = jax.lax.bitcast_convert_type(part, jnp.float32)
            leaves.append(part.reshape(shape).astype(dtype))
        return jax.tree.unflatten(self._structure, leaves)
