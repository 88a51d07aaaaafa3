"""MindFlayer SGD: a number of trials per worker, each given up after some time.

Maranjyan, Omar, Richtárik, "MindFlayer SGD: Efficient Parallel SGD in the Presence of
Heterogeneous and Random Worker Compute Times", 2024 (arXiv 2410.04285). The paper
divides by the expected number of successes; with `aggregate="mean"` a commit divides by
the number there was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from abs_dssp.policies import base, rounds

_Per = float | Sequence[float]


class MindFlayerState(NamedTuple):
    """How the present round stands."""

    left: Int[Array, " N"]  # trials still to make
    started: Float[Array, " N"]  # seconds; when the rule let each begin its trial


@base.constructor
def mindflayer(num_workers: int, trials: _Per, seconds: _Per) -> base.Policy:
    """Worker i makes trials[i] computations per round, each at most seconds[i] long.

        accept  iff  staleness = 0  and  the computation took less than seconds_i

    A computation that has taken `seconds` is a trial that failed: at that deadline it
    is given up and the next trial begins, from the same version. A worker waits once
    its trials are made; when all have made theirs the successes are committed together
    (if there were none, the round starts again) and everybody begins anew. Whose last
    trial has failed computes until then in vain, since nobody can be told to stop: what
    it may still push is discarded. So does a worker that joins, whose trials begin with
    the next round; else ever new ones could keep a round from its end.

    Args:
      num_workers: number of workers N, alive or not.
      trials: B_i, one number or one per worker; at least 1.
      seconds: t_i, one number or one per worker; above 0.

    Returns:
      A `Policy` with a `MindFlayerState`.

    Raises:
      ValueError: for numbers out of range or lists of the wrong length.

    Example:
      >>> from abs_dssp import simulate
      >>> policy = policies.mindflayer(2, trials=[2, 1], seconds=2.0)
      >>> times = "recorded([[9, 1], [1.5, 1.5]])"  # the first is given up at 2
      >>> trace = simulate.schedule(policy, times, 3)
      >>> trace.time.tolist(), trace.restarts.tolist(), trace.commit_times.tolist()
      ([1.5, 3.0, 4.5], [0, 1, 0], [3.0])
    """
    most = _spread("trials", trials, num_workers)
    limit = _spread("seconds", seconds, num_workers)
    if np.any(most < 1) or np.any(most != np.floor(most)):
        raise ValueError(
            f"mindflayer: trials must be whole numbers of at least 1, got {trials}."
        )
    if not np.all(limit > 0):
        raise ValueError(f"mindflayer: seconds must be above 0, got {seconds}.")
    full = most.astype(np.int32)

    def init():
        return MindFlayerState(jnp.asarray(full), jnp.zeros(num_workers, float))

    def begun(state, latest):
        """Since when everybody computes; who has joined began then."""
        return jnp.maximum(state.started, latest.astype(state.started.dtype))

    def settle(state, clocks, arrived, again, now, pending, latest):
        """The state and the decision, but for the weight of a push.

        Args:
          state: with the trials that are left.
          clocks: as the rule is asked with them.
          arrived: who has no computation running.
          again: who begins another trial although it computes.
          now: seconds, of the state's dtype.
          pending: pushes accepted so far, this one included.
          latest: seconds; of the latest push or join before this event.
        """
        over = jnp.all((state.left == 0) | ~clocks.alive)
        commit = over & (pending > 0)
        release = arrived & clocks.alive & (over | (state.left > 0))
        restart = clocks.alive & ~arrived & jnp.where(over, True, again)
        new = jnp.where(clocks.alive, jnp.asarray(full), 0)
        left = jnp.where(over, new, state.left)
        start = jnp.where(release | restart, now, begun(state, latest))
        tries = clocks.alive & (left > 0) & (release | restart | ~arrived)
        ends = start + jnp.asarray(limit, start.dtype)
        wake = jnp.min(jnp.where(tries, ends, jnp.inf))
        started = jnp.where(release | restart, now, state.started)
        decision = base.Decision(jnp.float32(0), commit, release, restart, wake)
        return MindFlayerState(left, started), decision

    def on_push(state, clocks, worker, now):
        now = jnp.asarray(now).astype(state.started.dtype)
        pusher = base.only(worker, num_workers)
        latest = jnp.where(pusher, clocks.previous, clocks.latest)
        took = now - begun(state, latest)[worker]
        success = took < jnp.asarray(limit, now.dtype)[worker]
        success = success & rounds.is_fresh(clocks, worker) & (state.left[worker] > 0)
        left = jnp.maximum(state.left - pusher.astype(jnp.int32), 0)
        pending = clocks.pending + success.astype(jnp.int32)
        arrived = clocks.waiting | pusher
        again = base.nobody(num_workers)
        state = state._replace(left=left)
        state, decision = settle(state, clocks, arrived, again, now, pending, latest)
        return state, decision._replace(weight=success.astype(jnp.float32))

    def others(state, clocks, again, now):
        """What is decided where there is no push."""
        known = (clocks.pending, clocks.latest)
        return settle(state, clocks, clocks.waiting, again, now, *known)

    def on_leave(state, clocks, worker, now):
        left = jnp.where(base.only(worker, num_workers), 0, state.left)
        state = state._replace(left=left)
        now = jnp.asarray(now).astype(state.started.dtype)
        return others(state, clocks, base.nobody(num_workers), now)

    def on_time(state, clocks, now):
        now = jnp.asarray(now).astype(state.started.dtype)
        ends = begun(state, clocks.latest) + jnp.asarray(limit, now.dtype)
        failed = clocks.alive & ~clocks.waiting & (state.left > 0) & (ends <= now)
        left = state.left - failed.astype(jnp.int32)
        return others(state._replace(left=left), clocks, failed & (left > 0), now)

    properties = base.Properties(
        max_staleness=0,
        max_computing=0,
        min_commit=1,
        max_commit=int(full.sum()),
        reads_loss=False,
        starves="slow",
    )
    return base.Policy(init, on_push, on_leave, properties, on_time)


def _spread(name: str, value: _Per, num_workers: int) -> np.ndarray:
    numbers = np.asarray(value, float)
    if numbers.ndim > 1 or numbers.size not in (1, num_workers):
        raise ValueError(
            f"mindflayer: {name} must be one number or one per worker "
            f"({num_workers}), got {value}."
        )
    return np.broadcast_to(numbers.ravel(), (num_workers,))
