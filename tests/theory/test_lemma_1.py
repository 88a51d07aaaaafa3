"""The constants of a trace: Lemma 1 round by round, and steps that have a guarantee."""

import functools

import derivation
import known_problems as known
import numpy as np
import optax
import pytest
from mutations import mutated
from test_mutants import catches

from abs_dssp import delays, policies, replay, simulate, theory
from abs_dssp.theory import lemma_1, target

N = 6
EQUAL_STEPS = [
    "asp()", "k_async(k=4)", "k_batch_async(k=4)", "abs(k0=2,a=50,tau_max=3)",
    "ssp(s=1)", "switch(asp(),bsp(),at=60)", "switch(bsp(),asp(),at=30)",
    "weighted(k_async(k=3),inverse())",
]  # fmt: skip
VARYING_STEPS = [
    "weighted(k_async(k=3),polynomial(a=0.5))", "switch(asp(),bsp(),at=60)",
    "weighted(asp(),mishchenko(concurrency=6))", "abs_dssp(noise=8)",
]  # fmt: skip
TRACES = [(text, "mean") for text in EQUAL_STEPS]
TRACES += [(text, "sum") for text in VARYING_STEPS]


@functools.cache
def scheduled(text: str, pushes=240):
    speed = delays.exponential([1.0] * (N - 1) + [9.0])
    return simulate.schedule(known.policy(text, N), speed, pushes)


def rounds_of(trace, aggregate) -> tuple[derivation.Rounds, np.ndarray]:
    """Pushes by round, read off row by row, and each round's step."""
    rounds, steps, pushes = [], [], []
    for weight, tau, committed in zip(
        trace.weight, trace.staleness, trace.committed, strict=True
    ):
        if weight > 0:
            pushes.append((float(weight), int(tau)))
        if committed:
            total = sum(weight for weight, _ in pushes)
            rounds.append([(weight / total, tau) for weight, tau in pushes])
            steps.append(total if aggregate == "sum" else 1.0)
            pushes = []
    return rounds, np.array(steps)


def the_constants_are_those_of_the_proof(modules):
    """Bound and step condition, for each trace, against derivation.py."""
    gap, variance = 3.0, 4.0
    for text, aggregate in TRACES:
        trace = scheduled(text)
        schedule = modules.schedule_of(trace, aggregate)
        rounds, relative = rounds_of(trace, aggregate)
        largest = float(schedule.largest_step(1.0))
        steps = largest * relative / relative.mean()
        derived = derivation.theorem_a(rounds, steps, gap, variance)
        bound = theory.theorem_a(
            gap, 1.0, variance, largest, len(rounds), kappa_1=schedule.kappa_1,
            tau_bar=schedule.stale_noise,
        )  # fmt: skip
        assert float(bound) == pytest.approx(derived.bound / steps.sum(), rel=1e-5)
        assert (derived.slack / steps).min() == pytest.approx(0, abs=1e-5)


def test_the_constants_are_those_of_the_proof():
    the_constants_are_those_of_the_proof(theory)


@pytest.mark.parametrize("text", EQUAL_STEPS)
def test_a_trace_keeps_to_lemma_1(text):
    """Its constants hold for every round, and are below what its rule promises."""
    trace = scheduled(text)
    found = theory.schedule_of(trace)
    assert found.square <= found.tau_max * found.tau_bar * (1 + 1e-9)
    assert found.stale_noise <= found.tau_bar / found.k_min * (1 + 1e-9)
    assert theory.measured_scale(trace) == pytest.approx(float(found.scale), rel=1e-6)
    assert found.kappa_1 == pytest.approx(theory.kappa_1(trace))
    if "switch" in text or "weighted" in text:
        return  # nothing is promised, or of numbers only
    promise = theory.promise(text, N)
    lemma = theory.tau_bar(promise.tau_max, N, promise.k_min, promise.batch)
    assert found.tau_bar <= float(lemma) * (1 + 1e-6)
    assert found.k_min >= promise.k_min * (1 - 1e-9)


def test_one_push_that_is_much_staler_costs_little():
    """A straggler's staleness counts once, not for every push: S^2 is far below
    tau_max tau_bar, and Theorem A's step five times longer."""
    n = 32
    trace = simulate.schedule(
        policies.asp(n), delays.constant([1.0] * (n - 1) + [100.0]), 12_000
    )
    found = theory.schedule_of(trace)
    late = found.tau_max  # while the others push 100 times each
    assert late == pytest.approx(100 * (n - 1), abs=n)
    others = (n - 2) * (n - 1) + late  # n - 2 others, n - 2 stale and one more at times
    assert found.square == pytest.approx(others, rel=0.02)
    former = theory.largest_step_a(1.0, theory.staleness_scale(late, n - 1.0))
    assert float(found.largest_step(1.0)) > 4 * float(former)


@functools.cache
def stale_at_first():
    """16,500 commits, of which the first 1500 are 31 versions stale."""
    n, rule = 32, "switch(asp(),bsp(),at=1500)"
    trace = simulate.schedule(
        policies.parse(rule, n), delays.constant(1.0, n), 1500 + 15_001 * n
    )
    return known.first_rounds(trace, 16_500)


def descend(trace, step: float) -> float:
    """Mean over rounds of |grad F(w^t)|^2 of w^2 / 2 from w = 1, without noise."""
    rounds = np.cumsum(trace.committed) - trace.committed
    begins = np.searchsorted(rounds, np.arange(trace.commits + 1))
    w = np.ones(trace.commits + 1)
    with np.errstate(over="ignore"):
        for t, (low, high) in enumerate(zip(begins[:-1], begins[1:], strict=True)):
            w[t + 1] = w[t] - step * np.mean(w[trace.pulled[low:high]])
        return float(np.mean(w[:-1] ** 2))


def holds_where_only_the_start_is_stale(modules):
    """The mean staleness is 2.8, but 1500 rounds at the step which that suggests are
    enough to diverge: 0.073, where a delay of 31 is stable up to 0.0499."""
    trace = stale_at_first()
    schedule = modules.schedule_of(trace)
    step = float(modules.target_step(1.0, 0.0, 1.0, schedule))
    bound = theory.theorem_a(0.5, 1.0, 0.0, step, trace.commits, kappa_1=1.0)
    assert descend(trace, step) <= float(bound)


def test_a_mean_staleness_is_no_bound_for_every_round():
    trace = stale_at_first()
    mean = theory.measured_tau_bar(trace)
    assert mean == pytest.approx(2.79, abs=0.01)
    former = float(theory.largest_step_a(1.0, theory.staleness_scale(31.0, mean)))
    assert former == pytest.approx(0.0732, abs=1e-4)
    assert former > float(theory.delay_stability_limit(31))
    assert descend(trace, former) > 1e8
    assert theory.measured_scale(trace) == 31.0
    holds_where_only_the_start_is_stale(theory)


@pytest.mark.parametrize(
    "text", ["weighted(asp(),mishchenko(concurrency=6))", "abs_dssp(noise=8)"]
)
def test_the_weighted_theorem_holds(text):
    """Steps in proportion to the weights of a commit, at the largest that is allowed;
    the mean over rounds is weighted by them too."""
    variance, seeds = 4.0, 16
    trace = scheduled(text, 4000)
    trace = known.first_rounds(trace, trace.commits)
    schedule = theory.schedule_of(trace, "sum")
    step = float(schedule.largest_step(1.0))
    _, weights = rounds_of(trace, "sum")
    rate = step / weights.mean()
    runs = [known.Run(problem, rate) for problem in known.PROBLEMS.values()]
    task = known.task(runs, trace, variance, seeds, 0)
    made = replay.trajectory(task, optax.sgd(rate), trace, aggregate="sum").params
    for run, w in zip(runs, np.moveaxis(np.asarray(made), 1, 0), strict=True):
        squares = np.sum(run.problem.slope(w[:-1].astype(float)) ** 2, axis=2)
        means = np.average(squares, axis=0, weights=weights)
        error = means.std(ddof=1) / seeds**0.5
        bound = theory.theorem_a(
            run.problem.gap, 1.0, variance, step, len(weights),
            kappa_1=schedule.kappa_1, tau_bar=schedule.stale_noise,
        )  # fmt: skip
        assert means.mean() - 4 * error <= float(bound)
        loosest = 3.2 if run.problem.equal else 22
        assert float(bound) <= loosest * (means.mean() + 4 * error)


def test_steps_that_fall_with_the_delay_need_no_bound_on_it():
    """Weights M / max(M, tau): S^2 is at most M (N - 1), of the largest step."""
    trace = scheduled(f"weighted(asp(),mishchenko(concurrency={N}))")
    found = theory.schedule_of(trace, "sum")
    assert found.tau_max > 3 * N
    assert found.square == pytest.approx(N * (N - 1), rel=1e-5)  # attained


def test_what_columns_refuse():
    trace = scheduled("asp()")
    with pytest.raises(ValueError, match="'median'"):
        theory.columns(trace, "median")
    with pytest.raises(ValueError, match="no commit"):
        theory.columns(trace[:0])


PROOF = the_constants_are_those_of_the_proof
START = holds_where_only_the_start_is_stale

# Module, function, its text, what takes its place, and the check that notices.
MUTANTS = [
    (lemma_1, "columns", "step[t] * share * tau",
     ("share * tau", "step[t] * share", "step[t] * tau", "0.8 * step[t] * share * tau",
      "1.2 * step[t] * share * tau"), PROOF),
    (lemma_1, "columns", "step * np", ("np", "0.8 * step * np"), PROOF),
    (lemma_1, "columns", "step**2 * kappa", ("step * kappa", "step**2"), PROOF),
    (lemma_1, "columns", "share**2", ("share",), PROOF),
    (lemma_1, "columns", "total / total.max()", ("total",), PROOF),
    (target, "schedule_of", "2 * step * found.delayed[moved]",
     ("2 * found.delayed[moved]", "1.6 * step * found.delayed[moved]",
      "2 * step * found.delayed[moved].mean()"), PROOF),
    (target, "schedule_of", "found.delayed[moved]",
     ("found.delayed[moved].mean()",), START),
    (target, "schedule_of", "(linear +", ("(1 +", "(0.8 * linear +"), PROOF),
    (target, "schedule_of", "linear**2 + 4 *", ("linear**2 + 3.2 *",), PROOF),
    (target, "schedule_of", "(2 * longest**2)",
     ("(1.6 * longest**2)", "(2.4 * longest**2)"), PROOF),
    (target, "schedule_of", "step**2 * kappa", ("kappa", "0.8 * step**2 * kappa"),
     PROOF),
    (target, "schedule_of", "/ mean**2", ("", "/ mean"), PROOF),
    (target, "schedule_of", "/ mean**3", ("", "/ mean**2"), PROOF),
    (target, "schedule_of", "mean_step=mean", ("mean_step=1.0",), PROOF),
    (target, "largest_step", "self.mean_step *", ("",), PROOF),
    (target, "stale_noise", "else self.noise", ("else self.tau_bar",), PROOF),
    (target, "scale", "jnp.minimum", ("jnp.maximum",), PROOF),
]  # fmt: skip


def with_columns(module):
    """`target` that reads the columns of a changed lemma_1."""
    made = mutated(target, "schedule_of", "found = columns", "found = columns")
    made.__dict__["columns"] = module.columns
    return made


@pytest.mark.parametrize(
    ("module", "function", "old", "new", "check"),
    [(*row[:3], new, row[4]) for row in MUTANTS for new in row[3]],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_wrong_sum_is_noticed(module, function, old, new, check):
    mutant = mutated(module, function, old, new)
    catches(check, theory, with_columns(mutant) if module is lemma_1 else mutant)
