"""Malenia SGD: Rennala's rounds where every worker has data of its own.

Tyurin, Richtárik, "Optimal Time Complexities of Parallel Stochastic Optimization
Methods Under a Fixed Computation Model", NeurIPS 2023 (arXiv 2305.12387). The condition
that ends a round is recalled; it could not be checked against the paper's text.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from abs_dssp.policies import base, rounds


class MaleniaState(NamedTuple):
    """How the present round stands."""

    counts: Int[Array, " N"]  # B_i, fresh pushes of each worker


@base.constructor
def malenia(num_workers: int, batch_size: base.Whole) -> base.Policy:
    """Collects fresh pushes until every worker's mean is good enough.

        accept  iff  staleness = 0;  commit  iff  n / sum_i (1 / B_i) >= batch_size / n

    A round ends when the harmonic mean of the counts B_i over the n living workers is
    at least batch_size / n, so each has pushed at least once. Stale pushes are
    discarded, every pusher goes on at once, nobody is restarted. Needs
    `aggregate="workers"`, the mean over workers of each one's mean: then data that
    differ between workers do not pull towards the fast ones.

    Args:
      num_workers: number of workers N, alive or not.
      batch_size: S, at least 1; the paper's choice is max(N, ceil(sigma^2 / eps)).

    Returns:
      A `Policy` with a `MaleniaState`.

    Raises:
      ValueError: if `batch_size` is not at least 1.

    Example:
      >>> policies.malenia(4, batch_size=8).properties.aggregate
      'workers'
    """
    rounds.check("malenia", num_workers, "batch_size", batch_size, most=None)

    def init():
        return MaleniaState(jnp.zeros(num_workers, jnp.int32))

    def complete(count, alive):
        members = jnp.sum(alive).astype(jnp.float32)
        share = 1 / jnp.maximum(count, 1).astype(jnp.float32)
        inverse = jnp.sum(jnp.where(alive, share, 0.0))
        # Equality counts: the slack is for the rounding of the sum.
        enough = members**2 * jnp.float32(1 + 1e-5) >= batch_size * inverse
        return enough & jnp.all((count > 0) | ~alive)

    def on_push(state, clocks, worker, now):
        del now
        fresh = rounds.is_fresh(clocks, worker)
        pusher = base.only(worker, num_workers)
        count = state.counts + (pusher & fresh).astype(jnp.int32)
        commit = fresh & complete(count, clocks.alive)
        released = pusher & clocks.alive
        weight, nobody = fresh.astype(jnp.float32), base.nobody(num_workers)
        decision = base.Decision(weight, commit, released, nobody)
        return MaleniaState(jnp.where(commit, 0, count)), decision

    def on_leave(state, clocks, worker, now):
        del worker, now
        commit = (clocks.pending > 0) & complete(state.counts, clocks.alive)
        count = jnp.where(commit, 0, state.counts)
        return MaleniaState(count), base.no_push(commit, base.nobody(num_workers))

    properties = base.Properties(
        max_staleness=0,
        # Their mean is not below their harmonic mean, which is batch_size / n.
        min_commit=batch_size,
        waits=False,
        restarts=False,
        reads_loss=False,
        aggregate="workers",
    )
    return base.Policy(init, on_push, on_leave, properties)
