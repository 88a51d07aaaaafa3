"""What a decision does to the clocks: the bookkeeping of every caller of a policy.

Virtual time, the cluster's server and the re-derivation of a trace all go through these
pure functions, so that they cannot differ.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import compilation, policies
from abs_dssp.history import loss_estimate
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Clocks, Policy


class Answer(NamedTuple):
    """A decision as it took effect."""

    weight: Float[Array, ""]  # of the push; 0 if discarded, or if nobody pushed
    commit: Bool[Array, ""]
    release: Bool[Array, " N"]  # who waited, or pushed, and computes now
    restart: Bool[Array, " N"]  # whose computation was cancelled
    version: Int[Array, ""]  # before the commit
    pulled: Int[Array, ""]  # version that the pusher had computed from


def push(
    policy: Policy, state: Any, clocks: Clocks, worker, now
) -> tuple[Any, Clocks, Answer]:
    """A push of `worker` arrives at `now` seconds. Pure."""
    pusher = policies.only(worker, clocks.clock.shape[0])
    pulled = clocks.pulled[worker]
    clocks = clocks._replace(
        clock=clocks.clock + pusher.astype(jnp.int32),
        previous=jnp.where(pusher, clocks.latest, clocks.previous),
        latest=jnp.where(pusher, now, clocks.latest),
    )
    state, decision = policy.on_push(state, clocks, worker, now)
    accepted = decision.weight > 0
    clocks, answer = _settle(clocks, decision, clocks.waiting | pusher, accepted)
    return state, clocks, answer._replace(pulled=pulled)


def leave(
    policy: Policy, state: Any, clocks: Clocks, worker, now
) -> tuple[Any, Clocks, Answer]:
    """A worker has died or finished. Pure.

    A commit with nothing accumulated does not happen: no row could tell of it.
    """
    gone = policies.only(worker, clocks.clock.shape[0])
    clocks = clocks._replace(alive=clocks.alive & ~gone, waiting=clocks.waiting & ~gone)
    state, decision = policy.on_leave(state, clocks, worker, now)
    decision = decision._replace(
        weight=jnp.zeros_like(decision.weight),
        commit=decision.commit & (clocks.pending > 0),
    )
    clocks, answer = _settle(clocks, decision, clocks.waiting, jnp.bool_(False))
    return state, clocks, answer


def join(clocks: Clocks, worker, now) -> Clocks:
    """A worker starts to compute from the present version. Pure.

    It takes the clock of the slowest living worker, so that nobody waits for it longer
    than for that one; with nobody alive it keeps its own.
    """
    new = policies.only(worker, clocks.clock.shape[0])
    largest = jnp.iinfo(jnp.int32).max
    slowest = jnp.min(jnp.where(clocks.alive & ~new, clocks.clock, largest))
    clock = jnp.where(slowest == largest, clocks.clock, slowest)
    return clocks._replace(
        clock=jnp.where(new, clock, clocks.clock),
        pulled=jnp.where(new, clocks.version, clocks.pulled),
        previous=jnp.where(new, now, clocks.previous),
        latest=jnp.where(new, now, clocks.latest),
        waiting=clocks.waiting & ~new,
        alive=clocks.alive | new,
    )


def refuse(clocks: Clocks, worker) -> Clocks:
    """A push was unusable: its worker starts again from the present version. Pure."""
    it = policies.only(worker, clocks.clock.shape[0])
    return clocks._replace(pulled=jnp.where(it, clocks.version, clocks.pulled))


def _settle(clocks, decision, arrived, accepted) -> tuple[Clocks, Answer]:
    """Carries out a decision; `arrived` are those who have no computation running."""
    version = clocks.version + decision.commit.astype(jnp.int32)
    pending = clocks.pending + accepted.astype(jnp.int32)
    release = decision.release & arrived & clocks.alive
    restart = decision.restart & ~arrived & clocks.alive
    answer = Answer(
        decision.weight,
        decision.commit,
        release,
        restart,
        clocks.version,
        jnp.int32(0),
    )
    clocks = clocks._replace(
        pulled=jnp.where(release | restart, version, clocks.pulled),
        version=version,
        pending=jnp.where(decision.commit, 0, pending),
        waiting=arrived & ~release,
    )
    return clocks, answer


class Decider:
    """A policy with its state and clocks, asked event by event from the host.

    Not thread-safe. Times are float64, as in virtual time.
    """

    def __init__(self, policy: Policy, num_workers: int):
        self.num_workers = num_workers
        with jax.enable_x64(True):
            self._carry = jax.device_put(
                (policy.init(), policies.initial_clocks(num_workers, jnp.float64)),
                jax.local_devices(backend="cpu")[0],
            )

        def packed(carry, event):
            state, clocks = carry
            worker, now = event[0].astype(jnp.int32), event[1]
            clocks = clocks._replace(loss=event[2].astype(jnp.float32))
            return state, clocks, worker, now

        def answer_of(state, clocks, answer):
            # XLA runs a program on several threads, which is slower here, if one of its
            # buffers exceeds 512 bytes: hence one narrow array.
            weight = jax.lax.bitcast_convert_type(
                answer.weight.astype(jnp.float32), jnp.int32
            )
            head = [weight, answer.commit, answer.version, answer.pulled]
            flat = jnp.concatenate(
                [
                    jnp.stack([jnp.asarray(value).astype(jnp.int32) for value in head]),
                    answer.release.astype(jnp.int32),
                    answer.restart.astype(jnp.int32),
                ]
            )
            return (state, clocks), flat

        def on_push(carry, event):
            return answer_of(*push(policy, *packed(carry, event)))

        def on_leave(carry, event):
            return answer_of(*leave(policy, *packed(carry, event)))

        def on_join(carry, event):
            state, clocks, worker, now = packed(carry, event)
            return state, join(clocks, worker, now)

        def on_refuse(carry, event):
            state, clocks, worker, _ = packed(carry, event)
            return state, refuse(clocks, worker)

        with jax.enable_x64(True):  # compiled now, so that no push waits for it
            event = np.zeros(3)

            def compiled(function):
                options = compilation.many_small_operations()
                jitted = jax.jit(function, compiler_options=options)
                return jitted.lower(self._carry, event).compile()

            self._push, self._leave = compiled(on_push), compiled(on_leave)
            self._join, self._refuse = compiled(on_join), compiled(on_refuse)

    def push(self, worker: int, now: float, loss: float) -> "Verdict":
        """Decides on a push; `loss` is the present estimate of the training loss."""
        return self._ask(self._push, worker, now, loss)

    def leave(self, worker: int, now: float, loss: float) -> "Verdict":
        """Decides on a departure."""
        return self._ask(self._leave, worker, now, loss)

    def join(self, worker: int, now: float) -> None:
        """Takes a worker in."""
        with jax.enable_x64(True):
            self._carry = self._join(self._carry, np.array([worker, now, np.nan]))

    def refuse(self, worker: int) -> None:
        """Makes a worker start again."""
        with jax.enable_x64(True):
            self._carry = self._refuse(self._carry, np.array([worker, 0.0, np.nan]))

    @property
    def clocks(self) -> Clocks:
        """A copy of the clocks, NumPy arrays."""
        return jax.tree.map(np.array, self._carry[1])

    def leaves(self) -> list[np.ndarray]:
        """Policy state and clocks, for a checkpoint."""
        return [np.array(leaf) for leaf in jax.tree.leaves(self._carry)]

    def restore(self, leaves: list[np.ndarray]) -> None:
        """Takes up what `leaves` gave."""
        structure = jax.tree.structure(self._carry)
        with jax.enable_x64(True):
            self._carry = jax.device_put(
                jax.tree.unflatten(structure, leaves),
                jax.local_devices(backend="cpu")[0],
            )

    def _ask(self, compiled, worker: int, now: float, loss: float) -> "Verdict":
        with jax.enable_x64(True):
            self._carry, flat = compiled(self._carry, np.array([worker, now, loss]))
        values = np.asarray(flat)
        n = self.num_workers
        return Verdict(
            weight=float(values[:1].view(np.float32)[0]),
            commit=bool(values[1]),
            version=int(values[2]),
            pulled=int(values[3]),
            release=values[4 : 4 + n] > 0,
            restart=values[4 + n :] > 0,
        )


def rederive(
    policy: Policy, trace: Trace, losses: np.ndarray | None = None, first: float = 0.0
) -> Trace:
    """Asks the policy again about every event of a trace, at the recorded times.

    A run decided by this policy comes back unchanged: pulled versions, versions,
    weights, commits, waits and restarts.

    Args:
      policy: the rule.
      trace: of a cluster or of virtual time.
      losses: training loss of every push, for a policy that reads it.
      first: the objective at version 0, for such a policy.

    Returns:
      The trace as the policy decides it, given the same arrivals.
    """
    n = trace.num_workers
    decider = Decider(policy, n)
    estimate = loss_estimate.LossEstimate(n, first if losses is not None else math.nan)
    columns = {
        name: getattr(trace, name).copy()
        for name in ("pulled", "version", "weight", "committed", "wait", "restarts")
    }
    columns["wait"][:] = np.nan
    open_row = [-1] * n  # the push of each worker that was not released yet
    cancelled = [0] * n
    events = sorted(trace.events, key=lambda event: event.rows)
    at = 0

    def settle(verdict: Verdict, now: float) -> None:
        for worker in np.flatnonzero(verdict.release):
            if open_row[worker] >= 0:
                columns["wait"][open_row[worker]] = now - trace.time[open_row[worker]]
                open_row[worker] = -1
        for worker in np.flatnonzero(verdict.restart):
            cancelled[worker] += 1

    for row in range(len(trace) + 1):
        while at < len(events) and events[at].rows == row:
            event = events[at]
            at += 1
            if event.kind == "leave":
                verdict = decider.leave(event.worker, event.seconds, estimate.value)
                if verdict.commit and row:
                    columns["committed"][row - 1] = True
                settle(verdict, event.seconds)
            elif event.kind == "join":
                decider.join(event.worker, event.seconds)
            else:
                decider.refuse(event.worker)
            if event.kind == "refuse":
                cancelled[event.worker] += 1
            else:
                cancelled[event.worker], open_row[event.worker] = 0, -1
        if row == len(trace):
            break
        worker, now = int(trace.worker[row]), float(trace.time[row])
        verdict = decider.push(worker, now, estimate.value)
        columns["pulled"][row], columns["version"][row] = (
            verdict.pulled, verdict.version
        )  # fmt: skip
        columns["weight"][row] = verdict.weight
        columns["committed"][row] = verdict.commit
        columns["restarts"][row] = cancelled[worker]
        cancelled[worker], open_row[worker] = 0, row
        settle(verdict, now)
        if losses is not None:
            estimate.add(float(losses[row]))
    return dataclasses.replace(trace, **columns, open_restarts=tuple(cancelled))


def first_difference(one: Trace, other: Trace) -> str:
    """The first row in which two traces decide differently, in words; "" if none.

    Waits are compared to a nanosecond: they are differences of times.
    """
    if len(one) != len(other):
        return f"{len(one)} rows against {len(other)}"
    for name in ("worker", "clock", "pulled", "version", "weight", "committed", "wait",
                 "restarts"):  # fmt: skip
        a, b = getattr(one, name), getattr(other, name)
        if name == "wait":
            same = np.isclose(a, b, rtol=0, atol=1e-9, equal_nan=True)
        else:
            same = a == b
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            return f"row {row}: {name} is {a[row]} and {b[row]}"
    return ""


class Verdict(NamedTuple):
    """An `Answer` on the host."""

    weight: float
    commit: bool
    version: int  # before the commit
    pulled: int
    release: np.ndarray  # bool (N,)
    restart: np.ndarray  # bool (N,)
