"""Single decisions of each rule, in cases that can be checked by eye."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from abs_dssp import policies, simulate

LOSS_GROWTH = 'abs(k0=2,a=0.5,growth="loss")'


def push(policy, clocks, worker=0, state=None, now=0.0):
    state = policy.init() if state is None else state
    return jax.jit(policy.on_push)(state, clocks, jnp.int32(worker), now)


@pytest.mark.parametrize(
    ("clock", "waiting", "gone", "released"),
    [
        pytest.param([3, 1, 2], [], [], [0, 0, 0], id="gap-2-waits"),
        pytest.param([2, 1, 2], [], [], [1, 0, 0], id="gap-1-runs"),
        pytest.param([2, 2, 3], [2], [], [1, 0, 1], id="slowest-frees-a-waiter"),
        pytest.param([3, 1, 3], [], [1], [1, 0, 0], id="the-dead-are-not-waited-for"),
    ],
)
def test_ssp_releases_by_the_gap(clock, waiting, gone, released):
    policy = policies.ssp(num_workers=3, s=1)
    _, decision = push(policy, support.clocks(clock, waiting=waiting, gone=gone))
    np.testing.assert_array_equal(decision.release, released)


def test_the_controller_finds_the_papers_kind_of_answer():
    # p pushed at 10 and 12 (interval 2), the slowest at 3 and 11 (interval 8): its next
    # pushes are predicted at 19, 27, ...; p's at 12, 14, 16, 18, 20: 18 and 20 are both
    # 1 away from 19, and the smaller r, 3, wins.
    clocks = support.clocks([6, 2], times=([12, 11], [10, 3]))
    assert policies.controller(clocks, jnp.int32(0), 4) == 3
    # With 2 extra iterations at most, 16 is the closest to 19.
    assert policies.controller(clocks, jnp.int32(0), 4, limit=jnp.int32(2)) == 2


def test_printed_dssp_grants_one_more_than_the_controller_says():
    policy = policies.dssp(2, s_lower=1, s_upper=5)
    clocks = support.clocks([3, 1], times=([12, 11], [10, 3]))  # r* = 3, see above
    state, decision = push(policy, clocks)
    assert decision.release[0] and state.allowance[0] == 3


def test_bounded_dssp_charges_the_first_ok():
    policy = policies.dssp(2, s_lower=1, s_upper=5, variant="bounded")
    clocks = support.clocks([3, 1], times=([12, 11], [10, 3]))
    state, decision = push(policy, clocks)
    assert decision.release[0] and state.allowance[0] == 2


def test_bounded_dssp_takes_back_what_is_left_once_the_slowest_is_near():
    policy = policies.dssp(2, s_lower=1, s_upper=5, variant="bounded")
    state = policy.init()._replace(allowance=jnp.array([2, 0], jnp.int32))
    state, decision = push(policy, support.clocks([3, 2]), state=state)
    assert decision.release[0] and state.allowance[0] == 0


def test_k_sync_discards_a_stale_push_and_releases_its_worker():
    policy = policies.k_sync(num_workers=3, k=2)
    clocks = support.clocks([1, 1, 1], pulled=np.int32([0, 1, 1]), version=1, pending=1)
    _, decision = push(policy, clocks)
    assert decision.weight == 0 and not decision.commit and decision.release[0]


def test_adasync_grows_with_the_root_of_the_loss_ratio():
    policy = policies.adasync(num_workers=8, k0=2, interval=10.0)
    clocks = support.clocks([1] * 8)
    state, _ = push(policy, clocks._replace(loss=jnp.float32(8)), now=1.0)
    assert state.k == 2
    # F_0 / F_t = 4: k = 2 * 2; but not before 10 seconds have passed.
    low = clocks._replace(loss=jnp.float32(2))
    state, _ = push(policy, low, state=state, now=9.0)
    assert state.k == 2
    state, _ = push(policy, low, state=state, now=10.0)
    assert state.k == 4
    # At loss 0 everybody is waited for; if the loss rises, k0 is the floor.
    state, _ = push(policy, clocks._replace(loss=jnp.float32(0)), state=state, now=20.0)
    assert state.k == 8
    high = clocks._replace(loss=jnp.float32(100))
    state, _ = push(policy, high, state=state, now=30.0)
    assert state.k == 2


@pytest.mark.parametrize("text", ["adasync(k0=2,interval=0)", LOSS_GROWTH])
@pytest.mark.parametrize(
    ("first", "loss", "k"),
    [
        pytest.param(8.0, 4.0, 3, id="ceil(2 sqrt 2)"),
        pytest.param(8.0, 0.0, 4, id="loss 0: all"),
        pytest.param(8.0, -0.5, 4, id="loss below 0: all"),
        pytest.param(8.0, np.nan, 2, id="no estimate"),
        pytest.param(8.0, np.inf, 2, id="an infinite estimate is none"),
        pytest.param(-8.0, -0.5, 2, id="F(w_0) below 0"),
        pytest.param(0.0, -0.5, 2, id="F(w_0) = 0"),
    ],
)
def test_rounds_grow_by_the_ratio_of_losses(text, first, loss, k):
    policy = policies.parse(text, 4)
    state = policy.init()._replace(first_loss=jnp.float32(first))
    clocks = support.clocks([1] * 4, pending=1)._replace(loss=jnp.float32(loss))
    state, decision = push(policy, clocks, state=state, now=1.0)
    assert state.k == k
    if loss <= 0 and "adasync" in text and first > 0:  # four pushes, not two
        assert not decision.commit


def test_abs_restarts_right_after_the_commit():
    policy = policies.adaptive_bounded_staleness(4, k0=1, tau_max=2)
    # Version 5 -> 6: worker 1 computes from 4 (2 behind: goes on), 2 from 3 (restart).
    pulled = np.int32([5, 4, 3, 0])
    clocks = support.clocks([1] * 4, pulled=pulled, version=5, gone=[3])
    _, decision = push(policy, clocks)
    np.testing.assert_array_equal(decision.restart, [0, 0, 1, 0])


def test_abs_schedules_are_monotone_whatever_the_user_gives():
    policy = policies.adaptive_bounded_staleness(
        8,
        k0=2,
        growth=lambda t, ratio: jnp.where(t % 2 == 0, 7, 3),
        tau_max=lambda t, k: 10 + t * (-1) ** t,
    )
    state, ks, taus = policy.init(), [], []
    for version in range(6):
        clocks = support.clocks([1] * 8, version=version, pending=8)
        clocks = clocks._replace(pulled=clocks.version + jnp.zeros_like(clocks.pulled))
        ks.append(int(state.k)), taus.append(int(state.tau_max))
        state, _ = push(policy, clocks, state=state)
    assert ks == sorted(ks) and min(ks) >= 2 and max(ks) <= 8
    assert taus == sorted(taus, reverse=True)


def test_abs_discards_a_push_whose_restart_came_too_late():
    policy = policies.adaptive_bounded_staleness(3, k0=1, tau_max=1)
    clocks = support.clocks([1] * 3, pulled=np.int32([0, 4, 4]), version=4)
    _, decision = push(policy, clocks)
    assert decision.weight == 0 and decision.release[0] and not decision.commit


def test_switch_frees_those_who_wait_under_the_first_rule():
    policy = policies.switch(2, policies.ssp(2, s=0), policies.asp(2), at=3)
    state = policy.init()
    before = support.clocks([1, 0], version=0)
    state, decision = push(policy, before, state=state)
    np.testing.assert_array_equal(decision.release, [0, 0])
    after = support.clocks([3, 1], version=3, waiting=[0])
    state, decision = push(policy, after, worker=1, state=state)
    np.testing.assert_array_equal(decision.release, [1, 1])


@pytest.mark.parametrize(
    ("text", "staleness", "weight"),
    [
        ("weighted(asp(), constant())", 5, 1.0),
        ("weighted(asp(), inverse())", 0, 1.0),
        ("weighted(asp(), inverse())", 4, 0.25),
        ("weighted(asp(), polynomial(a=2))", 3, 1 / 16),
    ],
)
def test_weights_follow_staleness(text, staleness, weight):
    clocks = support.clocks([1, 1], pulled=np.int32([0, 0]), version=staleness)
    _, decision = push(policies.parse(text, 2), clocks)
    np.testing.assert_allclose(decision.weight, weight, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sssp(s=1)", "unknown name 'sssp' (did you mean ssp?)"),
        ("ssp(t=1)", "ssp has no argument 't'; known: s"),
        ("ssp()", "ssp needs the argument 's'"),
        ("ssp(s=-1)", "s must be at least 0, got -1"),
        ("ssp(s=__import__('os'))", "unknown name '__import__'"),
        ("ssp(s=1+x)", "not a literal"),
        ("ssp(", "expected the form"),
        ("dssp(s_lower=5,s_upper=3)", "s_upper must be at least s_lower=5, got 3"),
        ('dssp(variant="x")', "unknown variant 'x'; known: bounded, printed"),
        ("k_sync(k=5)", "k must be at most the number of workers 4, got 5"),
        ("k_async(k=0)", "k must be at least 1, got 0"),
        ("abs(k0=9)", "k0 must be at most the number of workers 4, got 9"),
        ('abs(growth="x")', "unknown growth 'x'; known: loss, rounds"),
        ("abs(a=0)", "a must be above 0"),
        ('adasync(base="x")', "unknown base 'x'"),
        ("inverse()", "is not a policy"),
        ("switch(bsp(), asp(), at=1, unit='push')", "unknown unit 'push'"),
        ("no_such_module:rule()", "cannot load no_such_module:rule"),
    ],
)
def test_wrong_texts_get_one_clear_sentence(text, message):
    with pytest.raises(ValueError) as error:
        policies.parse(text, num_workers=4)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rule_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(
        "from abs_dssp import policies\n"
        "def patient(num_workers, *, s):\n"
        "    return policies.Policy(*policies.ssp.__wrapped__(num_workers, s=s))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    policy = policies.parse("own_rules:patient(s=2)", 3)
    assert policies.describe(policy) == "own_rules:patient(s=2)"
    assert policies.parse("own_rules:patient(s=2)", 3) is policy


def test_a_rule_of_ones_own_may_stand_inside_another(tmp_path, monkeypatch):
    (tmp_path / "nested_rules.py").write_text(
        "import jax.numpy as jnp\n"
        "from abs_dssp import policies\n"
        "def mine(num_workers, *, s, note=''):\n"
        "    return policies.ssp(num_workers, s=s)\n"
        "def half():\n"
        "    return lambda staleness: jnp.float32(0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "weighted(nested_rules:mine(s=2,note='a:b(1)'), nested_rules:half())"
    policy = policies.parse(text, 3)
    described = policies.describe(policy)
    assert described == (
        "weighted(policy=nested_rules:mine(s=2,note='a:b(1)'),"
        "weighting=nested_rules:half())"
    )
    assert policies.parse(described, 3) is policy
    # The package's rule inside keeps its own text.
    assert policies.describe(policies.ssp(3, s=2)) == "ssp(s=2)"


def test_equal_calls_give_one_policy_and_others_do_not():
    one = policies.dssp(4, 3, s_upper=5)
    assert policies.dssp(num_workers=4, s_upper=5) is one
    assert policies.parse('dssp(variant="printed",s_upper=5,s_lower=3)', 4) is one
    assert policies.describe(one) == "dssp(s_upper=5)"
    assert policies.mindflayer(4, trials=[1, 2, 1, 1], seconds=2.0) is (
        policies.mindflayer(4, seconds=2.0, trials=[1, 2, 1, 1])
    )
    # 1 and 1.0 are equal, yet another argument: it is written in another way.
    one, other = (
        policies.fedasync(4, alpha=1.0, a=1),
        policies.fedasync(4, a=1.0, alpha=1),
    )
    assert policies.describe(one) == "fedasync(alpha=1.0,a=1)"
    assert policies.describe(other) == "fedasync(alpha=1,a=1.0)"


@pytest.mark.parametrize(
    "text",
    [
        "weighted(ringleader(), inverse())",
        "switch(ringleader(), asp(), at=3)",
        "switch(asp(), ringleader(), at=3)",
    ],
)
def test_numbers_of_rounds_are_no_weights(text):
    with pytest.raises(ValueError, match="are the numbers of its rounds"):
        policies.parse(text, 3)


WEIGHTS = {
    "a product": lambda good: 1.0 * good,
    "a choice": lambda good: jnp.where(good, 1.0, 0.0),
    "a truth": lambda good: good,
    "a whole number": lambda good: good.astype(int),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight_may_be_any_number_in_either_precision(kind):
    def decide(state, clocks, worker, now):
        good = clocks.version - clocks.pulled[worker] <= 1
        decision = policies.base.commit_alone(policies.only(worker, 2))
        return state, decision._replace(weight=WEIGHTS[kind](good))

    rule = policies.Policy(lambda: (), decide, policies.asp(2).on_leave)
    with jax.numpy_dtype_promotion("standard"):
        trace = simulate.schedule(rule, "constant([1, 4.5])", 7)  # double precision
        assert trace.weight.tolist() == [1, 1, 1, 1, 0, 1, 1]  # worker 1 is 4 stale
        clocks = policies.initial_clocks(2)
        _, decision = policies.ask(decide, (), clocks, jnp.int32(0), jnp.float32(1))
    assert decision.weight.dtype == jnp.float32 and decision.weight == 1
