"""Asynchronous parallel (ASP): nobody ever waits.

Recht, Ré, Wright, Niu, "Hogwild!", NIPS 2011; Dean et al., "Large Scale Distributed
Deep Networks", NIPS 2012.
"""

from abs_dssp.policies import base, rounds


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
        release = base.only(worker, num_workers) & clocks.alive
        return state, base.commit_alone(release)

    properties = base.EVERY_PUSH._replace(waits=False)
    return base.Policy(tuple, on_push, rounds.nobody_waits, properties)
