"""One policy first, another one later.

The idea of Sync-Switch (Li et al., ICDCS 2021, arXiv 2104.08364): synchronous while
it matters, asynchronous afterwards. Any two policies may be joined.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from abs_dssp.policies import answers, base
from abs_dssp.policies._asp import asp
from abs_dssp.policies._bsp import bsp


class SwitchState(NamedTuple):
    """The states of both policies, and which one decides."""

    first: base.State
    then: base.State
    switched: Bool[Array, ""]


@base.constructor
def switch(
    num_workers: int,
    first: base.Policy,
    then: base.Policy,
    at: float,
    unit: str = "version",
) -> base.Policy:
    """Decides by `first` until `at` is reached, by `then` from the next event on.

        first decides  iff  version (or seconds) < at

    At the event that `then` decides first, whoever still waits under the rule of
    `first` is released, since `then` may not know that it owes them anything; pushes
    that `first` accepted and did not commit go into the first commit of `then`. A
    deadline of `first` is forgotten; `then` is woken at once, if it can be.

    Args:
      num_workers: number of workers N, alive or not.
      first: the policy at the start.
      then: the policy afterwards, from its initial state.
      at: when to switch, in `unit`; at least 0.
      unit: `"version"` (commits made) or `"seconds"`.

    Returns:
      A `Policy` with a `SwitchState`.

    Raises:
      ValueError: for a negative `at`, an unknown unit, or a policy that numbers its
        rounds in its weights (`ringleader`).
      TypeError: if `first` or `then` is not a `Policy`.

    Example:
      >>> policy = policies.switch(4, policies.bsp(4), policies.asp(4), at=100)
      >>> policy.properties.waits
      True
    """
    for name, policy in (("first", first), ("then", then)):
        if not isinstance(policy, base.Policy):
            raise TypeError(f"switch: {name} must be a Policy, got {policy!r}.")
        base.require_weights("switch", policy)
    base.require(at >= 0, f"switch: at must be at least 0, got {at}.")
    if unit not in ("version", "seconds"):
        raise ValueError(f"switch: unknown unit {unit!r}; known: seconds, version.")

    def init():
        return SwitchState(first.init(), then.init(), jnp.bool_(False))

    timed = first.on_time is not None or then.on_time is not None

    def decide(ask_first, ask_then, state, clocks, *event):
        now = event[-1]
        reached = (now if unit == "seconds" else clocks.version) >= at
        switched = state.switched | reached

        def before(_):
            inner, decision = answers.ask(ask_first, state.first, clocks, *event)
            if timed:
                decision = _with_wake(decision, jnp.nan, clocks)
            return SwitchState(inner, state.then, switched), decision

        def after(_):
            inner, decision = answers.ask(ask_then, state.then, clocks, *event)
            left = clocks.waiting & clocks.alive & ~state.switched
            decision = decision._replace(release=decision.release | left)
            if timed:
                begins = jnp.inf if then.on_time is None else now
                asked = jnp.where(state.switched, jnp.nan, begins)
                decision = _with_wake(decision, asked, clocks)
            return SwitchState(state.first, inner, switched), decision

        return jax.lax.cond(switched, after, before, None)

    def on_push(state, clocks, worker, now):
        return decide(first.on_push, then.on_push, state, clocks, worker, now)

    def on_leave(state, clocks, worker, now):
        return decide(first.on_leave, then.on_leave, state, clocks, worker, now)

    def on_time(state, clocks, now):
        each = (policy.on_time or _nothing for policy in (first, then))
        return decide(*each, state, clocks, now)

    functions = init, on_push, on_leave, _common(first, then)
    return base.Policy(*functions, on_time if timed else None)


def _with_wake(decision: base.Decision, otherwise, clocks) -> base.Decision:
    """The decision with a deadline, `otherwise` where it leaves that as it was."""
    wake = jnp.asarray(otherwise, clocks.latest.dtype)
    if decision.wake is not None:
        wake = jnp.where(jnp.isnan(decision.wake), wake, decision.wake)
    return decision._replace(wake=wake)


def _nothing(state, clocks, now):
    """`on_time` of a policy that has none."""
    del now
    return state, base.no_push(False, jnp.zeros_like(clocks.alive))


def _common(first: base.Policy, then: base.Policy) -> base.Properties:
    """What holds across the switch.

    No bound does: who computes at the switch may be staler, and who is released at it
    further ahead, than either rule would have it.
    """
    one, other = first.properties, then.properties
    known = one.reads_loss is not None and other.reads_loss is not None
    return base.Properties(
        commits_every_push=one.commits_every_push and other.commits_every_push,
        waits=one.waits or other.waits,
        restarts=one.restarts or other.restarts,
        reads_loss=one.reads_loss or other.reads_loss if known else None,
        aggregate=one.aggregate if one.aggregate == other.aggregate else "mean",
        starves=max(one.starves, other.starves, key=base.STARVES.index),
    )


@base.constructor
def sync_switch(num_workers: int, at: float, unit: str = "version") -> base.Policy:
    """Sync-Switch: `bsp` first, `asp` from `at` on.

        bsp decides  iff  version (or seconds) < at

    Where the paper switches could not be verified, so `at` has no default.

    Args:
      num_workers: number of workers N, alive or not.
      at: when to switch, in `unit`; at least 0.
      unit: `"version"` (commits made) or `"seconds"`.

    Returns:
      A `Policy` with a `SwitchState`.

    Raises:
      ValueError: as for `switch`.

    Example:
      >>> policies.describe(policies.sync_switch(4, at=100))
      'sync_switch(at=100)'
    """
    return switch(num_workers, bsp(num_workers), asp(num_workers), at=at, unit=unit)
