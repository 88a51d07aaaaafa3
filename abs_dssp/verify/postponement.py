"""Whether pushes put a deadline off for ever: cycles, tried at the times of the rule.

A search keeps of a deadline only whether there is one. A cycle of pushes at which the
rule sets it anew is no proof: the rule may have set the same time again. Here such a
cycle is gone round with the rule's own deadlines, several times: it is one if every
push comes before the deadline, and this is no nearer after a turn than before it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from abs_dssp.history import transition
from abs_dssp.policies import Policy
from abs_dssp.verify.step import Action, Goals

_GAPS = (1.0, 0.25, 2.0**-6)  # seconds between two pushes of a cycle
_TURNS = 4
_SLACK = 0.01  # of a gap, for rounding


def confirmed(
    policy: Policy,
    num_workers: int,
    before: Sequence[Action],
    cycle: Sequence[Action],
    goal: int,
) -> list[Action] | None:
    """The cycle with intervals between its events at which it lasts.

    Args:
      policy: the rule, with `on_time`.
      num_workers: N.
      before: actions from the start to the cycle.
      cycle: once around; pushes and deadlines.
      goal: bit of `Goals` that it must not reach.

    Returns:
      The actions of one turn, or None if it does not last at any of the intervals.
    """
    ask = _transitions(policy)
    state, now = transition.initial(policy, num_workers, jnp.float32), 0.0
    for action in before:
        now += action.seconds
        state, _ = ask[action.kind](state, *_given(action, now))
    goals = Goals(num_workers)
    for gap in _GAPS:
        found = _around(ask, state, now, cycle, gap, goals, goal)
        if found is not None:
            return found
    return None


def _around(ask, state, now: float, cycle, gap: float, goals: Goals, goal: int):
    """One turn with this gap, if it can be gone round for ever."""
    ahead: list[float] = []  # seconds to the deadline, before each turn but the first
    turn: list[Action] = []
    for number in range(_TURNS):
        turn = []
        if number:
            ahead.append(float(state.wake) - now)
        for action in cycle:
            deadline = float(state.wake)
            at = deadline if action.kind == "timer" else now + gap
            if not now <= at <= deadline or not at < float("inf"):
                return None
            turn.append(action._replace(seconds=at - now))
            now = at
            worker = jnp.int32(action.worker)
            if action.kind == "push" and not _computes(state, action.worker):
                return None
            state, done = ask[action.kind](state, *_given(action, now))
            if int(goals.bits(worker, done)) >> goal & 1:
                return None
    lasts = all(b >= a - _SLACK * gap for a, b in zip(ahead, ahead[1:], strict=False))
    return turn if lasts else None


def _computes(state: Any, worker: int) -> bool:
    clocks = state.clocks
    return bool(clocks.alive[worker] & ~clocks.waiting[worker])


def _given(action: Action, now: float):
    return jnp.int32(action.worker), jnp.float32(now), jnp.float32(action.loss)


def _transitions(policy: Policy):
    """`(state, worker, now, loss) -> (state, transition)` by the kind of an action."""

    def told(step, state, worker, now, loss):
        clocks = state.clocks._replace(loss=loss)
        return step(state._replace(clocks=clocks), worker, now)

    steps = {
        "push": functools.partial(transition.push, policy),
        "leave": functools.partial(transition.leave, policy),
        "join": transition.join,
        "timer": lambda state, _, now: transition.timer(policy, state, now),
    }
    return {
        kind: jax.jit(functools.partial(told, step)) for kind, step in steps.items()
    }
