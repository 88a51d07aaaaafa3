"""Rules that are right but for one thing, done where a checker may not look.

`gallery` says which kind of property each breaks, and from what it hides.
"""

from typing import NamedTuple

import jax.numpy as jnp
from mutants import altered, answering, no_restart, pusher

from abs_dssp import policies
from abs_dssp.policies import Properties


def not_released(when, base="asp()"):
    """A rule that keeps the pusher waiting where `when(clocks, worker)`."""

    def rule(n):
        return altered(
            policies.parse(base, n),
            answering(release=lambda c, w, d: d.release & ~when(c, w)),
        )

    return rule


def weighs_nan(when, base="asp()"):
    """A rule whose weight is NaN where `when(clocks, worker)`."""

    def rule(n):
        return altered(
            policies.parse(base, n),
            answering(weight=lambda c, w, d: jnp.where(when(c, w), jnp.nan, d.weight)),
        )

    return rule


def remembering(init, push, leave=None):
    """A rule of one's own: `(state, clocks, worker, now) -> (state, Decision)`."""

    def on_leave(state, clocks, worker, now):
        state = leave(state, worker) if leave else state
        return state, policies.base.no_push(False, jnp.zeros_like(clocks.alive))

    return policies.Policy(init, push, on_leave)


def at_once(clocks, worker, *, weight=1.0, commit=True):
    """The decision of `asp`, or one that discards or does not commit."""
    return policies.Decision(
        jnp.asarray(weight, jnp.float32),
        jnp.asarray(commit, bool),
        pusher(clocks, worker),
        jnp.zeros_like(clocks.alive),
    )


def seconds(clocks, worker):
    """Since the worker's push before."""
    return clocks.latest[worker] - clocks.previous[worker]


def commits_for_all_ever(n):
    """Waits for a push of everybody, the dead included; keeps nobody waiting."""

    def push(state, clocks, worker, now):
        seen = state | pusher(clocks, worker)
        commit = jnp.all(seen)
        return seen & ~commit, at_once(clocks, worker, commit=commit)

    return remembering(lambda: jnp.zeros(n, bool), push)


def discards(when):
    """A rule that discards a push where `when(clocks, worker)`."""

    def rule(n):
        def push(state, clocks, worker, now):
            kept = ~when(clocks, worker)
            return state, at_once(clocks, worker, weight=kept, commit=kept)

        return remembering(tuple, push)

    return rule


def floored(n):
    """The weight is 1 over the whole seconds since the push before."""
    return altered(
        policies.asp(n),
        answering(weight=lambda c, w, d: 1 / jnp.floor(seconds(c, w))),
    )


def released_at_a_low_loss(n):
    """Worker 0 waits; others' pushes release it, if the loss is below 0.5."""

    def release(clocks, worker, decision):
        freed = clocks.waiting & (clocks.loss < 0.5)
        return freed | (pusher(clocks, worker) & (jnp.asarray(worker) != 0))

    return altered(policies.asp(n), answering(release=release))


def counting(dtype, states=()):
    """NaN at each 17th push that the rule itself counts, which it may state."""

    class Count(NamedTuple):
        count: jnp.ndarray

    def rule(n):
        def push(state, clocks, worker, now):
            count = state.count + jnp.asarray(1, dtype)
            wrong = jnp.mod(count, jnp.asarray(17, dtype)) == 0
            weight = jnp.where(wrong, jnp.nan, 1.0)
            return Count(count), at_once(clocks, worker, weight=weight)

        policy = remembering(lambda: Count(jnp.zeros((), dtype)), push)
        return policy._replace(properties=Properties(never_falls=states))

    return rule


def forgets_who_waits_on_leave(n):
    return altered(
        policies.ssp(n, s=0),
        None,
        answering(release=lambda c, w, d: d.release & (c.version % 10 != 9)),
    )


def waits_for_the_dead_clock(n):
    """SSP whose slowest may be dead."""

    def release(clocks, ready):
        return ready & clocks.alive & (clocks.clock - jnp.min(clocks.clock) <= 2)

    return altered(
        policies.ssp(n, s=2),
        answering(release=lambda c, w, d: release(c, c.waiting | pusher(c, w))),
        answering(release=lambda c, w, d: release(c, c.waiting)),
    )


def distrusts_who_returns(n):
    """Whoever has died once is never accepted again."""

    def push(state, clocks, worker, now):
        kept = ~state[worker]
        return state, at_once(clocks, worker, weight=kept, commit=kept)

    def leave(state, worker):
        return state | policies.only(worker, n)

    return remembering(lambda: jnp.zeros(n, bool), push, leave)


def twice_in_a_row(n):
    """Commits only at the second push of one worker in a row."""

    def push(state, clocks, worker, now):
        again = state == worker
        latest = jnp.where(again, -1, jnp.asarray(worker, jnp.int32))
        return latest, at_once(clocks, worker, commit=again)

    return remembering(lambda: jnp.int32(-1), push)


def cancels_the_others(n):
    """Commits at the second worker's push, but the first has cancelled it."""

    def push(state, clocks, worker, now):
        other = (state >= 0) & (state != worker)
        decision = at_once(clocks, worker, commit=other)
        restart = clocks.alive & ~pusher(clocks, worker) & ~other
        latest = jnp.where(other, -1, jnp.asarray(worker, jnp.int32))
        return latest, decision._replace(restart=restart)

    return remembering(lambda: jnp.int32(-1), push)


def released_by_two_in_a_row(n):
    """Worker 0 waits for two pushes of worker 1 with no other between."""

    def push(state, clocks, worker, now):
        freed = clocks.waiting & (state == 1) & (worker == 1)
        mine = pusher(clocks, worker) & (jnp.asarray(worker) != 0)
        decision = at_once(clocks, worker)._replace(release=freed | mine)
        return jnp.asarray(worker, jnp.int32), decision

    return remembering(lambda: jnp.int32(-1), push)


def falling_loss(n):
    """Commits where the loss is lower than at the push before."""

    def push(state, clocks, worker, now):
        return clocks.loss, at_once(clocks, worker, commit=clocks.loss < state)

    return remembering(lambda: jnp.float32(jnp.inf), push)


def after_a_death(n):
    """Discards everything after a death, and counts without end."""

    def push(state, clocks, worker, now):
        kept = jnp.all(clocks.alive)
        return state + 1, at_once(clocks, worker, weight=kept, commit=kept)

    return remembering(lambda: jnp.int32(0), push)


def at_a_version(changed, base="asp()", modulus=10):
    """`changed` decisions where version % modulus is the largest it can be."""

    def rule(n):
        def change(old, clocks, worker, state, decision):
            now = clocks.version % modulus == modulus - 1
            fields = {
                name: jnp.where(now, f(clocks, worker), getattr(decision, name))
                for name, f in changed.items()
            }
            return state, decision._replace(**fields)

        return altered(policies.parse(base, n), change)

    return rule


def k_falls(n):
    def push(old, clocks, worker, state, decision):
        k = jnp.where(clocks.version == 12, 1, state.k)
        return state._replace(k=k), decision

    return altered(policies.parse("abs(k0=1,a=1)", n), push)


def grows_now_and_then(n):
    def push(old, clocks, worker, state, decision):
        more = (clocks.version % 10 == 9).astype(jnp.int32)
        return state._replace(tau_max=old.tau_max + more), decision

    return altered(policies.parse("abs(k0=1,tau_max=3)", n), push)


def no_restart_at_9(n):
    """`ringmaster` that lets what is too stale go on where version % 10 = 9."""
    return altered(
        policies.parse("ringmaster(threshold=2,stop=True)", n),
        answering(
            restart=lambda c, w, d: jnp.where(
                c.version % 10 == 9, no_restart(c, w, d), d.restart
            )
        ),
    )


def nan_for_who_returns_at_9(n):
    """Whoever has died once weighs NaN where version % 10 = 9."""

    def push(state, clocks, worker, now):
        wrong = state[worker] & (clocks.version % 10 == 9)
        return state, at_once(clocks, worker, weight=jnp.where(wrong, jnp.nan, 1.0))

    def leave(state, worker):
        return state | policies.only(worker, n)

    return remembering(lambda: jnp.zeros(n, bool), push, leave)


def one_state(clocks, worker):
    """Leads of 1, 0 and 2, the last one waiting, at one version in twelve."""
    leads = policies.gap(clocks) == jnp.array([1, 0, 2], jnp.int32)
    return jnp.all(leads) & clocks.waiting[2] & (clocks.version % 12 == 11)


def never_released(n):
    """Worker 0 waits for ever, while the rule counts without end."""

    def push(state, clocks, worker, now):
        decision = at_once(clocks, worker)
        mine = decision.release & (jnp.asarray(worker) != 0)
        return state + 1, decision._replace(release=mine)

    return remembering(lambda: jnp.int32(0), push)
