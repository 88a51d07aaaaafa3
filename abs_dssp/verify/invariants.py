"""Which promises an event breaks, as bits: pure, for one state."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from abs_dssp import policies
from abs_dssp.history.transition import Answer
from abs_dssp.policies import Clocks, Decision
from abs_dssp.verify.promised import Promises

# Bit i of a judgement; of several broken at once the first is told.
KINDS = (
    "weight",
    "dead",
    "answered twice",
    "restart",
    "empty commit",
    "version",
    "staleness",
    "gap",
    "commit too small",
    "commit too large",
    "growing",
    "falling",
    "stale computation",
    "deadlock",
    "never answered",  # found on the graph of states, by `search`
)


def sentence(kind: str, promised: Promises) -> str:
    """The promise of that kind, in one sentence."""
    size = promised.commit_field and f" (its {promised.commit_field})"
    return {
        "weight": "The weight of a push is finite and not negative.",
        "dead": "A dead worker is neither released nor restarted.",
        "answered twice": "Only who pushed or waits is released: a push is answered "
        "once, a computing worker never.",
        "restart": "Only a computing worker is restarted: not the pusher, nor one "
        "that waits.",
        "empty commit": "A commit at a push holds at least one accepted push.",
        "version": "The version rises by one at a commit and else not at all.",
        "staleness": "An accepted push is at most "
        f"{promised.max_staleness} versions stale.",
        "gap": f"A worker is released at a gap of at most {promised.max_gap} clocks.",
        "commit too small": f"A commit holds at least {promised.least_commit}{size} "
        "accepted pushes unless nobody else computes.",
        "commit too large": f"A commit holds at most {promised.most_commit}{size} "
        "accepted pushes.",
        "growing": f"{' and '.join(promised.growing)} of the rule's state never fall.",
        "falling": f"{' and '.join(promised.falling)} of the rule's state never rise.",
        "stale computation": "No worker goes on computing from a version more than "
        f"{promised.max_computing} old.",
        "deadlock": "After every event some living worker computes.",
        "never answered": "A waiting worker can still be released by some sequence of "
        "pushes.",
    }[kind]


def decision(
    promised: Promises,
    states: tuple[Any, Any],
    before: Clocks,
    after: Clocks,
    raw: Decision,
    answer: Answer,
    arrived: Bool[Array, " N"],
    is_push: bool,
) -> Int[Array, ""]:
    """What a decision breaks.

    Args:
      promised: the bounds.
      states: of the policy, before and after.
      before: clocks before the event.
      after: clocks after it.
      raw: the decision as the rule gave it.
      answer: the decision as the bookkeeping carried it out.
      arrived: who has no computation running while the rule decides.
      is_push: whether the event is a push, and not a departure.
    """
    alive = after.alive
    accepted = (raw.weight > 0) & is_push
    size = before.pending + accepted.astype(jnp.int32)
    alone = ~jnp.any(alive & ~arrived)
    staleness = answer.version - answer.pulled
    broken = {
        "weight": ~(jnp.isfinite(raw.weight) & (raw.weight >= 0)),
        "dead": jnp.any((raw.release | raw.restart) & ~alive),
        "answered twice": jnp.any(raw.release & alive & ~arrived),
        "restart": jnp.any(raw.restart & alive & arrived),
        "version": after.version != before.version + answer.commit.astype(jnp.int32),
    }
    if is_push:
        broken["empty commit"] = answer.commit & (size == 0)
        if promised.max_staleness is not None:
            broken["staleness"] = accepted & (staleness > promised.max_staleness)
    if promised.max_gap is not None:
        beyond = policies.gap(after) > promised.max_gap
        broken["gap"] = jnp.any(answer.release & beyond)
    least: Any = promised.least_commit
    most: Any = promised.most_commit
    if promised.commit_field:
        least = most = getattr(states[0], promised.commit_field)
    if least is not None:
        broken["commit too small"] = answer.commit & (size < least) & ~alone
    if most is not None:
        broken["commit too large"] = answer.commit & (size > most)
    for kind, names in (("growing", promised.growing), ("falling", promised.falling)):
        for name in names:
            old, new = getattr(states[0], name), getattr(states[1], name)
            wrong = jnp.any(new < old if kind == "growing" else new > old)
            broken[kind] = broken.get(kind, jnp.bool_(False)) | wrong
    bits = jnp.int32(0)
    for kind, holds in broken.items():
        bits = bits | (holds.astype(jnp.int32) << KINDS.index(kind))
    return bits | standing(promised, after)


def standing(promised: Promises, clocks: Clocks) -> Int[Array, ""]:
    """What must hold between events, broken or not."""
    computing = clocks.alive & ~clocks.waiting
    stuck = jnp.any(clocks.alive) & ~jnp.any(computing)
    bits = stuck.astype(jnp.int32) << KINDS.index("deadlock")
    if promised.max_computing is not None:
        old = clocks.version - clocks.pulled > promised.max_computing
        stale = jnp.any(computing & old).astype(jnp.int32)
        bits = bits | (stale << KINDS.index("stale computation"))
    return bits
