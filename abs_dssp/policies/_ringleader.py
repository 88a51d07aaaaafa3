"""Ringleader ASGD: asynchronous SGD over a table of every worker's latest gradients.

Maranjyan, Richtárik, "Ringleader ASGD", 2025 (arXiv 2509.22860), for workers whose data
differ. Whether a worker that waits for its turn goes on from its old version or the
present one could not be checked against the paper; here a release gives the present
one, as everywhere in this package.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from abs_dssp.policies import base, rounds


class RingleaderState(NamedTuple):
    """How the present round stands."""

    round: Int[Array, ""]  # its number, the weight of pushes for its table
    filled: Bool[Array, " N"]  # whose gradients the present table has
    moved: Bool[Array, " N"]  # who has caused its commit of this round
    coming: Bool[Array, " N"]  # whose gradients the next table has


@base.constructor
def ringleader(num_workers: int) -> base.Policy:
    """First fills the table, then one commit per worker, in order of arrival.

        commit  iff  the table is full  and  i has not yet committed in this round

    In the first phase pushes go into the table until every living worker is in it; the
    last one commits. In the second a worker's first push goes into the table too and
    commits; its further pushes go into the next round's table, without a commit. The
    round is over when everybody has committed once. Every pusher goes on at once.

    Needs `aggregate="table"`: a commit applies the mean over workers of each one's mean
    in the table, old gradients included. The weight of a push tells that aggregator the
    table: it is the number of the table's round, r = 1, 2, 3, ... for the present table
    and r + 1 for the next one. When a worker leaves that has gradients in either table,
    both are begun anew, as rounds r + 2 and r + 3, so that no gradient of a worker that
    is lost is averaged.

    Args:
      num_workers: number of workers N, alive or not.

    Returns:
      A `Policy` with a `RingleaderState`.

    Example:
      >>> policies.ringleader(4).properties.aggregate
      'table'
    """

    def beginning(number):
        nobody = base.nobody(num_workers)
        return RingleaderState(number, nobody, nobody, nobody)

    def init():
        return beginning(jnp.int32(1))

    def next_round_if(over, state):
        nobody = base.nobody(num_workers)
        return RingleaderState(
            state.round + over.astype(jnp.int32),
            jnp.where(over, state.coming, state.filled),
            jnp.where(over, nobody, state.moved),
            jnp.where(over, nobody, state.coming),
        )

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
        table = state.round + late.astype(jnp.int32)
        state = RingleaderState(state.round, filled, moved, coming)
        weight, nobody = table.astype(jnp.float32), base.nobody(num_workers)
        decision = base.Decision(weight, commit, pusher & clocks.alive, nobody)
        return next_round_if(over, state), decision

    def on_leave(state, clocks, worker, now):
        # The last who had not moved may have left: the round is over.
        over = jnp.any(state.moved) & jnp.all(state.moved | ~clocks.alive)
        lost = (state.filled | state.coming)[worker]
        state = jax.tree.map(
            lambda new, old: jnp.where(lost, new, old),
            beginning(state.round + 2),
            next_round_if(over, state),
        )
        return rounds.nobody_waits(state, clocks, worker, now)

    properties = base.Properties(
        waits=False,
        restarts=False,
        reads_loss=False,
        aggregate="table",
        never_falls=("round",),
    )
    return base.Policy(init, on_push, on_leave, properties)
