"""Makes traces: the only place where rows and columns of a trace are put together.

Virtual time hands over blocks of rows; a log, a re-derivation and the checker's
counterexamples hand over one event after the other.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import policies
from abs_dssp.history import events, traces, transition
from abs_dssp.history.events import Entry, Event
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Decision

# A row as the compiled event loop writes it: float64 holds every column exactly.
# `released` is since when the worker computed; a wait ends where the next one begins.
ROW = (
    "time",
    "worker",
    "pulled",
    "version",
    "weight",
    "committed",
    "released",
    "duration",
    "restarts",
)
_BLOCK = 1024  # entries followed by one call
_PUSH, _LEAVE, TIMER = map(events.KINDS.index, ("push", "leave", "timer"))


class Ending(NamedTuple):
    """How things stood after the last row; NumPy arrays."""

    released: Float[np.ndarray, " N"]  # seconds; of each worker's latest release
    waiting: Bool[np.ndarray, " N"]
    cancelled: Int[np.ndarray, " N"]  # computations since each worker's latest push


def ending(state: transition.State) -> Ending:
    """What a trace needs of the state after its last event."""
    waiting = np.asarray(state.clocks.waiting) | ~np.asarray(state.clocks.alive)
    return Ending(np.asarray(state.released), waiting, np.asarray(state.cancelled))


class Builder:
    """Collects the rows of one run, in order.

    Args:
      num_workers: N.
    """

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self._rows: list[Float[np.ndarray, "R 9"]] = []
        self._kinds: list[Int[np.ndarray, " R"]] = []

    def add(self, event: Event, done: Any) -> None:
        """One event.

        Args:
          event: what happened.
          done: what was decided; a `HostTransition` or a `Transition` of NumPy values.
        """
        weight = float(done.weight)
        row = (
            event.time,
            event.worker,
            done.pulled,
            done.version,
            weight if weight > 0 else 0.0,  # NaN counts as discarded
            done.commit,
            done.released,
            event.duration,
            done.cancelled,
        )
        self._rows.append(np.array([row], np.float64))
        self._kinds.append(np.array([events.KINDS.index(event.kind)]))

    def extend(
        self, rows: Float[np.ndarray, "R 9"], kinds: Int[np.ndarray, " R"] | None = None
    ) -> None:
        """A block of rows in the order of `ROW`; all of them pushes by default."""
        self._rows.append(rows)
        self._kinds.append(np.zeros(len(rows), np.int64) if kinds is None else kinds)

    def trace(self, last: Ending, **settings: Any) -> Trace:
        """The trace of all rows so far.

        Args:
          last: the state after them.
          **settings: the trace's remaining fields, such as `policy` and `seed`.

        Returns:
          A `Trace`, not validated.
        """
        rows = np.concatenate([np.empty((0, len(ROW))), *self._rows])
        kinds = np.concatenate([np.empty(0, np.int64), *self._kinds])
        columns = dict(zip(ROW, rows.T, strict=True))
        is_push = kinds == _PUSH
        pushes = np.flatnonzero(is_push)
        before = np.cumsum(is_push) - is_push  # pushes before each entry
        committed = columns["committed"] > 0
        by_timer = committed & (kinds == TIMER)
        # A commit without a push is marked on the push before it.
        committed[pushes[before[committed & ~is_push] - 1]] = True
        clock, wait = self._clocks_and_waits(columns, kinds, last)
        columns |= {"committed": committed, "clock": clock, "wait": wait}
        typed = {
            name: columns[name][pushes].astype(dtype)
            for name, dtype in traces.COLUMNS.items()
        }
        beside = [
            traces.Event(
                int(before[i]),
                float(columns["time"][i]),
                events.KINDS[kinds[i]],
                int(columns["worker"][i]),
                bool(by_timer[i]),
                int(columns["restarts"][i]) if kinds[i] == _LEAVE else 0,
            )
            for i in np.flatnonzero(~is_push)
        ]
        return Trace(
            **typed,
            num_workers=self.num_workers,
            open_restarts=tuple(last.cancelled.tolist()),
            events=tuple(beside),
            **settings,
        )

    def _clocks_and_waits(self, columns, kinds, last: Ending):
        """Pushes of each worker so far, and seconds until its release, per entry."""
        count = len(kinds)
        clock, wait = np.zeros(count, np.int64), np.full(count, np.nan)
        # Joins and refusals release nobody who has pushed, and a timer is nobody's.
        known = np.flatnonzero((kinds == _PUSH) | (kinds == _LEAVE))
        worker = columns["worker"][known].astype(np.int64)
        ends = np.where(last.waiting, np.nan, last.released)
        for i, mine in enumerate(traces.rows_of_workers(worker, self.num_workers)):
            mine = known[mine]
            clock[mine] = np.cumsum(kinds[mine] == _PUSH)
            following = columns["released"][mine[1:]]
            end = np.concatenate([following, ends[[i]]])[: len(mine)]
            wait[mine] = end - columns["time"][mine]
        return clock, wait


def follow(
    entries: Sequence[Entry], num_workers: int
) -> tuple[Builder, transition.State]:
    """The rows of a history whose decisions are known, and the state it ends in.

    Args:
      entries: in order.
      num_workers: N.

    Returns:
      A builder that holds all rows, and the state (NumPy; without a policy's own).

    Example:
      >>> from abs_dssp.history.events import Entry, Event
      >>> first = Entry(Event("push", 0, 1.0, 1.0), weight=1.0)
      >>> last = Entry(Event("push", 1, 2.5, 2.5), 0, 0, 1.0, True, (0, 1))
      >>> made, state = follow([first, last], num_workers=2)
      >>> trace = made.trace(ending(state), policy="bsp()")
      >>> trace.wait.tolist(), trace.commits, state.clocks.version.item()
      ([1.5, 0.0], 1, 1)
    """
    builder = Builder(num_workers)
    run = _follower()
    with jax.enable_x64(True):
        state = transition.initial(_UNASKED, num_workers)
        for start in range(0, len(entries), _BLOCK):
            block = entries[start : start + _BLOCK]
            kinds, numbers, masks = _arrays(block, num_workers)
            state, rows = run(state, len(block), kinds, numbers, masks)
            builder.extend(np.asarray(rows)[: len(block)], kinds[: len(block)])
        return builder, jax.tree.map(np.asarray, state)


def _unasked(*_: Any) -> Any:
    raise AssertionError("decisions are known: no policy is asked")


_UNASKED = policies.Policy(tuple, _unasked, _unasked)


def _arrays(block: Sequence[Entry], num_workers: int):
    """Kinds, numbers and masks of at most _BLOCK entries, padded."""
    kinds = np.zeros(_BLOCK, np.int32)
    numbers = np.zeros((_BLOCK, 5))
    masks = np.zeros((_BLOCK, 2, num_workers), bool)
    for i, entry in enumerate(block):
        event = entry.event
        kinds[i] = events.KINDS.index(event.kind)
        weight, commit = entry.weight, entry.commit
        numbers[i] = event.time, event.worker, weight, commit, event.duration
        masks[i, 0, list(entry.release)] = True
        masks[i, 1, list(entry.restart)] = True
    return kinds, numbers, masks


@functools.cache
def _follower():
    """`(state, count, kinds, numbers, masks) -> (state, rows)`, compiled by shape."""

    def branch(kind: str):
        def take(state, numbers, masks):
            now, worker, weight, commit, duration = numbers
            worker = worker.astype(jnp.int32)
            decision = Decision(
                weight.astype(jnp.float32), commit > 0, masks[0], masks[1]
            )
            state, done = transition.follow(state, kind, worker, now, decision)
            return state, row(done, worker, now, duration)

        return take

    branches = [branch(kind) for kind in events.KINDS]

    def run(state, count, kinds, numbers, masks):
        def one(i, carry):
            state, rows = carry
            state, values = jax.lax.switch(
                kinds[i], branches, state, numbers[i], masks[i]
            )
            return state, rows.at[i].set(values)

        rows = jnp.zeros((_BLOCK, len(ROW)))
        return jax.lax.fori_loop(0, count, one, (state, rows))

    return jax.jit(run)


def row(done: transition.Transition, worker, now, duration) -> Float[Array, " 9"]:
    """One row, in the order of `ROW`; float64 under x64."""
    values = (
        now,
        worker,
        done.pulled,
        done.version,
        done.weight,
        done.commit,
        done.released,
        duration,
        done.cancelled,
    )
    return jnp.stack([jnp.asarray(value).astype(jnp.float64) for value in values])
