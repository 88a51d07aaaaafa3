"""Stale synchronous parallel (SSP): a worker more than s clocks ahead waits.

Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel
Parameter Server", NIPS 2013.
"""

from abs_dssp.policies import base


@base.constructor
def ssp(num_workers: int, s: base.Whole) -> base.Policy:
    """Commits every push alone; a worker waits while its gap exceeds `s`.

        release i  iff  clock_i - min_j clock_j <= s,  j alive

    The gap of a worker is its clock minus the least clock among living workers,
    counted after the push: it is at most `s` at every release and s + 1 at a push.
    `s=0` locks the workers in step, and a large `s` never makes one wait.

    Args:
      num_workers: number of workers N, alive or not.
      s: largest gap, in clocks, at which a worker is released; at least 0.

    Returns:
      A `Policy` without state.

    Raises:
      ValueError: if `s` is not a whole number of at least 0.

    Example:
      >>> policies.ssp(4, s=3).properties.max_gap
      3
    """
    base.require(base.whole(s), f"ssp: s must be a whole number, got {s!r}.")
    base.require(s >= 0, f"ssp: s must be at least 0, got {s}.")

    def release(clocks, ready):
        return ready & clocks.alive & (base.gap(clocks) <= s)

    def on_push(state, clocks, worker, now):
        del now  # SSP looks at clocks, not at times
        ready = clocks.waiting | base.only(worker, num_workers)
        return state, base.commit_alone(release(clocks, ready))

    def on_leave(state, clocks, worker, now):
        del worker, now
        return state, base.no_push(False, release(clocks, clocks.waiting))

    # A worker released at clock c has every other at c - s or more, and none of them
    # pushes beyond c + s + 1 before it has pushed itself: each makes at most 2 s + 1
    # pushes meanwhile. A worker that joins again counts as one worker more.
    each = 2 * s + 1
    properties = base.EVERY_PUSH._replace(
        max_staleness=each * (num_workers - 1), max_gap=s, staleness_per_join=each
    )
    return base.Policy(tuple, on_push, on_leave, properties)
