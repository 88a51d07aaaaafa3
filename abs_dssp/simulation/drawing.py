"""The durations of computations, drawn ahead for all workers of the event loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.simulation.delays import BLOCK, Delays

AHEAD = 4  # blocks of durations kept per worker
_TOP_UP = 2  # blocks drawn before each BLOCK pushes, for the workers that need them


class Workers(NamedTuple):
    """What the workers are doing, and the durations drawn for them."""

    finish: Float[Array, " N"]  # seconds; end of the computation, inf while waiting
    duration: Float[Array, " N"]  # seconds; of the present computation
    drawn: Int[Array, " N"]  # blocks of durations drawn
    durations: Float[Array, "N W"]  # n-th duration in column n % W
    chain: Any  # states of the delay model


def fill(delays: Delays, keys, workers: Workers, started) -> Workers:
    """Draws durations until every worker has enough for the next BLOCK pushes.

    A worker starts at most one computation per push. Without restarts there is about
    one start per push in all, so a few blocks for the neediest workers suffice, and
    these are drawn unconditionally: a loop whose length depends on the data is slow
    under vmap. `started` counts the computations of each worker, (N,).
    """
    parameters = jax.tree.map(jnp.asarray, delays.parameters)
    room = (AHEAD - 1) * BLOCK

    def left(workers):
        return workers.drawn * BLOCK - started

    def draw(workers):
        worker = jnp.argmin(left(workers)).astype(jnp.int32)
        index = workers.drawn[worker]
        chosen = jax.tree.map(lambda leaf: leaf[worker], (parameters, workers.chain))
        block, chain = delays.block(chosen[0], keys[worker], index, chosen[1])
        fits = left(workers)[worker] <= room
        corner = (worker, (index % AHEAD) * BLOCK)
        old = jax.lax.dynamic_slice(workers.durations, corner, (1, BLOCK))
        block = jnp.where(fits, block[None, :].astype(jnp.float64), old)
        chain = jax.tree.map(
            lambda leaf, new, old: leaf.at[worker].set(jnp.where(fits, new, old)),
            *(workers.chain, chain, chosen[1]),
        )
        durations = jax.lax.dynamic_update_slice(workers.durations, block, corner)
        drawn = workers.drawn.at[worker].add(fits.astype(jnp.int32))
        return workers._replace(durations=durations, drawn=drawn, chain=chain)

    for _ in range(_TOP_UP):
        workers = draw(workers)
    return jax.lax.while_loop(
        lambda workers: jnp.any(left(workers) < BLOCK), draw, workers
    )
