"""Ringmaster ASGD: asynchronous SGD that ignores, or stops, what is too stale.

Maranjyan, Tyurin, Richtárik, "Ringmaster ASGD: The First Asynchronous SGD with Optimal
Time Complexity", ICML 2025 (arXiv 2501.16168).
"""

import jax.numpy as jnp

from abs_dssp.policies import base, rounds


@base.constructor
def ringmaster(
    num_workers: int, threshold: base.Whole, stop: bool = False
) -> base.Policy:
    """Commits every push of staleness below `threshold` alone; discards the others.

        accept and commit  iff  staleness < threshold

    The pusher goes on at once. With `stop`, whoever's push would be discarded starts
    again from the new version instead of finishing.

    Args:
      num_workers: number of workers N, alive or not.
      threshold: R, in versions, at least 1: 1 is SGD on the fastest worker, and a very
        large one is `asp`. The paper's choice is max(1, ceil(sigma^2 / eps)).
      stop: whether computations are stopped as soon as they are too stale.

    Returns:
      A `Policy` without state.

    Raises:
      ValueError: if `threshold` is not at least 1, or `stop` not a truth value.

    Example:
      >>> policies.ringmaster(4, threshold=3).properties.max_staleness
      2
    """
    rounds.check("ringmaster", num_workers, "threshold", threshold, most=None)
    base.require(
        isinstance(stop, bool), f"ringmaster: stop must be True or False, got {stop!r}."
    )

    def on_push(state, clocks, worker, now):
        del now
        accepted = clocks.version - clocks.pulled[worker] < threshold
        doomed = clocks.version + 1 - clocks.pulled >= threshold
        return state, base.Decision(
            weight=accepted.astype(jnp.float32),
            commit=accepted,
            release=base.only(worker, num_workers) & clocks.alive,
            restart=rounds.others(clocks, worker) & doomed & accepted & jnp.bool_(stop),
        )

    properties = base.Properties(
        max_staleness=threshold - 1,
        max_computing=threshold - 1 if stop else None,
        min_commit=1,
        max_commit=1,
        waits=False,
        restarts=stop,
        reads_loss=False,
    )
    return base.Policy(tuple, on_push, rounds.nobody_waits, properties)
