"""The state of a worker's local optimiser as numbers behind a vector that travels.

A worker that keeps the state of its local optimiser (`UpdateConfig.local_state`) is
given it with the version that it pulls, and gives it back with its push: it need not
remember anything, and a state is lost with no process. Counts and other integers travel
as the float32 numbers that have their bits, with which nobody computes.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from abs_dssp.tasks.base import Task
from abs_dssp.training.config import UpdateConfig, Wire
from abs_dssp.training.vectors import joined

_FITTING = ("float32", "int32", "uint32")  # of four bytes


class LocalLayout(NamedTuple):
    """Where each leaf of a local optimiser's state lies; static."""

    structure: Any  # treedef of the state
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    size: int  # values in all: S

    def unflatten(self, vector: Float[Array, " S"]) -> Any:
        """The state that a vector holds; the inverse of `flatten`."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stop = start + math.prod(shape)
            part = vector[start:stop].reshape(shape)
            if dtype != "float32":
                part = jax.lax.bitcast_convert_type(part, jnp.dtype(dtype))
            leaves.append(part)
            start = stop
        return jax.tree.unflatten(self.structure, leaves)


def flatten(state: Any) -> Float[Array, " S"]:
    """The vector of a local optimiser's state, leaf after leaf.

    Example:
      >>> import optax
      >>> state = optax.adam(0.1).init(jnp.ones(2))  # a count, and two means
      >>> flatten(state).shape
      (5,)
    """
    leaves = [
        jax.lax.bitcast_convert_type(jnp.asarray(leaf), jnp.float32).reshape(-1)
        for leaf in jax.tree.leaves(state)
    ]
    return joined(leaves) if leaves else jnp.zeros(0, jnp.float32)


def layout(task: Task, config: UpdateConfig) -> LocalLayout | None:
    """The layout of the state of a task's local optimiser; None if it is not kept.

    Raises:
      ValueError: if a leaf has other than four bytes a value.
    """
    if not config.keeps_local_state:
        return None
    variables = jax.eval_shape(task.init, jax.random.key(0))
    state = jax.eval_shape(config.local.init, variables.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if str(leaf.dtype) not in _FITTING:
            raise ValueError(
                f"local_state='kept': {jax.tree_util.keystr(path)} of the local "
                f"optimizer is {leaf.dtype}; it must be one of {', '.join(_FITTING)} "
                "to travel. Take another optimizer, or local_state='fresh'."
            )
    leaves, structure = jax.tree.flatten(state)
    shapes = tuple(leaf.shape for leaf in leaves)
    dtypes = tuple(str(leaf.dtype) for leaf in leaves)
    return LocalLayout(structure, shapes, dtypes, sum(map(math.prod, shapes)))


def require_exact(kept: LocalLayout | None, formats: Wire) -> None:
    """Refuses formats in which the bits of a state would not survive."""
    if kept is not None and formats != Wire():
        raise ValueError(
            "local_state='kept' needs pushes and pulls in float32, which carry the "
            f"local optimizer's state as it is, got {formats.push} and {formats.pull}."
        )
