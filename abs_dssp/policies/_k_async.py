"""K-async and K-batch-async SGD: wait for the K fastest, let the rest finish.

Dutta, Wang, Joshi, "Slow and Stale Gradients Can Win the Race", IEEE JSAIT 2021
(arXiv 2003.10579); Dutta et al., AISTATS 2018 (arXiv 1803.01113).
"""

from abs_dssp.policies import base, rounds


@base.constructor
def k_async(num_workers: int, k: base.Whole) -> base.Policy:
    """Commits at `k` pushes of whatever staleness; those `k` waited, nobody restarts.

        commit  iff  pending = k  or  nobody else computes

    Args:
      num_workers: number of workers N, alive or not.
      k: pushes per commit, 1..N; `k=1` is `asp`, `k=N` is `bsp`.

    Returns:
      A `Policy` without state. Mean staleness is N/k - 1 for any law of times.

    Raises:
      ValueError: if `k` is not in 1..N.

    Example:
      >>> policies.k_async(4, k=2).properties.max_commit
      2
    """
    rounds.check("k_async", num_workers, "k", k, most=num_workers)
    return rounds.policy(k, fresh=False, batch=False)


@base.constructor
def k_batch_async(num_workers: int, k: base.Whole) -> base.Policy:
    """Commits at every `k`-th push; nobody waits.

        commit  iff  pending = k;  release = {pusher}

    A pusher is released at once with the parameters it finds after any commit.

    Args:
      num_workers: number of workers N, alive or not.
      k: pushes per commit; at least 1, may exceed N.

    Returns:
      A `Policy` without state. Mean staleness is (N - 1)/k for any law of times.

    Raises:
      ValueError: if `k` is not at least 1.

    Example:
      >>> policies.k_batch_async(4, k=6).properties.waits
      False
    """
    rounds.check("k_batch_async", num_workers, "k", k, most=None)
    return rounds.policy(k, fresh=False, batch=True)
