"""Weights by staleness, for any policy.

Zhang, Gupta, Lian, Liu, IJCAI 2016 (`inverse`); Xie, Koyejo, Gupta, "Asynchronous
Federated Optimization", 2019, and Nguyen et al., FedBuff, AISTATS 2022
(`polynomial`).

With `aggregate="mean"` a commit divides by the sum of weights, so a weight matters
only relative to the others of the same commit; under a policy that commits every
push alone it matters with `aggregate="sum"`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from abs_dssp.policies import base

Weighting = Callable[[Int[Array, ""]], Float[Array, ""]]  # staleness -> weight


@functools.cache
def constant() -> Weighting:
    """Every push weighs 1."""

    def weight(staleness):
        return jnp.ones_like(staleness, jnp.float32)

    return _named(weight, "constant()")


@functools.cache
def inverse() -> Weighting:
    """1 / max(1, staleness)."""

    def weight(staleness):
        return 1 / jnp.maximum(staleness, 1).astype(jnp.float32)

    return _named(weight, "inverse()")


@functools.cache
def polynomial(a: float = 0.5) -> Weighting:
    """(1 + staleness)^-a.

    Args:
      a: how fast the weight falls; at least 0, and 0 is `constant`.

    Raises:
      ValueError: if `a` is negative.
    """
    base.require(a >= 0, f"polynomial: a must be at least 0, got {a}.")

    def weight(staleness):
        return (1 + staleness.astype(jnp.float32)) ** -a

    return _named(weight, f"polynomial(a={a!r})")


def _named(function: Any, spec: str) -> Weighting:
    function.spec = spec  # how a trace's header writes it
    return function


@base.constructor
def weighted(
    num_workers: int, policy: base.Policy, weighting: Weighting
) -> base.Policy:
    """`policy`, each of its weights multiplied by `weighting(staleness)`.

    Args:
      num_workers: number of workers N, alive or not.
      policy: the policy that decides everything else.
      weighting: `constant()`, `inverse()`, `polynomial(a)` or a function of one's own.

    Returns:
      A `Policy` with the state of `policy`.

    Raises:
      TypeError: if `policy` is not a `Policy` or `weighting` not a function.
    """
    del num_workers
    if not isinstance(policy, base.Policy):
        raise TypeError(f"weighted: policy must be a Policy, got {policy!r}.")
    if not callable(weighting):
        raise TypeError(f"weighted: weighting must be a function, got {weighting!r}.")
    return weigh(policy, weighting)


def weigh(policy: base.Policy, weighting: Weighting) -> base.Policy:
    """What `weighted` returns; for constructors that weigh a policy of their own."""

    def on_push(state, clocks, worker, now):
        staleness = clocks.version - clocks.pulled[worker]
        state, decision = policy.on_push(state, clocks, worker, now)
        factor = weighting(staleness).astype(decision.weight.dtype)
        return state, decision._replace(weight=decision.weight * factor)

    # A closure of its own: policies are told apart by their functions.
    def on_leave(state, clocks, worker, now):
        return policy.on_leave(state, clocks, worker, now)

    return base.Policy(policy.init, on_push, on_leave)
