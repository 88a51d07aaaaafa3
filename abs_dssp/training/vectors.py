"""Vectors put together, within compiled functions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

_SMALL = 1 << 16  # values up to which a concatenation is as fast


def joined(parts: Sequence[Shaped[Array, " _"]]) -> Shaped[Array, " D"]:
    """Vectors one after the other, as `jnp.concatenate` makes it; bit for bit.

    On a CPU, XLA fuses a concatenation with what makes its parts, and goes through all
    of it value by value: up to hundreds of times as long as the copies that are made
    here of each part.

    Args:
      parts: at least one, all of one dtype.

    Example:
      >>> joined([jnp.zeros(2), jnp.ones(1)]).tolist()
      [0.0, 0.0, 1.0]
    """
    if len(parts) == 1:
        return parts[0]
    size = sum(part.size for part in parts)
    if size <= _SMALL:
        return jnp.concatenate(parts)
    whole, start = jnp.zeros(size, parts[0].dtype), 0
    for part in parts:
        whole = jax.lax.dynamic_update_slice(whole, part, (start,))
        start += part.size
    return whole
