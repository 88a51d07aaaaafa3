"""Bulk synchronous parallel (BSP), and Local SGD, which is BSP over local steps.

Valiant, "A Bridging Model for Parallel Computation", CACM 1990. Stich, "Local SGD
Converges Fast and Communicates Little", ICLR 2019.
"""

import jax.numpy as jnp

from abs_dssp.policies import base


@base.constructor
def bsp(num_workers: int) -> base.Policy:
    """Everybody waits for everybody: one commit per round, of one push per worker.

        commit and release everybody  iff  every living worker has pushed

    Args:
      num_workers: number of workers N, alive or not.

    Returns:
      A `Policy` without state.

    Example:
      >>> policies.bsp(4).properties.max_commit
      4
    """
    return _lockstep(num_workers)


@base.constructor
def local_sgd(num_workers: int) -> base.Policy:
    """Local SGD: the decisions of `bsp`, for runs with `local_steps` U > 1.

        commit and release everybody  iff  every living worker has pushed

    A policy never sees gradients, so the number of local steps is an argument of the
    run and composes with every policy.

    Args:
      num_workers: number of workers N, alive or not.

    Returns:
      A `Policy` without state.

    Example:
      >>> policies.local_sgd(4).properties.max_staleness
      0
    """
    return _lockstep(num_workers)


def _lockstep(num_workers):
    def decide(clocks, arrived):
        complete = jnp.all(arrived | ~clocks.alive)
        return complete, clocks.alive & arrived & complete

    def on_push(state, clocks, worker, now):
        del now
        arrived = clocks.waiting | base.only(worker, num_workers)
        complete, release = decide(clocks, arrived)
        return state, base.Decision(
            jnp.float32(1), complete, release, base.nobody(num_workers)
        )

    def on_leave(state, clocks, worker, now):
        del worker, now
        complete, release = decide(clocks, clocks.waiting)
        commit = complete & (clocks.pending > 0)
        return state, base.no_push(commit, release)

    properties = base.Properties(
        max_staleness=0,
        max_computing=0,
        max_gap=0,
        min_commit=num_workers,
        max_commit=num_workers,
        restarts=False,
        reads_loss=False,
        # A round may hold several pushes of a worker that left and joined again.
        commit_per_join=1,
    )
    return base.Policy(tuple, on_push, on_leave, properties)
