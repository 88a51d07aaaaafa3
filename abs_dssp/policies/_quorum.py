"""A quorum and a grace window: who comes soon after the K-th push is waited for.

Our reading of a general idea of decoupled training (a minimum quorum, an adaptive grace
window, weights by the work done), for which "Decoupled DiLoCo" (arXiv 2604.21428) is a
recent name. That paper's rule was not available: nothing here is claimed to be its.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from abs_dssp.policies import base, rounds


class QuorumState(NamedTuple):
    """How the present round stands."""

    started: Float[Array, ""]  # seconds; when it began


@base.constructor
def quorum(num_workers: int, k: base.Whole, grace: float = 0.5) -> base.Policy:
    """Commits some time after the k-th push, so that those who are near are in it.

        commit  iff  every living worker has pushed, or pending >= k and
                     now = q + grace * (q - start of the round)

    Here q is the time of the k-th push: a round that took long to its quorum may take
    long for its grace. A pusher waits for the commit. The others are not waited for and
    keep computing; their pushes count in a later commit, however stale. All pushes are
    of the same number of samples, so that equal weights are weights by samples.

    Args:
      num_workers: number of workers N, alive or not.
      k: pushes of the quorum, 1..N; of fewer living workers all are waited for.
      grace: the window over the time that the quorum took; at least 0. With 0 this is
        `k_async(k)`, but for pushes at the same time.

    Returns:
      A `Policy` with a `QuorumState`.

    Raises:
      ValueError: if `k` is not in 1..N or `grace` is negative or not finite.

    Example:
      >>> from abs_dssp import simulate
      >>> policy = policies.quorum(3, k=1, grace=0.5)
      >>> trace = simulate.schedule(policy, "constant([2, 3, 9])", 4)
      >>> trace.time.tolist(), trace.commit_times.tolist()  # at 2 + 0.5 * 2
      ([2.0, 3.0, 5.0, 6.0], [3.0])
    """
    rounds.check("quorum", num_workers, "k", k, most=num_workers)
    base.require(
        (grace >= 0) & (grace < jnp.inf),
        f"quorum: grace must be a number of at least 0, got {grace}.",
    )

    def init():
        return QuorumState(jnp.zeros((), float))

    def decide(state, clocks, now, arrived, over, reached):
        """What is done at an event, if the round is over, or its quorum reached."""
        dtype = state.started.dtype
        time = jnp.asarray(now, dtype)
        end = time + grace * (time - state.started)
        wake = jnp.where(over, jnp.inf, jnp.where(reached, end, jnp.nan))
        after = QuorumState(jnp.where(over, time, state.started))
        return after, base.no_push(over, arrived & clocks.alive & over, wake)

    def on_push(state, clocks, worker, now):
        arrived = clocks.waiting | base.only(worker, num_workers)
        over, reached = jnp.all(arrived | ~clocks.alive), clocks.pending + 1 == k
        state, decision = decide(state, clocks, now, arrived, over, reached)
        return state, decision._replace(weight=jnp.float32(1))

    def on_leave(state, clocks, worker, now):
        del worker
        over = jnp.all(clocks.waiting | ~clocks.alive) & (clocks.pending > 0)
        return decide(state, clocks, now, clocks.waiting, over, jnp.bool_(False))

    def on_time(state, clocks, now):
        over = clocks.pending >= k
        return decide(state, clocks, now, clocks.waiting, over, jnp.bool_(False))

    properties = base.Properties(
        min_commit=k,
        max_commit=num_workers,
        restarts=False,
        reads_loss=False,
        # A round may hold several pushes of a worker that left and joined again.
        commit_per_join=1,
    )
    return base.Policy(init, on_push, on_leave, properties, on_time)
