"""Which samples are in a batch: shuffled epochs with random access.

A worker's stream of samples visits each of its samples once per epoch, in an order
that changes from epoch to epoch. Position p of the stream is a pure function of
(key, worker, p): the order comes from a keyed permutation (a Feistel network with
cycle walking) and not from a shuffled array, so a batch costs O(batch).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Int32, PRNGKeyArray, UInt32

_ROUNDS = 6


def permute(
    index: UInt32[Array, " B"], size: UInt32[Array, " B"], keys: UInt32[Array, "B R"]
) -> UInt32[Array, " B"]:
    """The image of `index` under a permutation of 0..size-1.

    A Feistel network permutes a domain of 4^h >= size numbers; cycle walking restricts
    it to the first `size` of them (Black and Rogaway, "Ciphers with Arbitrary Finite
    Domains", CT-RSA 2002).

    Args:
      index: elements, below `size`.
      size: number of elements, 1..2^30; may differ from row to row.
      keys: what determines the permutation, R = 6 words per row.

    Returns:
      The images, below `size`.
    """
    # Two halves of `half` bits, so that 4^half >= size: walks are short (< 4 steps on
    # average), since at least a quarter of the domain lies below `size`.
    bits = 32 - jax.lax.clz(jnp.maximum(size - 1, 1))
    half = (bits + 1) // 2
    mask = (jnp.uint32(1) << half) - 1

    def network(x):
        left, right = x >> half, x & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mix(right + keys[:, number]) & mask)
        return (left << half) | right

    # Walk the cycle until the value is inside; those inside stay where they are.
    return jax.lax.while_loop(
        lambda x: jnp.any(x >= size),
        lambda x: jnp.where(x >= size, network(x), x),
        network(index),
    )


def _mix(x: UInt32[Array, " B"]) -> UInt32[Array, " B"]:
    """A bijective mixing of 32 bits (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def stream(key: PRNGKeyArray, salt: int, *numbers: Any) -> PRNGKeyArray:
    """A key of its own for a purpose, named by `salt`, a worker and further numbers.

    Example:
      >>> import jax
      >>> from abs_dssp.tasks import sampling
      >>> sampling.stream(jax.random.key(0), 1, jnp.int32(2)).shape
      ()
    """
    key = jax.random.fold_in(key, salt)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def draw(
    key: PRNGKeyArray,
    worker: Int[Array, ""],
    index: Int[Array, ""],
    batch_size: int,
    size: Int[Array, ""],
) -> Int32[Array, " B"]:
    """The samples of a worker's mini-batch number `index`.

    Args:
      key: random key of the run.
      worker: int32 scalar.
      index: batches drawn before by this worker; int32 scalar. The stream is exact
        for the first 2^31 samples of a worker.
      batch_size: B, samples per batch; a batch may contain the end of one epoch and
        the start of the next.
      size: samples that the worker has; int32 scalar.

    Returns:
      Indices into the worker's own list of samples, each in 0..size-1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from abs_dssp.tasks import sampling
      >>> worker, size = jnp.int32(0), jnp.int32(4)
      >>> epoch = sampling.draw(jax.random.key(0), worker, jnp.int32(0), 4, size)
      >>> sorted(epoch.tolist())
      [0, 1, 2, 3]
    """
    position = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    epoch = position // size
    keys = jax.vmap(
        lambda e: jax.random.bits(stream(key, 0x5A3, worker, e), (_ROUNDS,), jnp.uint32)
    )(epoch)
    within = (position % size).astype(jnp.uint32)
    sizes = jnp.broadcast_to(size.astype(jnp.uint32), within.shape)
    return permute(within, sizes, keys).astype(jnp.int32)
