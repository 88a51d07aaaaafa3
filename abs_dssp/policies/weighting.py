"""Weights by staleness, for any policy.

Zhang, Gupta, Lian, Liu, IJCAI 2016 (`inverse`); Xie, Koyejo, Gupta, "Asynchronous
Federated Optimization", 2019, and Nguyen et al., FedBuff, AISTATS 2022
(`polynomial`). Steps that adapt to the delay are weights too: Koloskova, Stich, Jaggi,
NeurIPS 2022 (arXiv 2206.08307; `koloskova`); Mishchenko, Bach, Even, Woodworth, NeurIPS
2022 (arXiv 2206.07638; `mishchenko`). `theory.any_delays` has their steps.

With `aggregate="mean"` a commit divides by the sum of weights, so a weight matters
only relative to the others of the same commit; under a policy that commits every
push alone it matters with `aggregate="sum"`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.policies import answers, base

Weighting = Callable[[Int[Array, ""]], Float[Array, ""]]  # staleness -> weight


@base.constructor
def constant() -> Weighting:
    """Every push weighs 1.

    Example:
      >>> float(policies.constant()(jnp.int32(3)))
      1.0
    """

    def weight(staleness):
        return jnp.ones_like(staleness, jnp.float32)

    return weight


@base.constructor
def inverse() -> Weighting:
    """1 / max(1, staleness).

    Example:
      >>> float(policies.inverse()(jnp.int32(4)))
      0.25
    """

    def weight(staleness):
        return 1 / jnp.maximum(staleness, 1).astype(jnp.float32)

    return weight


@base.constructor
def polynomial(a: float = 0.5) -> Weighting:
    """(1 + staleness)^-a.

    Args:
      a: how fast the weight falls; at least 0, and 0 is `constant`.

    Raises:
      ValueError: if `a` is negative.

    Example:
      >>> float(policies.polynomial(a=2.0)(jnp.int32(1)))
      0.25
    """
    base.require(a >= 0, f"polynomial: a must be at least 0, got {a}.")

    def weight(staleness):
        return (1 + staleness.astype(jnp.float32)) ** -a

    return weight


@base.constructor
def koloskova(concurrency: int, limit: float) -> Weighting:
    """1 up to a staleness of `concurrency`, then min(1, limit / staleness).

    At a server step eta this is the delay-adaptive step min(eta, 1 / (4 L tau)) with
    limit = 1 / (4 L eta).

    Args:
      concurrency: workers that compute at a time; at least 1.
      limit: above 0.

    Raises:
      ValueError: for numbers out of range.

    Example:
      >>> float(policies.koloskova(concurrency=4, limit=2.0)(jnp.int32(8)))
      0.25
    """
    _check_concurrency("koloskova", concurrency)
    base.require(limit > 0, f"koloskova: limit must be above 0, got {limit}.")

    def weight(staleness):
        late = limit / jnp.maximum(staleness, 1).astype(jnp.float32)
        return jnp.where(staleness <= concurrency, 1, jnp.minimum(1, late))

    return weight


@base.constructor
def mishchenko(concurrency: int) -> Weighting:
    """M / max(M, staleness), M the number of workers that compute at a time.

    Args:
      concurrency: M, at least 1.

    Raises:
      ValueError: if it is not.

    Example:
      >>> float(policies.mishchenko(concurrency=4)(jnp.int32(8)))
      0.5
    """
    _check_concurrency("mishchenko", concurrency)

    def weight(staleness):
        late = jnp.maximum(staleness, concurrency).astype(jnp.float32)
        return jnp.float32(concurrency) / late

    return weight


def _check_concurrency(name: str, value: int) -> None:
    base.require(value >= 1, f"{name}: concurrency must be at least 1: {value}.")


@base.constructor
def weighted(
    num_workers: int, policy: base.Policy, weighting: Weighting
) -> base.Policy:
    """`policy`, each of its weights multiplied by `weighting(staleness)`.

        weight = weight of `policy` * weighting(staleness)

    Args:
      num_workers: number of workers N, alive or not.
      policy: the policy that decides everything else.
      weighting: `constant()`, `inverse()`, `polynomial(a)` or a function of one's own.

    Returns:
      A `Policy` with the state of `policy`.

    Raises:
      TypeError: if `policy` is not a `Policy` or `weighting` not a function.
      ValueError: if `policy` numbers its rounds in its weights (`ringleader`).

    Example:
      >>> policy = policies.weighted(4, policies.k_async(4, k=2), policies.inverse())
      >>> policy.properties.max_commit
      2
    """
    del num_workers
    if not isinstance(policy, base.Policy):
        raise TypeError(f"weighted: policy must be a Policy, got {policy!r}.")
    if not callable(weighting):
        raise TypeError(f"weighted: weighting must be a function, got {weighting!r}.")
    return weigh(policy, weighting)


def weigh(
    policy: base.Policy, weighting: Weighting, aggregate: str = ""
) -> base.Policy:
    """What `weighted` returns; for constructors that weigh a policy of their own.

    Args:
      policy: the policy that decides everything else.
      weighting: factor of each push by its staleness.
      aggregate: the aggregator that the result is meant for; by default that of
        `policy`, or `"sum"` where pushes are committed alone and `"mean"` would divide
        by the weight.
    """
    properties = policy.properties
    base.require_weights("weighted", policy)
    if not aggregate:
        alone = properties.commits_every_push and properties.aggregate == "mean"
        aggregate = "sum" if alone else properties.aggregate

    def on_push(state, clocks, worker, now):
        staleness = clocks.version - clocks.pulled[worker]
        state, decision = answers.ask(policy.on_push, state, clocks, worker, now)
        factor = weighting(staleness).astype(decision.weight.dtype)
        return state, decision._replace(weight=decision.weight * factor)

    # A closure of its own: policies are told apart by their functions.
    def on_leave(state, clocks, worker, now):
        return policy.on_leave(state, clocks, worker, now)

    properties = properties._replace(aggregate=aggregate)
    return base.Policy(policy.init, on_push, on_leave, properties, policy.on_time)
