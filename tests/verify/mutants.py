"""Rules that are wrong in one way each, and what the checker must say of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from abs_dssp import policies
from abs_dssp.policies import Properties


def altered(policy, push=None, leave=None):
    """`policy`, its decisions changed.

    Args:
      policy: a correct rule.
      push: `(old state, clocks, worker, state, decision) -> (state, decision)`.
      leave: the same for departures.
    """

    def changed(ask, change):
        def decide(state, clocks, worker, now):
            new, decision = ask(state, clocks, worker, now)
            if change is None:
                return new, decision
            return change(state, clocks, worker, new, decision)

        return decide

    return policies.Policy(
        policy.init, changed(policy.on_push, push), changed(policy.on_leave, leave)
    )


def answering(**fields):
    """A change of the decision alone: field=`(clocks, worker, decision) -> value`."""

    def change(old, clocks, worker, state, decision):
        del old
        values = {k: f(clocks, worker, decision) for k, f in fields.items()}
        return state, decision._replace(**values)

    return change


def no_restart(clocks, worker, decision):
    return jnp.zeros_like(decision.restart)


def pusher(clocks, worker):
    return policies.only(worker, clocks.clock.shape[0])


def too_far_ahead(n):
    """SSP that compares with s + 1."""
    return policies.ssp(n, s=2)


def no_restarts(n):
    return altered(
        policies.parse("abs(k0=1,tau_max=1)", n), answering(restart=no_restart)
    )


def waits_for_the_dead(n):
    def all_arrived(clocks, arrived):
        complete = jnp.all(arrived)
        return complete, arrived & complete & clocks.alive

    def on_push(clocks, worker, decision):
        return all_arrived(clocks, clocks.waiting | pusher(clocks, worker))

    return altered(
        policies.bsp(n),
        answering(
            commit=lambda c, w, d: on_push(c, w, d)[0],
            release=lambda c, w, d: on_push(c, w, d)[1],
        ),
        answering(
            commit=lambda c, w, d: all_arrived(c, c.waiting)[0],
            release=lambda c, w, d: all_arrived(c, c.waiting)[1],
        ),
    )


def forgets_on_leave(n):
    return altered(
        policies.ssp(n, s=0),
        None,
        answering(release=lambda c, w, d: jnp.zeros_like(d.release)),
    )


def accepts_stale(n):
    return altered(
        policies.k_sync(n, k=1),
        answering(
            weight=lambda c, w, d: jnp.ones_like(d.weight),
            commit=lambda c, w, d: jnp.bool_(True),
            restart=no_restart,
        ),
    )


def releases_the_dead(n):
    return altered(
        policies.asp(n), answering(release=lambda c, w, d: d.release | ~c.alive)
    )


def releases_everybody(n):
    return altered(policies.asp(n), answering(release=lambda c, w, d: c.alive))


def releases_who_computes_on_leave(n):
    return altered(policies.asp(n), None, answering(release=lambda c, w, d: c.alive))


def restarts_the_pusher(n):
    return altered(
        policies.asp(n), answering(restart=lambda c, w, d: pusher(c, w) & c.alive)
    )


def forgets_worker_0(n):
    return altered(
        policies.asp(n),
        answering(release=lambda c, w, d: d.release & (jnp.asarray(w) != 0)),
    )


def shrinks(n):
    """ABS whose K^t falls back at a discarded or uncommitted push."""

    def push(old, clocks, worker, state, decision):
        return state._replace(k=jnp.where(decision.commit, state.k, 1)), decision

    return altered(policies.parse("abs(k0=1,a=1,tau_max=9)", n), push)


def loosens(n):
    def push(old, clocks, worker, state, decision):
        more = (clocks.version == 2).astype(jnp.int32)
        return state._replace(tau_max=old.tau_max + more), decision

    return altered(policies.parse("abs(k0=1,tau_max=9)", n), push)


def weighs(value):
    def mutant(n):
        return altered(
            policies.asp(n),
            answering(
                weight=lambda c, w, d: jnp.where(
                    c.clock[w] == 2, jnp.float32(value), d.weight
                )
            ),
        )

    return mutant


def commits_nothing(n):
    return altered(
        policies.asp(n), answering(weight=lambda c, w, d: jnp.zeros_like(d.weight))
    )


def at_version_3(n):
    """Deadlocks from version 3 on: reductions must notice that it looks."""
    return altered(
        policies.asp(n),
        answering(release=lambda c, w, d: d.release & (c.version < 3)),
    )


def out_of_time(n):
    """Keeps a time in its state; nobody is released 4 s after the push before."""

    def on_push(state, clocks, worker, now):
        now = jnp.asarray(now, state.dtype)
        late = now - state >= 3
        return now, policies.Decision(
            jnp.float32(1),
            jnp.bool_(True),
            pusher(clocks, worker) & ~late,
            jnp.zeros(n, bool),
        )

    return policies.Policy(
        lambda: jnp.zeros((), float), on_push, policies.asp(n).on_leave
    )


class Mutant(NamedTuple):
    """A wrong rule, and the shortest way to see it."""

    make: Callable
    kind: str
    length: int  # events, counted by hand
    properties: Properties = Properties()
    num_workers: int = 2
    deaths: int = 1


ALONE = Properties(min_commit=1, max_commit=1)
TWO = Properties(min_commit=2, max_commit=2)
ABS = Properties(
    max_staleness=9, max_computing=9, never_falls=("k",), never_rises=("tau_max",)
)

MUTANTS = [
    # The second push of one worker has gap 2; then it is released.
    Mutant(too_far_ahead, "gap", 2, Properties(max_gap=1)),
    # Two commits of one worker make the other's computation 2 versions old.
    Mutant(no_restarts, "stale computation", 2, Properties(max_computing=1)),
    Mutant(waits_for_the_dead, "deadlock", 2),
    Mutant(forgets_on_leave, "deadlock", 2),
    # The first push commits, the second one is stale.
    Mutant(accepts_stale, "staleness", 2, Properties(max_staleness=0)),
    Mutant(lambda n: policies.k_async(n, k=1), "commit too small", 1, TWO),
    Mutant(lambda n: policies.k_async(n, k=3), "commit too large", 3, TWO, 3),
    Mutant(releases_the_dead, "dead", 2, ALONE),
    Mutant(releases_everybody, "released twice", 1, ALONE),
    Mutant(releases_who_computes_on_leave, "released twice", 1, ALONE),
    Mutant(restarts_the_pusher, "restart", 1, ALONE),
    # It waits for ever, though the others go on.
    Mutant(forgets_worker_0, "starvation", 1, ALONE, 3),
    Mutant(forgets_worker_0, "deadlock", 2, ALONE, 2),
    # K^1 = 2 after the first push; the second is not committed.
    Mutant(shrinks, "never falls", 2, ABS, 3, 0),
    # The third push finds version 2.
    Mutant(loosens, "never rises", 3, ABS),
    Mutant(weighs(jnp.nan), "weight", 2, ALONE),
    Mutant(weighs(-1.0), "weight", 2, ALONE),
    Mutant(weighs(jnp.inf), "weight", 2, ALONE),
    Mutant(commits_nothing, "empty commit", 1),
    # Versions 0, 1, 2 are released; then each of two workers stops. With a death one.
    Mutant(at_version_3, "deadlock", 5, ALONE, 2, 0),
    Mutant(at_version_3, "deadlock", 5, ALONE, 2, 1),
    # Both workers push 3 s after the event before.
    Mutant(out_of_time, "deadlock", 2, ALONE, 2, 0),
    # The first push of a round of two waits for the second.
    Mutant(
        lambda n: policies.k_async(n, k=2),
        "uncommitted push",
        1,
        policies.base.EVERY_PUSH,
    ),
    Mutant(lambda n: policies.ssp(n, s=0), "waiting", 1, Properties(waits=False)),
    # A commit cancels what the other computes.
    Mutant(
        lambda n: policies.k_sync(n, k=1), "cancellation", 1, Properties(restarts=False)
    ),
]
