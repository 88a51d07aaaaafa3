"""A broken property, made to be read: actions, a table of the steps, a trace."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import policies
from abs_dssp.history import traces, transition
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy, Properties
from abs_dssp.verify import invariants
from abs_dssp.verify.step import Action, left, pushed


@dataclasses.dataclass(frozen=True)
class Violation:
    """A property that does not hold, with a shortest way there."""

    kind: str  # one of invariants.KINDS
    property: str  # what should hold, in one sentence
    actions: tuple[Action, ...]  # from the start; the last one breaks the property
    trace: Trace
    table: str  # the same, to be read


class _Step(NamedTuple):
    """What one action did; NumPy."""

    move: Action
    now: float
    before: policies.Clocks
    clocks: policies.Clocks  # afterwards
    raw: Any  # the rule's decision, or None at a join
    answer: Any  # as carried out, or None


def build(
    policy: Policy,
    text: str,
    num_workers: int,
    kind: str,
    properties: Properties,
    actions: Sequence[Action],
) -> Violation:
    """Goes the way again, without any reduction."""
    steps = _replay(policy, num_workers, actions)
    return Violation(
        kind,
        invariants.sentence(kind, properties),
        tuple(actions),
        _trace(text, num_workers, steps),
        _table(steps),
    )


def _replay(policy, num_workers, moves) -> list[_Step]:
    push = jax.jit(lambda *arguments: pushed(policy, *arguments))
    leave = jax.jit(lambda *arguments: left(policy, *arguments))
    state, clocks = policy.init(), policies.initial_clocks(num_workers)
    now, steps = 0.0, []
    for move in moves:
        now += move.seconds
        before = clocks._replace(loss=jnp.float32(move.loss))
        worker, time = jnp.int32(move.worker), jnp.float32(now)
        raw = answer = None
        if move.kind == "join":
            clocks = transition.join(before, worker, time)
        else:
            ask = push if move.kind == "push" else leave
            state, clocks, raw, answer = ask(state, before, worker, time)
        steps.append(_Step(move, now, *jax.device_get((before, clocks, raw, answer))))
    return steps


def _trace(text: str, num_workers: int, steps: Sequence[_Step]) -> Trace:
    """Rows as a cluster's log would hold them."""
    columns: dict[str, list[Any]] = {name: [] for name in traces.COLUMNS}
    events = []
    began = [0.0] * num_workers  # of each worker's computation
    cancelled, count = [0] * num_workers, [0] * num_workers
    open_row: dict[int, int] = {}  # the push of each worker that waits
    for step in steps:
        worker, now, answer = step.move.worker, step.now, step.answer
        if step.move.kind == "push":
            count[worker] += 1
            weight = float(answer.weight)
            row = {
                "time": now,
                "worker": worker,
                "clock": count[worker],
                "pulled": int(answer.pulled),
                "version": int(answer.version),
                # NaN or below 0: the bookkeeping takes it for a discarded push.
                "weight": weight if weight > 0 else 0.0,
                "committed": bool(answer.commit),
                "wait": np.nan,
                "duration": now - began[worker],
                "restarts": cancelled[worker],
            }
            open_row[worker] = len(columns["time"])
            for name, value in row.items():
                columns[name].append(value)
        else:
            rows = len(columns["time"])
            events.append(traces.Event(rows, now, step.move.kind, worker))
            open_row.pop(worker, None)
            began[worker] = now
            if answer is not None and answer.commit:
                columns["committed"][-1] = True
        if step.move.kind != "join":
            for released in np.flatnonzero(answer.release).tolist():
                began[released] = now
                if released in open_row:
                    place = open_row.pop(released)
                    columns["wait"][place] = now - columns["time"][place]
        cancelled[worker] = 0
        if answer is not None:
            for other in np.flatnonzero(answer.restart):
                began[other] = now
                cancelled[other] += 1
    arrays: dict[str, Any] = {
        name: np.array(columns[name], dtype) for name, dtype in traces.COLUMNS.items()
    }
    return Trace(
        **arrays,
        num_workers=num_workers,
        policy=text,
        open_restarts=tuple(cancelled),
        events=tuple(events),
    )


_HEAD = ("", "time", "event", "pulled", "weight", "commit", "version", "released",
         "restarted", "clocks", "waiting", "dead")  # fmt: skip


def _table(steps: Sequence[_Step]) -> str:
    """One line per action: what the rule answered, and how things stood afterwards."""

    def who(mask) -> str:
        return " ".join(str(worker) for worker in np.flatnonzero(mask)) or "-"

    lines = [_HEAD]
    for number, step in enumerate(steps, 1):
        clocks, raw, answer = step.clocks, step.raw, step.answer
        push = step.move.kind == "push"
        event = f"{step.move.worker} {step.move.kind}"
        if not np.isnan(step.move.loss):
            event += f" (loss {step.move.loss:g})"
        lines.append(
            (
                f"{number}",
                f"{step.now:g} s",
                event,
                f"{answer.pulled} of {answer.version}" if push else "",
                f"{raw.weight:g}" if push else "",
                "yes" if answer is not None and answer.commit else "",
                f"{clocks.version}",
                who(raw.release) if raw is not None else "",
                who(raw.restart) if raw is not None else "",
                " ".join(map(str, clocks.clock)),
                who(clocks.waiting),
                who(~clocks.alive),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        .rstrip()
        for line in lines
    )  # fmt: skip
