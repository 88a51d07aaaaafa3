"""Asynchronous parallel (ASP): nobody ever waits.

Recht, Ré, Wright, Niu, "Hogwild!", NIPS 2011; Dean et al., "Large Scale Distributed
Deep Networks", NIPS 2012.
"""

import jax.numpy as jnp

from abs_dssp.policies import base


@base.constructor
def asp(num_workers: int) -> base.Policy:
    """Commits every push alone and releases the pusher at once.

        commit at every push;  release = {pusher}

    Args:
      num_workers: number of workers N, alive or not.

    Returns:
      A `Policy` without state. Staleness is unbounded; its mean is N - 1.

    Example:
      >>> policies.asp(4).properties.commits_every_push
      True
    """

    def on_push(state, clocks, worker, now):
        del now
        return state, base.Decision(
            weight=jnp.float32(1),
            commit=jnp.bool_(True),
            release=base.only(worker, num_workers) & clocks.alive,
            restart=base.nobody(num_workers),
        )

    def on_leave(state, clocks, worker, now):
        del clocks, worker, now
        nobody = base.nobody(num_workers)
        return state, base.no_push(jnp.bool_(False), nobody, nobody)

    return base.Policy(tuple, on_push, on_leave, base.EVERY_PUSH._replace(waits=False))
