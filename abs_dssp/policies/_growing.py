"""Rounds that begin small and grow: more pushes per commit as noise comes to matter.

Smith, Kindermans, Ying, Le, "Don't Decay the Learning Rate, Increase the Batch Size",
ICLR 2018 (arXiv 1711.00489).
"""

import jax.numpy as jnp

from abs_dssp.policies import base, rounds


@base.constructor
def growing(
    num_workers: int, policy: base.Policy, first: int, growth: float = rounds.GROWTH
) -> base.Policy:
    """`policy`, whose rounds of K pushes are smaller in the beginning.

        K^t = min(K, ceil(first growth^t))

    Args:
      num_workers: number of workers N, alive or not.
      policy: a policy whose every commit has the same number of pushes K, such as
        `k_batch_sync` or `rennala`.
      first: K^0, at least 1.
      growth: at least 1; with 1 all rounds have K^0 pushes.

    Returns:
      A `Policy` with the state of `policy`.

    Raises:
      TypeError: if `policy` is not a `Policy`.
      ValueError: if its commits differ in size, or for numbers out of range.

    Example:
      >>> inner = policies.k_batch_sync(4, k=100)
      >>> policy = policies.growing(4, inner, first=4)
      >>> policy.properties.min_commit, policy.properties.max_commit
      (4, 100)
    """
    del num_workers
    if not isinstance(policy, base.Policy):
        raise TypeError(f"growing: policy must be a Policy, got {policy!r}.")
    base.require_weights("growing", policy)
    least, most = policy.properties.min_commit, policy.properties.max_commit
    if most is None or least != most:
        raise ValueError(
            "growing: every commit of the policy must have the same number of pushes, "
            f"got {least} to {most}."
        )
    base.require(first >= 1, f"growing: first must be at least 1, got {first}.")
    base.require(growth >= 1, f"growing: growth must be at least 1, got {growth}.")

    def on_push(state, clocks, worker, now):
        grown = jnp.ceil(first * growth ** clocks.version.astype(float))
        missing = jnp.maximum(most - grown, 0).astype(jnp.int32)
        # It takes the pushes that this round does without for pushes that are there.
        clocks = clocks._replace(pending=clocks.pending + missing)
        return policy.on_push(state, clocks, worker, now)

    # A closure of its own: policies are told apart by their functions.
    def on_leave(state, clocks, worker, now):
        return policy.on_leave(state, clocks, worker, now)

    properties = policy.properties._replace(min_commit=first if first < most else most)
    return base.Policy(policy.init, on_push, on_leave, properties, policy.on_time)
