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
    started: Float[Array, " N"]  # seconds; start of the present computation


@base.constructor
def mindflayer(num_workers: int, trials: _Per, seconds: _Per) -> base.Policy:
    """Worker i makes trials[i] computations per round, each at most seconds[i] long.

        accept  iff  staleness = 0  and  the computation took less than seconds_i

    A push whose computation took `seconds` or longer is a trial that failed: it is
    discarded. A worker waits once its trials are made; when all have made theirs the
    successes are committed together (if there were none, the round starts again) and
    everybody is released. A policy is not asked between pushes, so it cannot cut a
    computation short itself: in virtual time use `delays.abandoned(..., seconds=...)`,
    whose computations report their failure in time.

    Args:
      num_workers: number of workers N, alive or not.
      trials: B_i, one number or one per worker; at least 1.
      seconds: t_i, one number or one per worker; above 0.

    Returns:
      A `Policy` with a `MindFlayerState`.

    Raises:
      ValueError: for numbers out of range or lists of the wrong length.

    Example:
      >>> policies.mindflayer(2, trials=[3, 1], seconds=2.0).init().left.tolist()
      [3, 1]
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

    def settle(state, clocks, arrived, now, pending):
        over = jnp.all((state.left == 0) | ~clocks.alive)
        commit = over & (pending > 0)
        release = arrived & clocks.alive & (over | (state.left > 0))
        time = now.astype(state.started.dtype)
        return MindFlayerState(
            jnp.where(over, jnp.asarray(full), state.left),
            jnp.where(release, time, state.started),
        ), (commit, release)

    def on_push(state, clocks, worker, now):
        now = jnp.asarray(now)
        pusher = base.only(worker, num_workers)
        dtype = state.started.dtype
        # Someone who joined began when it joined.
        start = jnp.maximum(state.started, clocks.previous.astype(dtype))[worker]
        success = now.astype(dtype) - start < jnp.asarray(limit, dtype)[worker]
        success = success & rounds.is_fresh(clocks, worker)
        left = jnp.maximum(state.left - pusher.astype(jnp.int32), 0)
        pending = clocks.pending + success.astype(jnp.int32)
        state, (commit, release) = settle(
            state._replace(left=left), clocks, clocks.waiting | pusher, now, pending
        )
        weight, nobody = success.astype(jnp.float32), base.nobody(num_workers)
        return state, base.Decision(weight, commit, release, nobody)

    def on_leave(state, clocks, worker, now):
        left = jnp.where(base.only(worker, num_workers), 0, state.left)
        state = state._replace(left=left)
        state, (commit, release) = settle(
            state, clocks, clocks.waiting, jnp.asarray(now), clocks.pending
        )
        return state, base.no_push(commit, release)

    properties = base.Properties(
        max_staleness=0,
        min_commit=1,
        restarts=False,
        reads_loss=False,
        starves="slow",
    )
    return base.Policy(init, on_push, on_leave, properties)


def _spread(name: str, value: _Per, num_workers: int) -> np.ndarray:
    numbers = np.asarray(value, float)
    if numbers.ndim > 1 or numbers.size not in (1, num_workers):
        raise ValueError(
            f"mindflayer: {name} must be one number or one per worker "
            f"({num_workers}), got {value}."
        )
    return np.broadcast_to(numbers.ravel(), (num_workers,))
