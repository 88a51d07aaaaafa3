"""Asking a policy again about a recorded history, and comparing what it decides."""

import math
from collections.abc import Iterator

import numpy as np

from abs_dssp.history import builder, traces
from abs_dssp.history.events import Event
from abs_dssp.history.loss_estimate import LossEstimate
from abs_dssp.history.machine import Machine
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy

_DECIDED = (
    "worker",
    "clock",
    "pulled",
    "version",
    "weight",
    "committed",
    "wait",
    "restarts",
)


def rederive(
    policy: Policy, trace: Trace, losses: np.ndarray | None = None, first: float = 0.0
) -> Trace:
    """Asks the policy again about every event of a trace, at the recorded times.

    A run decided by this policy comes back unchanged: pulled versions, versions,
    weights, commits, waits and restarts. The deadlines are those of the trace; a policy
    that has no `on_time` is not asked at them.

    Args:
      policy: the rule.
      trace: of a cluster or of virtual time.
      losses: training loss of every push, (P,), for a policy that reads it.
      first: the objective at version 0, for such a policy.

    Returns:
      The trace as the policy decides it, given the same arrivals.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> bsp = policies.bsp(2)
      >>> trace = simulate.schedule(bsp, delays.constant([1.0, 2.7]), 6)
      >>> first_difference(trace, rederive(bsp, trace))
      ''
      >>> first_difference(trace, rederive(policies.asp(2), trace))
      'row 3: pulled is 1 and 2'
    """
    machine = Machine(policy, trace.num_workers)
    made = builder.Builder(trace.num_workers)
    estimate = LossEstimate(trace.num_workers, math.nan if losses is None else first)
    row = 0
    for event in events_of(trace):
        if event.kind == "timer" and policy.on_time is None:
            continue
        made.add(event, machine.apply(event, estimate.value))
        if event.kind == "push" and losses is not None:
            estimate.add(float(losses[row]))
            row += 1
    return made.trace(
        builder.ending(machine.state),
        policy=trace.policy,
        local_steps=trace.local_steps,
        seed=trace.seed,
        task=trace.task,
        versions=trace.versions,
        recorded=trace.recorded,
    )


def events_of(trace: Trace) -> Iterator[Event]:
    """Every event of a trace in order.

    Example:
      >>> from abs_dssp import simulate
      >>> trace = simulate.schedule("quorum(k=1)", "constant([1.0, 4.0])", 2)
      >>> [(event.kind, event.time) for event in events_of(trace)]
      [('timer', 0.0), ('push', 1.0), ('timer', 1.5), ('push', 2.5)]
    """
    traces.require_one_history("rederive", trace)
    beside = sorted(trace.events, key=lambda event: event.rows)
    at = 0
    for row in range(len(trace) + 1):
        while at < len(beside) and beside[at].rows == row:
            other = beside[at]
            yield Event(other.kind, other.worker, other.seconds)
            at += 1
        if row < len(trace):
            worker, time = int(trace.worker[row]), float(trace.time[row])
            yield Event("push", worker, time, float(trace.duration[row]))


def first_difference(one: Trace, other: Trace) -> str:
    """The first row in which two traces decide differently, in words; "" if none.

    Waits are compared to a nanosecond: they are differences of times.
    """
    if len(one) != len(other):
        return f"{len(one)} rows against {len(other)}"
    for name in _DECIDED:
        a, b = getattr(one, name), getattr(other, name)
        if name == "wait":
            same = np.isclose(a, b, rtol=0, atol=1e-9, equal_nan=True)
        else:
            same = a == b
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            return f"row {row}: {name} is {a[row]} and {b[row]}"
    return ""
