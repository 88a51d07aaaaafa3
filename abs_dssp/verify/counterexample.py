"""A broken property, made to be read: actions, a table of the steps, a trace."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import policies
from abs_dssp.history import builder, transition
from abs_dssp.history.events import Event
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy, Properties
from abs_dssp.verify import invariants
from abs_dssp.verify.step import Action


@dataclasses.dataclass(frozen=True)
class Violation:
    """A property that does not hold, with a way there."""

    kind: str  # one of invariants.KINDS or progress.KINDS
    property: str  # what should hold, in one sentence
    # From the start; the last one breaks the property. What is about progress ends in a
    # state from which it is lost, with pushes that show it or once around a cycle.
    actions: tuple[Action, ...]
    shortest: bool  # whether no sequence of fewer events breaks it
    trace: Trace
    table: str  # the same, to be read


class _Step(NamedTuple):
    """What one action did; NumPy."""

    action: Action
    now: float
    clocks: policies.Clocks  # afterwards
    done: transition.Transition


def build(
    policy: Policy,
    text: str,
    num_workers: int,
    kind: str,
    properties: Properties,
    actions: Sequence[Action],
    shortest: bool,
) -> Violation:
    """Goes the way again, without any reduction."""
    steps, last = _replay(policy, num_workers, actions)
    return Violation(
        kind,
        invariants.sentence(kind, properties),
        tuple(actions),
        shortest,
        _trace(text, steps, last),
        _table(steps),
    )


def _replay(policy, num_workers, actions) -> tuple[list[_Step], transition.State]:
    """What every action did, and the state at the end; NumPy."""
    ask = {
        "push": jax.jit(functools.partial(transition.push, policy)),
        "leave": jax.jit(functools.partial(transition.leave, policy)),
        "join": jax.jit(transition.join),
        "timer": jax.jit(lambda state, _, now: transition.timer(policy, state, now)),
    }
    state = transition.initial(policy, num_workers, jnp.float32)
    now, steps = 0.0, []
    for action in actions:
        now += action.seconds
        clocks = state.clocks._replace(loss=jnp.float32(action.loss))
        worker, time = jnp.int32(action.worker), jnp.float32(now)
        state, done = ask[action.kind](state._replace(clocks=clocks), worker, time)
        steps.append(_Step(action, now, *jax.device_get((state.clocks, done))))
    return steps, jax.device_get(state)


def _trace(text: str, steps: Sequence[_Step], last: transition.State) -> Trace:
    """Rows as a cluster's log would give them."""
    num_workers = len(last.grants)
    made = builder.Builder(num_workers)
    began = np.zeros(num_workers)  # of each worker's computation
    for step in steps:
        action, done = step.action, step.done
        took = step.now - began[action.worker]
        event = Event(action.kind, action.worker, step.now, took)
        made.add(event, done)
        began[done.begin] = step.now
    return made.trace(builder.ending(last), policy=text)


_HEAD = (
    *("", "time", "event", "pulled", "weight", "commit", "version", "released"),
    *("restarted", "clocks", "waiting", "dead"),
)


def _table(steps: Sequence[_Step]) -> str:
    """One line per action: what the rule answered, and how things stood afterwards."""

    def who(mask) -> str:
        return " ".join(str(worker) for worker in np.flatnonzero(mask)) or "-"

    lines = [_HEAD]
    for number, step in enumerate(steps, 1):
        clocks, done, raw = step.clocks, step.done, step.done.decision
        push, decided = step.action.kind == "push", step.action.kind != "join"
        event = f"{step.action.worker} {step.action.kind}"
        if step.action.kind == "timer":
            event = "deadline"
        if not np.isnan(step.action.loss):
            event += f" (loss {step.action.loss:g})"
        lines.append(
            (
                f"{number}",
                f"{step.now:g} s",
                event,
                f"{done.pulled} of {done.version}" if push else "",
                f"{raw.weight:g}" if push else "",
                "yes" if done.commit else "",
                f"{clocks.version}",
                who(raw.release) if decided else "",
                who(raw.restart) if decided else "",
                " ".join(map(str, clocks.clock)),
                who(clocks.waiting),
                who(~clocks.alive),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [map(str.ljust, line, widths) for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
