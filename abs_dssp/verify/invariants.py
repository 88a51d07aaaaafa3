"""Which properties an event breaks, as bits: pure, for one state."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from abs_dssp import policies
from abs_dssp.history.transition import Transition
from abs_dssp.policies import Clocks, Properties
from abs_dssp.verify import progress

# Bit i of what is broken; of several at once the first is reported.
KINDS = (
    "weight",
    "dead",
    "released twice",
    "restart",
    "empty commit",
    "version",
    "staleness",
    "gap",
    "commit too small",
    "commit too large",
    "never falls",
    "never rises",
    "uncommitted push",
    "cancellation",
    "stale computation",
    "deadlock",
    "waiting",
)


def first_kind(bits: int) -> str:
    """Which of `KINDS` is reported where these bits are set; `bits` is not 0."""
    return KINDS[(bits & -bits).bit_length() - 1]


def sentence(kind: str, properties: Properties) -> str:
    """The property of that kind, of `KINDS` or `progress.KINDS`, in one sentence."""
    if kind in progress.KINDS:
        return progress.KINDS[kind]
    size = properties.commit_field and f" (its {properties.commit_field})"
    return {
        "weight": "The weight of a push is finite and not negative.",
        "dead": "A dead worker is neither released nor restarted.",
        "released twice": "Only who pushed or waits is released: a push is answered "
        "once, a computing worker never.",
        "restart": "Only a computing worker is restarted: not the pusher, nor one "
        "that waits.",
        "empty commit": "A commit at a push holds at least one accepted push.",
        "version": "The version rises by one at a commit and else not at all.",
        "staleness": "An accepted push is at most "
        f"{properties.max_staleness} versions stale.",
        "gap": f"A worker is released at a gap of at most {properties.max_gap} clocks.",
        "commit too small": f"A commit holds at least {properties.min_commit}{size} "
        "accepted pushes unless nobody else computes.",
        "commit too large": f"A commit holds at most {properties.max_commit}{size} "
        "accepted pushes.",
        "never falls": "Of the rule's state never falls: "
        f"{', '.join(properties.never_falls)}.",
        "never rises": "Of the rule's state never rises: "
        f"{', '.join(properties.never_rises)}.",
        "uncommitted push": "Every push is accepted and committed alone.",
        "cancellation": "No computation is cancelled.",
        "stale computation": "No worker goes on computing from a version more than "
        f"{properties.max_computing} old.",
        "deadlock": "After every event some living worker computes, or there is a "
        "deadline to come.",
        "waiting": "Nobody is kept waiting.",
    }[kind]


def decision(
    properties: Properties,
    states: tuple[Any, Any],
    before: Clocks,
    after: Clocks,
    done: Transition,
    arrived: Bool[Array, " N"],
    is_push: bool,
    wake: Bool[Array, ""] | None = None,
) -> Int[Array, ""]:
    """What a decision breaks.

    Args:
      properties: what the rule states.
      states: of the policy, before and after.
      before: clocks before the event.
      after: clocks after it.
      done: the decision as the rule gave it, and what was carried out of it.
      arrived: who has no computation running while the rule decides.
      is_push: whether the event is a push, and not a departure or a deadline.
      wake: whether there is a deadline afterwards; None for rules that set none.
    """
    alive, raw = after.alive, done.decision
    accepted = (raw.weight > 0) & is_push
    size = before.pending + accepted.astype(jnp.int32)
    alone = ~jnp.any(alive & ~arrived)
    staleness = done.version - done.pulled
    broken = {
        "weight": ~(jnp.isfinite(raw.weight) & (raw.weight >= 0)),
        "dead": jnp.any((raw.release | raw.restart) & ~alive),
        "released twice": jnp.any(raw.release & alive & ~arrived),
        "restart": jnp.any(raw.restart & alive & arrived),
        "version": after.version != before.version + done.commit.astype(jnp.int32),
    }
    if is_push:
        broken["empty commit"] = done.commit & (size == 0)
        if properties.max_staleness is not None:
            broken["staleness"] = accepted & (staleness > properties.max_staleness)
        if properties.commits_every_push:
            broken["uncommitted push"] = ~(accepted & done.commit & (size == 1))
    if not properties.restarts:
        broken["cancellation"] = jnp.any(done.restart)
    if properties.max_gap is not None:
        beyond = policies.gap(after) > properties.max_gap
        broken["gap"] = jnp.any(done.release & beyond)
    least: Any = properties.min_commit
    most: Any = properties.max_commit
    if properties.commit_field:
        least = most = getattr(states[0], properties.commit_field)
    if least is not None:
        broken["commit too small"] = done.commit & (size < least) & ~alone
    if most is not None:
        broken["commit too large"] = done.commit & (size > most)
    for kind, names, against in (
        ("never falls", properties.never_falls, jnp.less),
        ("never rises", properties.never_rises, jnp.greater),
    ):
        for name in names:
            wrong = jnp.any(against(getattr(states[1], name), getattr(states[0], name)))
            broken[kind] = broken.get(kind, jnp.bool_(False)) | wrong
    bits = jnp.int32(0)
    for kind, holds in broken.items():
        bits = bits | (holds.astype(jnp.int32) << KINDS.index(kind))
    return bits | between_events(properties, after, wake)


def between_events(
    properties: Properties, clocks: Clocks, wake: Bool[Array, ""] | None = None
) -> Int[Array, ""]:
    """What must hold between events, broken or not."""
    computing = clocks.alive & ~clocks.waiting
    stuck = jnp.any(clocks.alive) & ~jnp.any(computing)
    if wake is not None:
        stuck = stuck & ~wake
    bits = stuck.astype(jnp.int32) << KINDS.index("deadlock")
    if not properties.waits:
        waiting = jnp.any(clocks.alive & clocks.waiting).astype(jnp.int32)
        bits = bits | (waiting << KINDS.index("waiting"))
    if properties.max_computing is not None:
        old = clocks.version - clocks.pulled > properties.max_computing
        stale = jnp.any(computing & old).astype(jnp.int32)
        bits = bits | (stale << KINDS.index("stale computation"))
    return bits
