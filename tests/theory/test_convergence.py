"""Theorems A and B: they hold, and are no looser than stated, in real schedules."""

import math

import jax.numpy as jnp
import known_problems as known
import numpy as np
import pytest
from known_problems import Run

from abs_dssp import delays, policies, simulate, theory
from abs_dssp.policies import rounds

VARIANCE = 4.0
# The most that bound / measured mean may be: theory, section 5.
ORDINARY_EQUAL, ORDINARY_SPREAD, LARGEST_SPREAD = 3.2, 7.3, 22
# Theorem B near its largest step without staleness, where 1 / (1 - rho) comes to 4/3,
# 1 + 4 eta U L to 2 and the drift term is not divided by K. Section 5 has no run there;
# 6.7 and 33 were measured.
LARGEST_EQUAL_B, LARGEST_SPREAD_B = 7, 36


def the_bound_holds(measured: known.Measure, bound: float):
    """Within four standard errors over the noise seeds."""
    assert measured.mean - 4 * measured.error <= bound


def the_bound_is_no_looser(measured: known.Measure, bound: float, factor: float):
    assert bound <= factor * (measured.mean + 4 * measured.error)


def scheduled(text, workers, speed, commits, local_steps=1, pushes_per_round=1):
    policy = known.policy(text, workers)
    pushes = math.ceil(commits * pushes_per_round)
    trace = simulate.schedule(policy, speed, pushes, local_steps=local_steps)
    return known.first_rounds(trace, commits)


def varying_k(workers: int, low: int, high: int, tau_max: int) -> policies.Policy:
    """ABS with K_t drawn from low..high for every round, independently of all else."""
    drawn = np.random.default_rng(K_SEED).integers(low, high + 1, 2**12)

    def on_push(state, clocks, worker, now):
        del now
        k = jnp.asarray(drawn, jnp.int32)[clocks.version % 2**12]
        commit, release = rounds.on_push(clocks, worker, k, jnp.bool_(True), False)
        stale = clocks.version + 1 - clocks.pulled > tau_max
        restart = rounds.others(clocks, worker) & stale & commit
        return state, policies.Decision(jnp.float32(1), commit, release, restart)

    def on_leave(state, clocks, worker, now):
        del worker, now
        return state, rounds.decide_leave(clocks, batch=False)

    return policies.Policy(lambda: (), on_push, on_leave)


# Of those that give the kappa_1 of the table's draw, 0.2478, which its bound implies.
K_SEED = 35

# The table of section 5. The step sizes are those printed there, exactly: the minimiser
# of the leading terms or equality in the step condition; the starts, 1 or 2 in every
# coordinate, follow from its bounds. The bound depends on the timings through kappa_1
# only. The measured mean depends on the whole draw of the timings and on the law of the
# times, which the table does not tell: that moves it by up to 3 %.
ORACLES = {
    "K=1": (
        8, 1, 20, 1,
        [(known.EQUAL, math.sqrt(10 / 8000), 0.14759, 0.35284),
         (known.COSINE, math.sqrt(0.5) / (1 + math.sqrt(140)), 0.26837, 0.64745),
         (known.RATIONAL, math.sqrt(known.RATIONAL.gap / 4000), 0.02793, 0.13993)],
    ),
    "K=4": (16, 4, 6, 1, [(known.EQUAL, math.sqrt(40 / 8000), 0.07392, 0.17142)]),
    "A with equality": (8, 1, 30, 1, [(known.EQUAL, None, 0.17121, 0.42246)]),
    "B with equality, U=4": (
        8, (2, 8), 10, 4, [(known.EQUAL, None, 0.07053, 0.15250)],
    ),
    "B with equality, U=16": (
        8, (2, 8), 10, 16, [(known.RATIONAL, None, 0.01214, 0.03161)],
    ),
}  # fmt: skip


@pytest.mark.often(3)
@pytest.mark.parametrize("name", ORACLES)
def test_the_table_of_oracles(name):
    workers, k, tau_max, local_steps, rows = ORACLES[name]
    if local_steps == 1:
        policy = known.policy(f"abs(k0={k},a=None,tau_max={tau_max})", workers)
        speed = delays.exponential(1.0, workers)
        promise, pushes = theory.Promise(k, tau_max, False), 2000 * k
    else:
        policy = varying_k(workers, *k, tau_max)
        speed = delays.exponential([1.0] * 6 + [4.0] * 2)
        promise, pushes = theory.Promise(k[0], tau_max, False), 2000 * 6
    trace = simulate.schedule(policy, speed, pushes, local_steps=local_steps)
    trace = known.first_rounds(trace, 2000)
    assert theory.effective_tau(trace) == tau_max
    mean = theory.tau_bar(tau_max, workers, promise.k_min)
    scale = float(theory.staleness_scale(tau_max, mean))
    equality = float(theory.largest_step_a(1.0, scale))
    if local_steps > 1:
        equality = float(theory.largest_step_b(1.0, scale, local_steps))
    runs = [Run(problem, step or equality) for problem, step, _, _ in rows]
    assert all(run.step <= equality for run in runs)
    found = known.measure(runs, trace, VARIANCE, 8 if local_steps == 16 else 32)
    for run, measured, row in zip(runs, found, rows, strict=True):
        _, _, oracle, oracle_bound = row
        bound = known.bound(run, trace, promise, VARIANCE)
        assert bound == pytest.approx(oracle_bound, abs=1e-5)  # its printed digits
        assert measured.mean == pytest.approx(
            oracle, abs=0.03 * oracle + 3 * measured.error
        )
        the_bound_holds(measured, bound)
        factor = ORDINARY_EQUAL if run.problem.equal else ORDINARY_SPREAD
        the_bound_is_no_looser(measured, bound, factor)


RULES = {
    "bsp()": (4, 4), "k_sync(k=3)": (8, 3), "k_batch_sync(k=6)": (4, 6),
    "k_async(k=3)": (8, 3), "k_batch_async(k=3)": (8, 3), "asp()": (8, 1),
    "ssp(s=1)": (4, 1), 'dssp(s_lower=1,s_upper=3,variant="bounded")': (4, 1),
    "abs(k0=2,a=500,tau_max=4)": (8, 3),
}  # fmt: skip
# U > 1 as well.
LOCAL = ["k_batch_sync(k=6)", "k_async(k=3)", "abs(k0=2,a=500,tau_max=4)"]


def factor(problem: known.Problem, step, largest, local_steps) -> float:
    """How loose a bound may be."""
    if step <= largest / 2:
        return ORDINARY_EQUAL if problem.equal else ORDINARY_SPREAD
    if local_steps > 1:
        return LARGEST_EQUAL_B if problem.equal else LARGEST_SPREAD_B
    return ORDINARY_EQUAL if problem.equal else LARGEST_SPREAD


@pytest.mark.often(3)
@pytest.mark.parametrize(
    ("text", "local_steps"),
    [(r, 3) for r in LOCAL]
    + [pytest.param(r, 1, marks=pytest.mark.slow if r in LOCAL else []) for r in RULES],
)
def test_the_bounds_hold_and_are_no_looser_than_stated(text, local_steps):
    """Five objectives, each at the ordinary and at the largest step."""
    workers, per_round = RULES[text]
    commits = 1000
    speed = delays.pareto([1.0] * workers, 3.0)
    trace = scheduled(text, workers, speed, commits, local_steps, per_round)
    promise = theory.promise(text, workers)
    assert theory.effective_tau(trace) <= promise.tau_max
    promise = promise._replace(tau_max=theory.effective_tau(trace))
    settings = {
        "smoothness": 1.0, "local_steps": local_steps, "tau_max": promise.tau_max,
    }  # fmt: skip
    largest = theory.step_size(text, workers, **settings)
    runs, factors = [], []
    for problem in known.PROBLEMS.values():
        ordinary = theory.step_size(
            text, workers, **settings,
            gap=problem.gap, variance=VARIANCE, rounds=commits,
        )  # fmt: skip
        runs += [Run(problem, ordinary), Run(problem, largest)]
        factors += [
            factor(problem, s, largest, local_steps) for s in (ordinary, largest)
        ]
    found = known.measure(runs, trace, VARIANCE, seeds=8)
    for run, measured, times in zip(runs, found, factors, strict=True):
        bound = known.bound(run, trace, promise, VARIANCE)
        the_bound_holds(measured, bound)
        the_bound_is_no_looser(measured, bound, times)


def leading(run: Run, commits: int, kappa: float, variance: float) -> float:
    """The two terms of Theorem A that staleness does not enter."""
    return float(
        theory.theorem_a(
            run.problem.gap, 1.0, variance, run.step, commits, kappa_1=kappa
        )
    )


def half_is_attained(measured: known.Measure, terms: float):
    """Where all curvatures equal L, SGD attains half of both leading terms."""
    assert measured.mean + 4 * measured.error >= 0.95 * terms / 2


@pytest.mark.parametrize(("text", "k"), [("asp()", 1), ("k_sync(k=2)", 2)])
def test_no_constant_of_the_leading_terms_can_be_halved(text, k):
    """Without noise the start term alone is attained, with much of it the other."""
    variance = 400.0
    trace = scheduled(text, 4, delays.exponential(1.0, 4), 4000, 1, k)
    kappa = theory.kappa_1(trace)
    assert kappa == pytest.approx(1 / k)
    runs = [Run(known.EQUAL, 0.005, 0.0), Run(known.EQUAL, 0.005)]
    found = known.measure(runs, trace, variance)
    for run, measured in zip(runs, found, strict=True):
        terms = leading(run, trace.commits, kappa, run.noise * variance)
        half_is_attained(measured, terms)
        with pytest.raises(AssertionError):  # a bound 20 % below this half is wrong
            the_bound_holds(measured, 0.8 * terms / 2)


@pytest.mark.parametrize("workers", [1, 2, 5, 8])
def test_the_step_condition_is_sharp_up_to_its_factor(workers):
    """Equal workers under ASP: after the start everybody is N - 1 versions stale."""
    trace = simulate.schedule(
        policies.asp(workers), delays.constant(1.0, workers), 3000
    )
    tau = workers - 1
    assert np.all(trace.staleness[workers:] == tau)
    largest = float(
        theory.largest_step_a(1.0, theory.staleness_scale(float(tau), float(tau)))
    )
    limit = float(theory.delay_stability_limit(tau))
    steps = {"A": largest, "below": 0.97 * limit, "above": 1.03 * limit}
    steps["2.2 A"] = 2.2 * largest
    runs = [Run(known.EQUAL, step) for step in steps.values()]
    found = known.versions(runs, trace, 0.0, 1, dim=1)
    late = {
        name: float(np.max(np.abs(w[-100:, 0, 0])))
        for name, w in zip(steps, found, strict=True)
    }
    assert late["A"] < 1e-9
    assert late["below"] < 1e-3
    assert not late["above"] < 10  # NaN where it overflowed
    assert not late["2.2 A"] < 2
