"""Virtual time: push for push against the oracle, closed forms, counterexamples."""

import functools
import itertools
import math

import hypothesis
import jax
import numpy as np
import pytest
import reference
import support
from hypothesis import strategies as st

from abs_dssp import communication, delays, policies, simulate

PUSHES = 48
EXACT = (
    "time", "worker", "clock", "pulled", "version", "committed", "wait", "duration",
    "restarts",
)  # fmt: skip


@st.composite
def tables(draw, num_workers):
    """Durations: random, whole (exact ties), or tenths (ties but for rounding)."""
    kind = draw(st.sampled_from(["random", "whole", "tenths"]))
    if kind == "whole":
        value = st.integers(1, 4).map(float)
    elif kind == "tenths":
        value = st.integers(1, 9).map(lambda tenths: tenths / 10)
    else:
        value = st.floats(0.05, 20.0)
    row = st.lists(value, min_size=5, max_size=5)
    return draw(st.lists(row, min_size=num_workers, max_size=num_workers))


def agree(case, table, **transfers):
    """Asserts that the compiled loop does what the oracle does, row by row."""
    n = len(table)
    events = []
    rows = reference.run(case.oracle(n), table, PUSHES, events=events, **transfers)
    expected = support.trace_of(rows, n, events)
    link = communication.Communication(
        transfers.get("seconds", 0.0),
        transfers.get("shared", False),
        transfers.get("update"),
    )
    policy = policies.parse(case.text, n)
    found = simulate.schedule(
        policy, delays.recorded(table), PUSHES, communication=link
    )
    for name in EXACT:
        np.testing.assert_array_equal(
            getattr(found, name), getattr(expected, name), err_msg=name
        )
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)
    assert found.events == expected.events
    return found


def sizes():
    """Every policy with every N in 1..12; all but one N of each are marked slow, and
    of a rule with several settings all but the first."""
    seen = set()
    for case in support.CASES:
        name = case.text.partition("(")[0]
        for n in range(case.least, 13):
            often = n == case.often_with and name not in seen
            marks = [] if often else [pytest.mark.slow]
            yield pytest.param(case, n, id=f"{case.text}-{n}", marks=marks)
        seen.add(name)


# Over 1,000 schedules, and more with -m slow; one compilation for each size.
@pytest.mark.parametrize(("case", "num_workers"), sizes())
def test_the_compiled_loop_agrees_with_the_oracle(case, num_workers):
    stated = case.properties(num_workers)

    @hypothesis.settings(max_examples=30, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(tables(num_workers))
    def check(table):
        trace = agree(case, table)
        staleness = trace.staleness[trace.accepted]
        if stated.max_staleness is not None:
            assert staleness.max(initial=0) <= stated.max_staleness
        if stated.max_gap is not None:
            # Released at max_gap at most, a worker then pushes once.
            assert trace.gaps.max() <= stated.max_gap + 1

    check()


def transfers():
    """Some rules with all kinds of transfers; half of these are marked slow."""
    kinds = list(itertools.product([False, True], [None, 0.5]))
    often = {  # of each rule, (whether the link is shared, seconds of an update)
        "bsp()": [(True, None), (False, 0.5)],
        "asp()": [(False, None), (True, 0.5)],
        "k_sync(k=2)": [(True, None), (False, 0.5)],
        "abs(k0=1,a=3,tau_max=2)": [(False, None), (True, 0.5)],
        "quorum(k=2)": [(True, None), (False, 0.5)],
        "deadline(k=2.0,floor=0.0625)": [(False, None), (True, 0.5)],
    }
    for case in support.CASES:
        for shared, update in kinds if case.text in often else []:
            link = "shared-link" if shared else "own-links"
            server = "no-update" if update is None else "update"
            marks = [] if (shared, update) in often[case.text] else [pytest.mark.slow]
            name = f"{case.text}-{link}-{server}"
            yield pytest.param(case, shared, update, id=name, marks=marks)


@pytest.mark.often(6)
@pytest.mark.parametrize(("case", "shared", "update"), transfers())
def test_transfers_agree_with_the_oracle(case, shared, update):
    @hypothesis.settings(max_examples=15, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(tables(4), st.sampled_from([0.25, 1.0, 3.0]))
    def check(table, seconds):
        transfers = {"seconds": seconds, "shared": shared}
        agree(case, table, **transfers | ({} if update is None else {"update": update}))

    check()


def standard_error(values):
    """Of a mean of correlated values, from 64 batches."""
    batches = np.array_split(values, 64)
    means = [batch.mean() for batch in batches]
    return np.std(means, ddof=1) / math.sqrt(len(means))


def harmonic(n):
    return sum(1 / i for i in range(1, n + 1))


EXPONENTIAL = "exponential(mean=1.0)"
SHIFTED = "shifted_exponential(shift=0.5,mean=0.5)"


@functools.cache
def round_times(text, model, num_workers, pushes=40_000):
    trace = simulate.schedule(
        policies.parse(text, num_workers), delays.parse(model, num_workers), pushes
    )
    return trace, np.diff(trace.time[trace.committed], prepend=0)


@pytest.mark.often(6)
@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [  # theory.md section 4: delta + (H_N - H_{N-K}) / mu and so on, N = 8
        ("k_sync(k=3)", EXPONENTIAL, harmonic(8) - harmonic(5)),
        ("k_sync(k=3)", SHIFTED, 0.5 + (harmonic(8) - harmonic(5)) / 2),
        ("bsp()", EXPONENTIAL, harmonic(8)),
        ("bsp()", SHIFTED, 0.5 + harmonic(8) / 2),
        ("k_batch_sync(k=3)", EXPONENTIAL, 3 / 8),
        ("k_batch_sync(k=12)", EXPONENTIAL, 12 / 8),
        ("k_batch_sync(k=3)", SHIFTED, 0.717093),  # the integral of section 4
        ("k_batch_sync(k=12)", SHIFTED, 1.826368),
        ("k_async(k=3)", EXPONENTIAL, harmonic(8) - harmonic(5)),
        ("k_batch_async(k=3)", SHIFTED, 3 / 8),
        ("asp()", SHIFTED, 1 / 8),
    ],
)
def test_round_times_are_the_closed_forms(text, model, expected):
    _, rounds = round_times(text, model, 8)
    rounds = rounds[50:]  # the renewal forms hold in the long run
    assert abs(rounds.mean() - expected) < 4 * standard_error(rounds) + 1e-6


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [  # conservation: any law of times
        ("k_async(k=3)", EXPONENTIAL, 8 / 3 - 1),
        ("k_async(k=3)", SHIFTED, 8 / 3 - 1),
        ("k_batch_async(k=3)", SHIFTED, 7 / 3),
        ("asp()", "pareto(minimum=0.5,shape=2.5)", 7),
    ],
)
def test_mean_staleness_is_the_closed_form(text, model, expected):
    trace, _ = round_times(text, model, 8)
    staleness = trace.staleness[400:].astype(float)
    assert abs(staleness.mean() - expected) < 4 * standard_error(staleness)


@pytest.mark.parametrize(("k", "tau"), [(3, 2), (1, 4)])
def test_restarts_follow_the_truncated_geometric_law(k, tau):
    # theory.md section 4, exponential times: p = K/N, r = 1 - p.
    n, p = 8, k / 8
    r = 1 - p
    mean = r / (1 - r) - (tau + 1) * r ** (tau + 1) / (1 - r ** (tau + 1))
    fresh = p / (1 - r ** (tau + 1))
    restarts = n * p * r ** (tau + 1) / (1 - r ** (tau + 1))
    trace, _ = round_times(f"abs(k0={k},tau_max={tau})", EXPONENTIAL, n)
    staleness = trace.staleness[400:].astype(float)
    assert abs(staleness.mean() - mean) < 4 * standard_error(staleness)
    zero = (staleness == 0).astype(float)
    assert abs(zero.mean() - fresh) < 4 * standard_error(zero)
    per_push = trace.restarts[400:].astype(float)
    assert abs(per_push.mean() * k - restarts) < 4 * k * standard_error(per_push)


def test_ssp_counts_are_exact():
    # n_i(x) = min(floor(x/h_i), floor((x - h_i)/h_N) + s + 1), theory.md section 4.
    h, s, x = [10, 20, 30, 60], 3, 6000
    trace = simulate.schedule(policies.ssp(4, s=s), delays.recorded([[i] for i in h]),
                              600)  # fmt: skip
    counts = np.bincount(trace.worker[trace.time <= x], minlength=4)
    expected = [min(x // i, (x - i) // h[-1] + s + 1) for i in h]
    assert expected == [103, 103, 103, 100]
    np.testing.assert_array_equal(counts, expected)


def leads(variant):
    """theory.md section 3: fast pushes at 10, 20, 30, ..., slow at 26, 46, 66, ..."""
    slow = [26.0] + [20.0] * 2000
    policy = policies.dssp(2, s_lower=3, s_upper=11, variant=variant)
    trace = simulate.schedule(policy, delays.recorded([[10.0], slow]), 3000)
    return trace, trace.gaps[trace.worker == 0]


def test_the_printed_rule_leads_without_bound():
    trace, lead = leads("printed")
    # After the fast worker's push m the slow one has pushed floor((10 m - 6) / 20).
    for m in (10, 100, 1000):
        assert lead[m - 1] == m - (10 * m - 6) // 20
    assert [int(lead[m - 1]) for m in (10, 100, 1000, 2000)] == [6, 51, 501, 1001]
    assert trace.waiting_seconds == 0


def test_the_bounded_rule_never_releases_above_s_upper():
    trace, lead = leads("bounded")
    assert lead.max() == 12  # at the push; released at most at 11
    assert trace.gaps[trace.wait == 0].max() <= 11


def test_equal_seeds_give_equal_bytes_and_sweeps_give_the_same_traces():
    policy, model = policies.dssp(5), delays.lognormal(1.0, 0.3, num_workers=5)
    one = simulate.schedule(policy, model, 700, seed=2)
    again = simulate.schedule(policy, model, 700, seed=2)
    swept = simulate.sweep(policy, model, 700, seeds=[1, 2, 3])
    for name in (*EXACT, "weight"):
        assert getattr(one, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(one, name).tobytes() == getattr(swept[1], name).tobytes()
    assert not np.array_equal(swept[0].time, swept[2].time)
    assert [trace.seed for trace in swept] == [1, 2, 3]


def test_a_shorter_schedule_is_the_beginning_of_a_longer_one():
    policy = policies.k_sync(6, k=2)
    model = delays.exponential(1.0, num_workers=6)
    long = simulate.schedule(policy, model, 1000)
    short = simulate.schedule(policy, model, 333)
    for name in ("time", "worker", "pulled", "version", "restarts"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name)[:333])


@pytest.mark.parametrize("num_workers", [1, 3])
def test_durations_are_those_of_the_model(num_workers):
    model = delays.exponential(1.0, num_workers=num_workers)
    trace = simulate.schedule(policies.asp(num_workers), model, 400, seed=5)
    drawn = delays.table(model, 400, seed=5)
    for worker in range(num_workers):
        mine = trace.duration[trace.worker == worker]
        np.testing.assert_array_equal(mine, drawn[worker, : len(mine)])


def test_a_policy_that_makes_everybody_wait_is_named():
    inner = policies.asp(3)

    def keep(state, clocks, worker, now):
        state, decision = inner.on_push(state, clocks, worker, now)
        return state, decision._replace(release=decision.release & False)

    miser = policies.Policy(inner.init, keep, inner.on_leave)
    with pytest.raises(simulate.DeadlockError) as error:
        simulate.schedule(miser, delays.constant([1, 2, 3]), 10)
    assert "every worker waits, nobody computes, at push 4" in str(error.value)


def test_x64_stays_inside():
    simulate.schedule(policies.asp(2), delays.constant([1, 2]), 10)
    assert jax.numpy.zeros(1).dtype == np.float32


def test_num_pushes_must_be_positive():
    with pytest.raises(ValueError, match="num_pushes must be at least 1, got 0"):
        simulate.schedule(policies.asp(2), delays.constant([1, 2]), 0)


EQUIVALENT = [
    ("ssp(s=1000000)", "asp()"),
    ("k_async(k=1)", "asp()"),
    ("k_async(k=5)", "bsp()"),
    ("k_sync(k=5)", "bsp()"),
    ("ssp(s=3)", 'dssp(s_lower=3,s_upper=3,variant="bounded")'),
    ("k_async(k=2)", "abs(k0=2,tau_max=1000000)"),
    ("k_async(k=2)", "weighted(k_async(k=2), constant())"),
    ("bsp()", "local_sgd()"),
    ("asp()", "switch(asp(), bsp(), at=1000000)"),
    ("bsp()", "switch(asp(), bsp(), at=0)"),
    ("adasync(k0=2)", "k_async(k=2)"),  # there is no loss to adapt to
]


@pytest.mark.often(6)
@pytest.mark.parametrize(("one", "other"), EQUIVALENT)
def test_special_cases_coincide(one, other):
    drawn = delays.table(delays.exponential(1.0, num_workers=5), 512)
    model = delays.recorded(drawn)  # quicker to compile
    a, b = (
        simulate.schedule(policies.parse(text, 5), model, 500) for text in (one, other)
    )
    for name in (*EXACT, "weight"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
