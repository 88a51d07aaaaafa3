"""FedBuff's and FedAsync's weights for pushes of several local steps.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022
(arXiv 2106.06639). Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019
(arXiv 1903.03934): there the server mixes its model with the worker's; here the
worker's change is added, with the same weight. Both need `aggregate="sum"`.
"""

from typing import Any

import jax.numpy as jnp

from abs_dssp.policies import base, weighting
from abs_dssp.policies._asp import asp
from abs_dssp.policies._k_async import k_batch_async


@base.constructor
def fedbuff(num_workers: int, k: base.Whole = 10, a: float = 0.5) -> base.Policy:
    """Commits every `k`-th push; a push weighs (1 + staleness)^-a / k.

        weight = (1 + staleness)^-a / k;  commit  iff  pending = k

    Args:
      num_workers: number of workers N, alive or not.
      k: the buffer's size, pushes per commit; at least 1.
      a: how fast the weight falls with staleness; at least 0.

    Returns:
      A `Policy` with the state of `k_batch_async`.

    Raises:
      ValueError: if `k` is not at least 1 or `a` negative.

    Example:
      >>> policies.fedbuff(4, k=3).properties.max_commit
      3
    """
    return weighting.weigh(k_batch_async(num_workers, k=k), _scaled(1 / k, a), "sum")


@base.constructor
def fedasync(num_workers: int, alpha: float = 0.6, a: float = 0.5) -> base.Policy:
    """Commits every push alone, with weight alpha (1 + staleness)^-a.

        weight = alpha (1 + staleness)^-a;  commit at every push

    Args:
      num_workers: number of workers N, alive or not.
      alpha: weight of a push without staleness; above 0, at most 1.
      a: how fast the weight falls with staleness; at least 0.

    Returns:
      A `Policy` with the state of `asp`.

    Raises:
      ValueError: if `alpha` or `a` is out of range.

    Example:
      >>> policies.fedasync(4).properties.aggregate
      'sum'
    """
    base.require(0 < alpha <= 1, f"fedasync: alpha must be in (0, 1], got {alpha}.")
    return weighting.weigh(asp(num_workers), _scaled(alpha, a), "sum")


def _scaled(scale: Any, a: float) -> weighting.Weighting:
    fall = weighting.polynomial(a)

    def weight(staleness):
        return jnp.float32(scale) * fall(staleness)

    return weight
