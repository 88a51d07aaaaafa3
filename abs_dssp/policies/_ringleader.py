"""Ringleader ASGD: asynchronous SGD over a table of every worker's latest gradients.

Maranjyan, Richtárik, "Ringleader ASGD", 2025 (arXiv 2509.22860), for workers whose data
differ. Whether a worker that waits for its turn goes on from its old version or the
present one could not be checked against the paper; here a release gives the present
one, as everywhere in this package.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from abs_dssp.policies import base, rounds


class RingleaderState(NamedTuple):
    """How the present round stands."""

    filled: Bool[Array, " N"]  # whose gradients the present table has
    moved: Bool[Array, " N"]  # who has caused its commit of this round
    coming: Bool[Array, " N"]  # whose gradients the next table has


@base.constructor
def ringleader(num_workers: int) -> base.Policy:
    """First fills the table, then one commit per worker, in order of arrival.

    In the first phase pushes go into the table until every living worker is in it; the
    last one commits. In the second a worker's first push goes into the table too and
    commits; its further pushes go into the next round's table, without a commit. The
    round is over when everybody has committed once. Every pusher goes on at once.
    Needs `aggregate="table"`: a commit applies the mean over workers of each one's mean
    in the table, old gradients included.

    Args:
      num_workers: number of workers N, alive or not.

    Returns:
      A `Policy` with a `RingleaderState`.
    """

    def init():
        nobody = base.nobody(num_workers)
        return RingleaderState(nobody, nobody, nobody)

    def on_push(state, clocks, worker, now):
        del now
        pusher = base.only(worker, num_workers)
        second = jnp.any(state.moved & clocks.alive)
        late = second & state.moved[worker]
        filled = state.filled | (pusher & ~late)
        coming = state.coming | (pusher & late)
        commit = ~late & (second | jnp.all(filled | ~clocks.alive))
        moved = state.moved | (pusher & commit)
        over = commit & jnp.all(moved | ~clocks.alive)
        nobody = base.nobody(num_workers)
        return RingleaderState(
            jnp.where(over, coming, filled),
            jnp.where(over, nobody, moved),
            jnp.where(over, nobody, coming),
        ), base.Decision(
            jnp.float32(1), commit, pusher & clocks.alive, base.nobody(num_workers)
        )

    def on_leave(state, clocks, worker, now):
        # The last who had not moved may have left: the round is over.
        over = jnp.any(state.moved) & jnp.all(state.moved | ~clocks.alive)
        nobody = base.nobody(num_workers)
        state = RingleaderState(
            jnp.where(over, state.coming, state.filled),
            jnp.where(over, nobody, state.moved),
            jnp.where(over, nobody, state.coming),
        )
        return rounds.nobody_waits(state, clocks, worker, now)

    return base.Policy(init, on_push, on_leave)
