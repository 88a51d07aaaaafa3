"""K-sync and K-batch-sync SGD: wait for the K fastest, cancel the rest.

Dutta, Wang, Joshi, "Slow and Stale Gradients Can Win the Race", IEEE JSAIT 2021
(arXiv 2003.10579); Dutta et al., AISTATS 2018 (arXiv 1803.01113). Under the name of
m-synchronous SGD the first is near-optimal for random times (arXiv 2602.03802).
"""

from abs_dssp.policies import base, rounds


@base.constructor
def k_sync(num_workers: int, k: base.Whole) -> base.Policy:
    """Commits at `k` fresh pushes; pushers wait, the others are restarted.

        accept  iff  staleness = 0;  commit and restart the others  iff  pending = k

    Only pushes of staleness 0 count; a staler one (possible only where a restart and a
    push cross on their way) is discarded and its worker released at once.

    Args:
      num_workers: number of workers N, alive or not.
      k: pushes per commit, 1..N; `k=N` is `bsp`.

    Returns:
      A `Policy` without state.

    Raises:
      ValueError: if `k` is not in 1..N.

    Example:
      >>> policies.k_sync(4, k=2).properties.max_staleness
      0
    """
    rounds.check("k_sync", num_workers, "k", k, most=num_workers)
    return rounds.policy(k, fresh=True, batch=False)


@base.constructor
def m_sync(num_workers: int, m: base.Whole) -> base.Policy:
    """m-synchronous SGD: `k_sync` under its other name.

        accept  iff  staleness = 0;  commit and restart the others  iff  pending = m

    Args:
      num_workers: number of workers N, alive or not.
      m: pushes per commit, 1..N.

    Returns:
      A `Policy` without state.

    Raises:
      ValueError: if `m` is not in 1..N.

    Example:
      >>> policies.m_sync(4, m=2).properties == policies.k_sync(4, k=2).properties
      True
    """
    rounds.check("m_sync", num_workers, "m", m, most=num_workers)
    return rounds.policy(m, fresh=True, batch=False)


@base.constructor
def k_batch_sync(num_workers: int, k: base.Whole) -> base.Policy:
    """Commits at `k` fresh pushes of any workers; nobody waits.

        accept  iff  staleness = 0;  commit and restart the others  iff  pending = k

    A pusher goes on at once with another batch at the same version; at the commit all
    that still compute are restarted.

    Args:
      num_workers: number of workers N, alive or not.
      k: pushes per commit; at least 1, may exceed N.

    Returns:
      A `Policy` without state.

    Raises:
      ValueError: if `k` is not at least 1.

    Example:
      >>> policies.k_batch_sync(4, k=6).properties.min_commit
      6
    """
    rounds.check("k_batch_sync", num_workers, "k", k, most=None)
    return rounds.policy(k, fresh=True, batch=True)
