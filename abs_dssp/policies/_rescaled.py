"""Rescaled ASGD: a slow worker's rare pushes count more.

"Rescaled ASGD" (arXiv 2605.13434): asynchronous SGD whose step for a push is in
proportion to its worker's computation time, so that with different data per worker the
limit is not pulled towards the fast ones. Only the proportionality is taken from
there; how times are measured and the steps normalised is ours.
"""

import jax.numpy as jnp

from abs_dssp.policies import base, rounds


@base.constructor
def rescaled(num_workers: int) -> base.Policy:
    """`asp` with weights in proportion to the measured time of each worker's push.

        weight = I_i mean_j (1 / I_j);  commit at every push

    The weight is I_i * mean_j(1 / I_j), I_i the mean seconds of worker i's pushes so
    far and j over the living workers that have pushed: with fixed times the weights of
    all pushes have mean 1. Needs `aggregate="sum"`, since a push committed alone is
    its own mean.

    Args:
      num_workers: number of workers N, alive or not.

    Returns:
      A `Policy` without state.

    Example:
      >>> policies.rescaled(4).properties.aggregate
      'sum'
    """

    def on_push(state, clocks, worker, now):
        del now
        pushes = jnp.maximum(clocks.clock, 1).astype(clocks.latest.dtype)
        interval = clocks.latest / pushes
        known = clocks.alive & (clocks.clock > 0) & (interval > 0)
        rate = jnp.where(known, 1 / jnp.where(known, interval, 1), 0)
        mean = jnp.sum(rate) / jnp.maximum(jnp.sum(known), 1).astype(rate.dtype)
        weight = jnp.where(known[worker], interval[worker] * mean, 1)
        release = base.only(worker, num_workers) & clocks.alive
        return state, base.commit_alone(release, weight)

    properties = base.EVERY_PUSH._replace(waits=False, aggregate="sum")
    return base.Policy(tuple, on_push, rounds.nobody_waits, properties)
