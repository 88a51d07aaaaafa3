"""Theorem D: its constants against the proof's steps and real runs with wild delays."""

import derivation
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import known_problems as known
import numpy as np
import optax
import pytest
from mutations import mutated, parametrised
from test_mutants import catches

from abs_dssp import delays, policies, replay, simulate, theory
from abs_dssp.theory import delay_adaptive

L, GAP, VARIANCE = 2.0, 3.0, 4.0


def weights_of(staleness, concurrency, limit) -> np.ndarray:
    """Those that the policies give."""
    rule = policies.koloskova(concurrency=concurrency, limit=limit)
    return np.asarray(rule(jnp.asarray(staleness, jnp.int32)), float)


def in_order(order, rests=None) -> np.ndarray:
    """Staleness of the pushes of workers that push in this order.

    A worker goes on from the version that its push has made, or from one that is
    `rests` versions younger.
    """
    pulled: dict[int, int] = {}
    rests = [0] * len(order) if rests is None else rests
    staleness = []
    for version, (worker, rest) in enumerate(zip(order, rests, strict=True)):
        staleness.append(version - min(pulled.get(worker, 0), version))
        pulled[worker] = version + 1 + rest
    return np.array(staleness)


def derived(staleness, steps, variance=VARIANCE, gap=GAP) -> derivation.Derived:
    return derivation.theorem_a(
        [[(1.0, tau)] for tau in staleness], steps, gap, variance
    )


# For all delays.

RULES = st.tuples(st.integers(1, 8), st.floats(0.25, 20.0))
LENGTH = 48


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.integers(0, n - 1), min_size=LENGTH, max_size=LENGTH),
        )
    ),
    st.lists(st.integers(0, 3), min_size=LENGTH, max_size=LENGTH),
    RULES,
)
def test_the_proof_goes_through_for_any_order_of_pushes(workers, rests, rule):
    """At the largest step: no round's condition is broken, no mean weight is below c,
    and the bound is not below what the proof's steps add up to."""
    n, order = workers
    staleness = in_order(order, rests)
    weights = weights_of(staleness, *rule)
    step = float(theory.largest_step_d(1.0, n, *rule))
    least = float(theory.least_mean_weight(n, *rule))
    assert weights.mean() >= least * (1 - 1e-5)
    found = derived(staleness, step * weights)
    assert (found.slack / weights).min() >= -1e-5 * step
    bound = theory.theorem_d(
        GAP, 1.0, VARIANCE, step, LENGTH, num_workers=n, mean_weight=least
    )
    assert float(bound) >= found.bound / (step * weights.sum()) * (1 - 1e-5)


# Where the constants are attained.


def two_speeds(n: int, slow: int, periods: int) -> np.ndarray:
    """N - 1 workers that push one after the other and are `slow` versions stale; in the
    meantime the last one pushes alone."""
    fast = slow - (n - 2)
    return in_order(([n - 1] * fast + list(range(n - 1))) * periods)


# N, C, l, and a staleness at which rho tau is M, which is also the worst for c but
# where C is far above l.
ATTAINING = [
    pytest.param(24, 24, 24.0, 48, id="mishchenko"),
    pytest.param(24, 24, 60.0, 120, id="limit-above-concurrency"),
    pytest.param(24, 40, 8.0, 40, id="limit-far-below"),
]


def steps_end_where_the_proof_does(theorems):
    for case in ATTAINING:
        n, *rule, slow = case.values
        staleness = two_speeds(n, slow, 6)
        weights = weights_of(staleness, *rule)
        step = float(theorems.largest_step_d(L, n, *rule)) * L
        slack = derived(staleness, step * weights).slack / (step * weights)
        assert slack.min() == pytest.approx(0, abs=1e-5)


def least_on_a_grid(n, concurrency, limit) -> float:
    """The least mean weight of two real delays whose mean is N - 1."""
    mean = n - 1.0
    low, high = np.linspace(0, mean, 401)[:-1, None], mean + np.linspace(0, 200, 8001)
    late = [
        np.where(tau <= concurrency, 1, np.minimum(1, limit / np.maximum(tau, 1e-9)))
        for tau in (low, high)
    ]
    share = (high - mean) / (high - low)  # of the low one
    return float((share * late[0] + (1 - share) * late[1]).min())


def weights_are_the_least_there_are(theorems):
    for rule in ((9, 9, 9.0), (9, 4, 4.0), (9, 1, 2.0), (9, 9, 25.0), (9, 12, 3.0)):
        found = float(theorems.least_mean_weight(*rule))
        assert found == pytest.approx(least_on_a_grid(*rule), rel=2e-3)
        if rule[1] == rule[2]:
            assert found == float(theorems.least_mean_weight(*rule[:2]))


@pytest.mark.parametrize(
    ("n", "concurrency", "limit", "slow"),
    [(96, 96, 96.0, 192), (96, 96, 240.0, 480), (96, 160, 32.0, 161)],
)
def test_a_schedule_attains_the_least_mean_weight(n, concurrency, limit, slow):
    """2 % for the first period, and for the fast worker's push after the slow ones."""
    staleness = two_speeds(n, slow, 100)
    weights = weights_of(staleness, concurrency, limit)
    least = float(theory.least_mean_weight(n, concurrency, limit))
    assert least <= weights.mean() <= 1.02 * least


def terms_are_those_of_the_proof(theorems):
    """The start by two speeds, the noise by workers in lockstep, whose weights are 1;
    2 % for the ends of a run."""
    n = 32
    staleness = two_speeds(n, 2 * n, 24)
    weights = weights_of(staleness, n, float(n))
    step, least = 0.25 / n, float(theory.least_mean_weight(n, n))
    given = {"num_workers": n, "mean_weight": least}
    bound = theorems.theorem_d(GAP, L, 0.0, step / L, len(staleness), **given)
    exact = derived(staleness, step * weights, 0.0, GAP / L).bound / weights.sum()
    assert float(bound) == pytest.approx(L**2 * exact / step, rel=0.02)
    n, count = 8, 600
    staleness, given = in_order(list(range(n)) * (count // n)), {"num_workers": n}
    for step in (0.01, float(theory.largest_step_d(1.0, n, n))):
        bound = theorems.theorem_d(
            0.0, L, VARIANCE, step / L, count, mean_weight=1.0, **given
        )
        exact = derived(staleness, np.full(count, step), VARIANCE / L**2, 0.0).bound
        assert float(bound) == pytest.approx(L**2 * exact / (step * count), rel=0.02)


def the_target_is_met(theorems):
    """Exactly, where noise limits the step; at the largest step, where nothing does."""
    n, target = 8, 0.5
    for concurrency, limit in ((8, None), (8, 3.0), (5, 30.0)):
        rule = theorems.any_delays(n, concurrency, limit)
        given = {"num_workers": n, "mean_weight": float(rule.mean_step)}
        mean = theory.target_step(L, 30.0, target, rule)
        commits = theory.target_commits(GAP, mean, target)
        step = mean / rule.mean_step
        bound = theory.theorem_d(GAP, L, 30.0, step, commits, **given)
        assert float(bound) == pytest.approx(target, rel=1e-5)
        longest = theory.target_step(L, 0.0, target, rule) / rule.mean_step
        largest = theory.largest_step_d(L, n, concurrency, limit)
        assert float(longest) == pytest.approx(float(largest), rel=1e-5)
        least = float(theory.least_mean_weight(n, concurrency, limit))
        assert float(rule.mean_step) == pytest.approx(least)


@pytest.mark.parametrize(
    "check",
    [
        steps_end_where_the_proof_does,
        weights_are_the_least_there_are,
        terms_are_those_of_the_proof,
        the_target_is_met,
    ],
)
def test_every_constant(check):
    check(theory)


def test_closed_forms():
    """One worker is never stale; N workers and M = N, as in the papers."""
    assert float(theory.largest_step_d(4.0, 1, 1)) == 0.25
    for n in (2, 8, 100):
        assert float(theory.least_mean_weight(n, n)) == pytest.approx(
            1 - (n - 1) / (4 * n)
        )
        step = float(theory.largest_step_d(1.0, n, n))
        assert step + 2 * step**2 * n * (n - 1) == pytest.approx(1, rel=1e-5)
    # Koloskova et al.: at most 1 / (4 L tau) beyond C, 1 / (4 L C) below.
    published = 1 / (4 * 100)
    rule = {"concurrency": 100, "limit": 1 / (4 * published)}
    assert float(theory.largest_step_d(1.0, 100, **rule)) > 2.7 * published


def test_numbers_and_arrays_under_jit():
    n, limit = jnp.array([[2.0], [8.0]]), np.array([[1.0, 4.0, 40.0]], np.float32)

    @jax.jit
    def both(n, limit):
        mean = theory.least_mean_weight(n, 4, limit)
        step = theory.largest_step_d(1.0, n, 4, limit)
        given = {"num_workers": n, "mean_weight": mean}
        return mean, theory.theorem_d(GAP, 1.0, VARIANCE, step, 100, **given)

    with jax.numpy_dtype_promotion("standard"):  # as users have it
        mean, bound = both(n, limit)
        assert mean.shape == bound.shape == (2, 3)
        one = theory.least_mean_weight(np.int64(8), jnp.int32(4), np.float64(40))
        assert float(one) == pytest.approx(float(mean[1, 2]))


# Real schedules.

N = 6
WILD = {
    "a straggler, 100 times slower": delays.constant([1.0] * (N - 1) + [100.0]),
    "heavy tails": delays.pareto(0.2, 1.1, N),
    "recorded": delays.recorded(
        [[1.0] * 40 + [60.0] * 30 if i % 2 else [25.0] * 4 + [0.5, 1.0] * 900
         for i in range(N)]
    ),
}  # fmt: skip
CHOSEN = [(6, 6.0), (6, 2.0), (3, 20.0)]  # C and l


@pytest.mark.often(5)
@pytest.mark.parametrize("times", WILD)
@pytest.mark.parametrize(("concurrency", "limit"), CHOSEN)
def test_the_bound_holds_whatever_the_delays(times, concurrency, limit):
    """At its largest step, which no schedule was asked for, on five objectives."""
    text = f"weighted(asp(),koloskova(concurrency={concurrency},limit={limit}))"
    trace = simulate.schedule(known.policy(text, N), WILD[times], 2400)
    assert theory.effective_tau(trace) > 5 * max(concurrency, limit)
    rule = (N, concurrency, limit)
    step = float(theory.largest_step_d(1.0, *rule))
    least = float(theory.least_mean_weight(*rule))
    runs = [known.Run(problem, step) for problem in known.PROBLEMS.values()]
    task = known.task(runs, trace, VARIANCE, seeds=12, seed=0)
    made = replay.trajectory(task, optax.sgd(step), trace, aggregate="sum").params
    for run, w in zip(runs, np.moveaxis(np.asarray(made), 1, 0), strict=True):
        squares = np.sum(run.problem.slope(w[:-1].astype(float)) ** 2, axis=2)
        means = np.average(squares, axis=0, weights=trace.weight)
        error = means.std(ddof=1) / len(means) ** 0.5
        bound = theory.theorem_d(
            run.problem.gap, 1.0, VARIANCE, step, trace.commits,
            num_workers=N, mean_weight=least,
        )  # fmt: skip
        assert means.mean() + 4 * error <= float(bound)
        loosest = 4 if run.problem.equal else 28
        assert float(bound) <= loosest * means.mean()
    # What the trace itself would allow is never less.
    own = theory.schedule_of(trace, "sum")
    largest = own.largest_step(1.0) / own.mean_step * trace.weight.max()
    assert float(largest) >= step * (1 - 1e-5)


STEP, WEIGHT = steps_end_where_the_proof_does, weights_are_the_least_there_are
TERM, TARGET = terms_are_those_of_the_proof, the_target_is_met

# Function, its text, what takes its place, and the check that notices.
MUTANTS = [
    ("least_mean_weight", "2 * limit", ("1.6 * limit", "2.4 * limit"), WEIGHT),
    ("least_mean_weight", "jnp.maximum(concurrency, 2 * limit)",
     ("2 * limit", "concurrency"), WEIGHT),
    ("least_mean_weight", "1 - others", ("1 - 0.8 * others", "1 - 1.2 * others",
                                         "1 - num_workers"), WEIGHT),
    ("least_mean_weight", "(1 - limit / end)",
     ("(1 - 0.8 * limit / end)", "1", "(1 - 1.2 * limit / end)"), WEIGHT),
    ("least_mean_weight", ") / end", (")",), WEIGHT),
    ("least_mean_weight", "line, limit /", ("line, 0.8 * limit /",
                                            "line, 1.2 * limit /"), WEIGHT),
    ("least_mean_weight", "others <= end", ("others <= 2 * end", "others <= 0"),
     WEIGHT),
    ("_square", "jnp.maximum(concurrency, limit)",
     ("concurrency", "limit", "jnp.minimum(concurrency, limit)"), STEP),
    ("_square", "reach *", ("0.8 * reach *", "1.2 * reach *", ""), STEP),
    ("_square", "(num_workers - 1)", ("num_workers", "(num_workers - 2)"), STEP),
    ("largest_step_d", "(smoothness, scale", ("(1.0, scale",), STEP),
    ("theorem_d", "2 * gap", ("1.6 * gap", "2.4 * gap", "0 * gap"), TERM),
    ("theorem_d", "(mean_weight * step", ("(step",), TERM),
    ("theorem_d", "noise = s", ("noise = 0.8 * s", "noise = 1.2 * s"), TERM),
    ("theorem_d", "smoothness * step", ("step",), TERM),
    ("theorem_d", "stale = 2", ("stale = 1.6", "stale = 2.4", "stale = 0"), TERM),
    ("theorem_d", "smoothness**2", ("smoothness",), TERM),
    ("theorem_d", "(num_workers - 1)", ("num_workers", "(num_workers - 2)"), TERM),
    ("any_delays", "1 / mean", ("1.0", "1 / mean**2"), TARGET),
    ("any_delays", "others / mean**2", ("others / mean", "0.8 * others / mean**2",
                                        "1.2 * others / mean**2"), TARGET),
    ("any_delays", "mean_step=mean", ("mean_step=1.0",), TARGET),
    ("any_delays", "concurrency, limit)),", ("concurrency, None)),",), TARGET),
]  # fmt: skip


@parametrised(MUTANTS)
def test_a_wrong_constant_is_noticed(function, old, new, check):
    catches(check, delay_adaptive, mutated(delay_adaptive, function, old, new))
