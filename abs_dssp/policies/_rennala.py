"""Rennala SGD: collect a batch of fresh gradients, whoever computes them.

Tyurin, Richtárik, "Optimal Time Complexities of Parallel Stochastic Optimization
Methods Under a Fixed Computation Model", NeurIPS 2023 (arXiv 2305.12387).
"""

import jax.numpy as jnp

from abs_dssp.policies import base, rounds


@base.constructor
def rennala(num_workers: int, batch_size: base.Whole) -> base.Policy:
    """Commits at `batch_size` pushes of staleness 0; others are discarded.

        accept  iff  staleness = 0;  commit  iff  pending = batch_size

    Every pusher goes on at once. Nobody is restarted, so a slow worker finishes stale
    work that nobody uses; `k_batch_sync` cancels it.

    Args:
      num_workers: number of workers N, alive or not.
      batch_size: S, pushes per commit, at least 1; the paper's choice is
        max(1, ceil(sigma^2 / eps)), `theory.rennala_batch`.

    Returns:
      A `Policy` without state.

    Raises:
      ValueError: if `batch_size` is not at least 1.

    Example:
      >>> policies.rennala(4, batch_size=10).properties.min_commit
      10
    """
    rounds.check("rennala", num_workers, "batch_size", batch_size, most=None)

    def on_push(state, clocks, worker, now):
        del now
        fresh = rounds.is_fresh(clocks, worker)
        commit, release = rounds.on_push(
            clocks, worker, jnp.int32(batch_size), fresh, batch=True
        )
        weight, nobody = fresh.astype(jnp.float32), base.nobody(num_workers)
        return state, base.Decision(weight, commit & fresh, release, nobody)

    # Those of `k_batch_sync`, which restarts instead of letting stale work end.
    properties = rounds.properties(batch_size, fresh=True, batch=True)._replace(
        max_computing=None, restarts=False
    )
    return base.Policy(tuple, on_push, rounds.nobody_waits, properties)
