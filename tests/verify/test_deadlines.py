"""Rules that set deadlines: the checker tries them, and finds what is planted."""

import jax.numpy as jnp
import pytest

from abs_dssp import policies, verify

N = 2
PROPERTIES = policies.Properties(reads_loss=False, min_commit=1)


def patient(wake, on_time):
    """Everybody waits for a deadline one second after a push."""

    def on_push(state, clocks, worker, now):
        nobody = jnp.zeros(N, bool)
        return state, policies.Decision(1, False, nobody, nobody, now + wake)

    def on_leave(state, clocks, worker, now):
        nobody = jnp.zeros(N, bool)
        return state, policies.Decision(0, False, nobody, nobody)

    return policies.Policy(tuple, on_push, on_leave, PROPERTIES, on_time)


def release(state, clocks, now):
    waits = clocks.waiting & clocks.alive
    return state, policies.Decision(0, True, waits, jnp.zeros(N, bool))


def keep(state, clocks, now):
    nobody = jnp.zeros(N, bool)
    return state, policies.Decision(0, True, nobody, nobody, now + 1)


def hold_all(state, clocks, now):
    nobody = jnp.zeros(N, bool)
    return state, policies.Decision(0, False, nobody, nobody)


def release_all(state, clocks, now):
    return state, policies.Decision(0, True, clocks.alive, jnp.zeros(N, bool))


def restart_all(state, clocks, now):
    nobody = jnp.zeros(N, bool)
    return state, policies.Decision(0, True, nobody, clocks.alive, now + 1)


def running(again):
    """Nobody waits; deadlines commit, and `again` says when there is to be another."""

    def on_push(state, clocks, worker, now):
        nobody = jnp.zeros(N, bool)
        release = clocks.alive & policies.only(worker, N)
        state, wake = again(state, clocks, now)
        return state, policies.Decision(1, False, release, nobody, wake)

    def on_leave(state, clocks, worker, now):
        nobody = jnp.zeros(N, bool)
        return state, policies.Decision(0, False, nobody, nobody)

    def on_time(state, clocks, now):
        nobody = jnp.zeros(N, bool)
        return state, policies.Decision(0, True, nobody, nobody)

    def init():
        return jnp.float32(0)

    return policies.Policy(init, on_push, on_leave, PROPERTIES, on_time)


def later(state, clocks, now):
    return state, now + 10


def first(state, clocks, now):
    """Ten seconds after the first push of a round."""
    return state, jnp.where(clocks.pending == 0, now + 10, jnp.nan)


def same(state, clocks, now):
    """The same time, at every push of a round."""
    state = jnp.where(clocks.pending == 0, jnp.float32(now) + 10, state)
    return state, state


def fixed(state, clocks, now):
    """At 100 s, as every push says again, and at once after that."""
    return state, jnp.float32(100)


def put_off(state, clocks, now):
    """At a deadline: another one, and nothing else."""
    nobody = jnp.zeros(N, bool)
    return state, policies.Decision(0, False, nobody, nobody, now + 1)


def check(policy):
    return verify.check(policy, N, depth=8, deaths=1, joins=1, schedule_depth=12)


@pytest.mark.often(1)
@pytest.mark.parametrize("text", ["quorum(k=1)", "quorum(k=2)"])
def test_a_rule_of_the_package_keeps_its_word(text):
    report = verify.check(text, 2, depth=20, schedule_depth=20)
    assert report.verdict == "holds where tried" and report.complete
    assert "deadlines" in report.text


def test_a_deadline_to_come_is_no_deadlock():
    report = check(patient(1.0, release))
    assert report.violation is None, report.violation.table


@pytest.mark.often(3)
@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        pytest.param(patient(jnp.inf, release), "deadlock", id="sets-none"),
        pytest.param(patient(1.0, hold_all), "deadlock", id="asks-for-no-other"),
        pytest.param(patient(1.0, keep), "starvation", id="releases-nobody"),
        pytest.param(patient(1.0, release_all), "released twice", id="releases-all"),
        pytest.param(patient(1.0, restart_all), "restart", id="restarts-who-waits"),
    ],
)
def test_what_is_wrong_at_a_deadline_is_found(policy, kind):
    violation = check(policy).violation
    assert violation is not None and violation.kind == kind
    if kind in ("released twice", "restart"):  # broken by a deadline
        assert violation.actions[-1].kind == "timer"
        assert violation.trace.events[-1].kind == "timer"
        assert "deadline" in violation.table


def test_a_commit_at_a_deadline_may_be_too_small():
    policy = patient(1.0, release)
    stated = PROPERTIES._replace(min_commit=2)
    violation = check(policy._replace(properties=stated)).violation
    assert violation is not None and violation.kind == "commit too small"
    # A push of one worker, and a deadline while the other computes.
    assert [action.kind for action in violation.actions] == ["push", "timer"]


def try_all(policy):
    """Until nothing new comes: pushes that wait for a commit are alike from 16 on."""
    return verify.check(policy, N, depth=24, deaths=0, schedule_depth=0)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(first, marks=pytest.mark.slow),
        pytest.param(same, marks=pytest.mark.slow),
        fixed,
    ],
)
def test_a_deadline_that_comes_is_not_taken_for_one_put_off(again):
    report = try_all(running(again))
    assert report.violation is None, report.violation.table
    assert report.complete


def test_a_deadline_that_every_push_puts_off_is_found():
    violation = try_all(running(later)).violation
    assert violation is not None and violation.kind == "postponed"
    assert not violation.shortest
    # It ends once around: a push of each, before the deadline that the last one set.
    *_, one, other = violation.actions
    assert {(one.kind, one.worker), (other.kind, other.worker)} == {
        ("push", 0), ("push", 1),
    }  # fmt: skip
    assert one.seconds < 10 and other.seconds < 10


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(running(first)._replace(on_time=put_off), id="runs"),
        pytest.param(patient(1.0, put_off), id="waits", marks=pytest.mark.slow),
    ],
)
def test_a_deadline_that_puts_itself_off_for_ever_is_found(policy):
    violation = try_all(policy).violation
    assert violation is not None and violation.kind == "no commit"
