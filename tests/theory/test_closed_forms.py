"""Round times, staleness laws, lower bounds: oracle values, simulation, brute force."""

import math

import jax
import jax.numpy as jnp
import known_problems as known
import numpy as np
import pytest

from abs_dssp import delays, policies, simulate, theory


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("rule", "k", "rate", "shift", "expected"),
    [
        ("k_sync", 3, 1, 0, 0.434524), ("k_sync", 3, 2, 0.5, 0.717262),
        ("bsp", 8, 1, 0, 2.717857), ("bsp", 8, 2, 0.5, 1.858929),
        ("k_batch_sync", 3, 1, 0, 0.375), ("k_batch_sync", 12, 1, 0, 1.5),
        ("k_batch_sync", 3, 2, 0.5, 0.717093), ("k_batch_sync", 12, 2, 0.5, 1.826368),
        ("k_async", 3, 1, 0, 0.434524), ("k_batch_async", 3, 2, 0.5, 0.375),
        ("asp", 1, 2, 0.5, 0.125),
    ],
)  # fmt: skip
def test_round_times_are_the_oracles(rule, k, rate, shift, expected):
    found = jax.jit(lambda r, s: theory.round_time(rule, 8, k, r, s))(rate, shift)
    assert float(found) == pytest.approx(expected, abs=2e-6)


@pytest.mark.often(3)
@pytest.mark.parametrize(
    ("rule", "k", "text"),
    [
        ("bsp", 8, "bsp()"), ("asp", 1, "asp()"), ("k_sync", 3, "k_sync(k=3)"),
        ("k_batch_sync", 3, "k_batch_sync(k=3)"), ("k_async", 3, "k_async(k=3)"),
        ("k_batch_async", 3, "k_batch_async(k=3)"),
    ],
)  # fmt: skip
def test_rounds_take_what_is_expected(rule, k, text):
    speed = delays.exponential(1.0, num_workers=8)
    trace = simulate.schedule(known.policy(text, 8), speed, 40_000, seed=3)
    found = trace.seconds / trace.commits
    expected = jax.jit(lambda rate: theory.round_time(rule, 8, k, rate))(1.0)
    assert found == pytest.approx(float(expected), rel=0.02)
    mean = theory.mean_staleness(rule, 8, k)
    assert trace.staleness[trace.accepted].mean() == pytest.approx(mean, abs=0.03)


def test_k_async_lies_between_its_brackets():
    speed = delays.shifted_exponential([0.5] * 8, 0.5)
    trace = simulate.schedule(known.policy("k_async(k=3)", 8), speed, 40_000)
    low = float(theory.round_time("k_batch_async", 8, 3, 2.0, 0.5))
    high = float(theory.round_time("k_async", 8, 3, 2.0, 0.5))
    assert low == pytest.approx(0.375) and high == pytest.approx(0.717262, abs=1e-6)
    assert low < trace.seconds / trace.commits < high


@pytest.mark.parametrize(
    ("k", "tau", "expected"),
    [(3, 2, (0.697674, 0.496124, 0.968992)), (1, 4, (1.734979, 0.256626, 1.053004))],
)
def test_the_restart_law(k, tau, expected):
    found = jax.jit(theory.restart_law)(8, k, tau)
    assert np.allclose(found, expected, atol=1e-6)
    rule = known.policy(f"abs(k0={k},a=None,tau_max={tau})", 8)
    trace = simulate.schedule(rule, delays.exponential(1.0, num_workers=8), 60_000)
    accepted = trace.staleness[trace.accepted]
    assert accepted.max() == tau
    assert accepted.mean() == pytest.approx(expected[0], abs=0.02)
    assert (accepted == 0).mean() == pytest.approx(expected[1], abs=0.01)
    restarts = (trace.restarts.sum() + sum(trace.open_restarts)) / trace.commits
    assert restarts == pytest.approx(expected[2], abs=0.03)


def test_staleness_of_k_async_is_geometric():
    j = np.arange(200)
    law = theory.geometric_staleness(j, 8, 3)
    assert float(law.sum()) == pytest.approx(1)
    assert float(law[0]) == pytest.approx(0.375)
    assert float((law * j.astype(float) ** 2).sum()) == pytest.approx(
        7.222222, abs=1e-5
    )


@pytest.mark.parametrize(
    ("k", "expected"), [(1, 0.066667), (2, 0.155927), (4, 0.527631), (5, 1.244902)]
)
def test_the_kth_of_unequal_exponentials(k, expected):
    rates = jnp.arange(1.0, 6.0)
    assert float(theory.kth_exponential(rates, k)) == pytest.approx(expected, abs=1e-6)


def test_equal_rates_give_harmonic_numbers():
    for k in range(1, 9):
        found = theory.kth_exponential(jnp.full(8, 2.0), k)
        harmonics = sum(1 / i for i in range(9 - k, 9)) / 2
        assert float(found) == pytest.approx(harmonics)
    assert float(theory.harmonic(0)) == pytest.approx(0, abs=1e-12)


def test_counts_under_ssp_and_asp_are_exact():
    times = [10.0, 20.0, 30.0, 60.0]
    assert theory.ssp_counts(6000, times, 3).tolist() == [103, 103, 103, 100]
    generator = np.random.default_rng(0)
    for _ in range(4):
        times = np.sort(generator.integers(2, 40, 4)).astype(float)
        s = int(generator.integers(0, 6))
        trace = simulate.schedule(policies.ssp(4, s=s), delays.constant(times), 400)
        for seconds in np.unique(trace.time)[5:-1:7]:
            counted = np.bincount(trace.worker[trace.time <= seconds], minlength=4)
            found = theory.ssp_counts(float(seconds), times, s)
            np.testing.assert_array_equal(np.asarray(found), counted)


@pytest.mark.often(4)
@pytest.mark.parametrize(
    ("rule", "k", "text"),
    [
        ("bsp", 1, "bsp()"), ("asp", 1, "asp()"), ("ssp", 1, "ssp(s=2)"),
        ("dssp_bounded", 1, 'dssp(s_lower=1,s_upper=4,variant="bounded")'),
        ("k_sync", 2, "k_sync(k=2)"), ("k_batch_sync", 5, "k_batch_sync(k=5)"),
        ("k_batch_async", 3, "k_batch_async(k=3)"),
    ],
)  # fmt: skip
def test_throughput_for_fixed_times(rule, k, text):
    times = [2.0, 3.0, 5.0, 11.0]
    trace = simulate.schedule(known.policy(text, 4), delays.constant(times), 20_000)
    found = trace.accepted.sum() / trace.seconds
    assert found == pytest.approx(float(theory.throughput(rule, times, k)), rel=0.01)


CLUSTERS = {
    "i": (np.arange(1.0, 9), (6.530612, 5, 6.530612), (39.737188, 38, 39.737188)),
    "sqrt": (np.sqrt(np.arange(1.0, 101)), (3.897727, 2.828427, 3.897727),
             (10.758702, 8.246211, 10.758702)),
    "straggler": ([1.0, 1, 1, 10], (4.333333, 4, 4.333333),
                  (33.548387, 33, 33.548387)),
    "equal": (np.ones(8), (2.25, 2, 2.25), (13.5, 13, 13.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(("place", "ratio"), [(1, 10.0), (2, 100.0)])
def test_the_lower_bound_and_collection_times_are_the_oracles(name, place, ratio):
    times, expected = CLUSTERS[name][0], CLUSTERS[name][place]
    bound = jax.jit(theory.tyurin_richtarik)(times, 1.0, 1.0, ratio, 1.0)
    batch = int(theory.rennala_batch(ratio, 1.0))
    assert float(bound) == pytest.approx(expected[0], abs=1e-5)
    assert float(theory.collection_time(times, batch)) == pytest.approx(
        expected[1], abs=1e-5
    )
    assert float(theory.collection_bound(times, batch)) == pytest.approx(
        expected[2], abs=1e-5
    )


def test_collection_takes_between_half_its_bound_and_all_of_it():
    generator = np.random.default_rng(1)
    collection_time = jax.jit(theory.collection_time, static_argnums=1)
    collection_bound = jax.jit(theory.collection_bound)
    for _ in range(60):
        # Few shapes, since each is compiled.
        times = generator.lognormal(size=generator.choice([1, 4, 9]), sigma=1.5)
        batch = int(generator.choice([1, 7, 50]))
        ratio = collection_time(times, batch) / collection_bound(times, batch)
        assert 0.5 - 1e-9 <= float(ratio) <= 1 + 1e-9


def test_ringmasters_constants_give_half_the_target_twice():
    """Theorem A at Ringmaster's step and number of updates gives eps (Remark 4)."""
    for variance, target in ((10.0, 1.0), (0.5, 1.0), (300.0, 2.0)):
        smoothness, gap = 3.0, 7.0
        threshold = float(theory.ringmaster_threshold(variance, target))
        step = theory.ringmaster_step(smoothness, variance, target)
        updates = theory.ringmaster_updates(smoothness, gap, variance, target)
        bound = theory.theorem_a(
            gap, smoothness, variance, step, updates, kappa_1=1.0,
            tau_bar=threshold - 1,
        )  # fmt: skip
        assert float(bound) <= target * (1 + 1e-9)
        scale = theory.staleness_scale(threshold - 1, threshold - 1)
        assert step <= theory.largest_step_a(smoothness, scale) * (1 + 1e-9)


def test_rennala_reaches_its_target_by_theorem_a():
    variance, target, smoothness, gap = 30.0, 1.0, 2.0, 5.0
    batch = float(theory.rennala_batch(variance, target))
    rounds = theory.rennala_rounds(smoothness, gap, target)
    bound = theory.theorem_a(
        gap, smoothness, variance, 1 / (2 * smoothness), rounds, kappa_1=1 / batch
    )
    assert float(bound) <= target * (1 + 1e-9)
    times = np.arange(1.0, 6)
    lower = theory.tyurin_richtarik(times, smoothness, gap, variance, target)
    upper = theory.rennala_time(times, smoothness, gap, variance, target)
    ringmaster = theory.ringmaster_time(times, smoothness, gap, variance, target)
    assert lower <= upper <= 9 * lower  # 8 rounds' constant, S rounded up
    assert lower <= ringmaster <= 60 * lower


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0, 2), (1, 1), (2, 0.618034), (4, 0.347296), (8, 0.184537), (16, 0.095164)],
)
def test_the_delay_stability_limit_is_where_a_root_leaves_the_circle(tau, expected):
    limit = float(theory.delay_stability_limit(tau))
    assert limit == pytest.approx(expected, abs=1e-6)
    for factor, stable in ((0.99, True), (1.01, False)):
        polynomial = np.zeros(tau + 2)
        polynomial[0], polynomial[1] = 1, -1
        polynomial[-1] += factor * limit
        assert (np.abs(np.roots(polynomial)).max() < 1) == stable
    largest = float(theory.largest_step_a(1.0, theory.staleness_scale(tau, tau)))
    if tau:
        assert 1.5 < limit / largest < 2.3


def test_unknown_rules_are_named():
    with pytest.raises(ValueError, match="nonsense"):
        theory.round_time("nonsense", 4, 2)
    with pytest.raises(ValueError, match="nonsense"):
        theory.mean_staleness("nonsense", 4)
    with pytest.raises(ValueError, match="k_async"):
        theory.throughput("k_async", [1.0, 2.0], 2)
    with pytest.raises(ValueError, match="16"):
        theory.kth_exponential(jnp.ones(17), 2)


@pytest.mark.often(5)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bsp()", (4, 0)),
        ("asp()", (1, math.inf)),
        ("ssp(s=1)", (1, 9)),
        ("k_sync(k=2)", (2, 0)),
        ("k_async(k=2)", (2, math.inf)),
        ("abs(k0=2)", (2, 2)),
        ("abs(k0=1,a=3,tau_max=5)", (1, 5)),
        ('dssp(s_lower=1,s_upper=4,variant="bounded")', (1, 27)),
        ("dssp()", (1, math.inf)),
        ("malenia(batch_size=2)", (2, 0)),
    ],
)
def test_promises_hold_in_schedules(text, expected):
    promise = theory.promise(text, 4)
    assert (promise.k_min, promise.tau_max) == expected
    for seed in range(3):
        speed = delays.pareto([1.0] * 4, 1.1)
        trace = simulate.schedule(known.policy(text, 4), speed, 3000, seed)
        assert theory.effective_tau(trace) <= promise.tau_max
        bound = theory.tau_bar(promise.tau_max, 4, promise.k_min, promise.batch)
        assert theory.measured_tau_bar(trace) <= float(bound) + 0.05
        assert theory.kappa_1(trace) <= 1 / promise.k_min + 1e-9


def test_a_step_size_needs_a_bound_on_staleness():
    with pytest.raises(ValueError, match="tau_max"):
        theory.step_size("asp()", 4, smoothness=1.0)
    some = theory.step_size("asp()", 4, smoothness=2.0, tau_max=10)
    none = theory.step_size("bsp()", 4, smoothness=2.0)
    assert 0 < some < none <= 0.5
    noisy = theory.step_size(
        "bsp()", 4, smoothness=2.0, gap=1.0, variance=100.0, rounds=1000
    )
    assert noisy == pytest.approx(math.sqrt(2 * 4 / (2.0 * 100 * 1000)))
    with pytest.raises(ValueError, match="nothing is known"):
        theory.promise("switch(bsp(), asp(), at=3)", 4)
    # The default buffer of FedBuff is 10 pushes.
    assert theory.promise("fedbuff()", 4) == theory.Promise(10, math.inf, True)
    assert theory.step_size("fedbuff()", 4, smoothness=1.0, tau_max=2) > 0
