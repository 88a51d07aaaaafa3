"""Time to a target: what can be said by hand, or by a slower program."""

import dataclasses
import json
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from abs_dssp import delays, tasks
from abs_dssp.experiment import methods
from abs_dssp.experiment.optimality import comparison, measure, problems, regimes
from abs_dssp.policies import rounds

BSP = methods.Method("BSP", "bsp()")
LIMITS = measure.Limits(num_workers=2, seeds=2, max_pushes=2000)


def unequal() -> regimes.Regime:
    times = np.array([1.0, 4.0])
    return regimes.Regime("unequal", lambda n: delays.constant(times), lambda n: times)


@pytest.fixture(scope="module")
def round_bowl() -> problems.Problem:
    """All curvatures are 1 and there is next to no noise: one step 1 / L is enough."""

    def make(n):
        return tasks.quadratic(n, dim=3, noise=1e-12)

    return problems._problem("a bowl", make, ratio=1e-9, target=1e-3)


@hypothesis.given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.integers(0, 5))
@hypothesis.settings(deadline=None)
def test_when_a_target_is_reached_first_and_for_good(values, apart):
    version = np.cumsum(np.arange(len(values)) % (apart + 1) + 1)
    at = 0.5 * version
    first, sustained = measure.reached(version, at, np.array(values), target=1.0)
    dips = [t for t, value in zip(at, values, strict=True) if value <= 1]
    assert first == min(dips, default=math.inf)
    lasting = []
    for v, t in zip(version, at, strict=True):
        window = [x for x, u in zip(values, version, strict=True) if 0.8 * v < u <= v]
        lasting += [t] if sum(window) <= len(window) * (1 + 1e-12) else []
    assert sustained == min(lasting, default=math.inf)


def test_the_window_begins_after_four_fifths():
    version = np.arange(1, 6)
    values = np.array([9.0, 9.0, 9.0, 9.0, 1.0])  # the fourth of five is outside
    first, sustained = measure.reached(version, version * 1.0, values, target=1.0)
    assert first == sustained == 5.0


def test_the_best_step_may_be_that_of_the_theory():
    slow, quick = (measure.Times((t,), (t,)) for t in (8.0, 3.0))
    rest = (1.0, False, True)
    made = measure.Outcome(1.0, quick, *rest, slow, 1.0, 1.0, 0.0, 1)
    assert made.at("best") == made.at("recommended") == quick
    made = measure.Outcome(1.0, slow, *rest, quick, 1.0, 1.0, 0.0, 1)
    assert made.at("best") == quick and made.at("recommended") == slow


def test_a_run_that_diverged_does_not_reach_anything():
    values = np.array([[1.0, np.inf, np.nan, 0.0], [2.0, 0.5, 0.5, 0.5]])
    version = np.array([10, 20, 30, 40])
    first, sustained = measure.reached(version, version * 1.0, values, target=0.9)
    assert first.tolist() == [40.0, 20.0] and sustained.tolist() == [40.0, 20.0]


@pytest.mark.parametrize("peak", [1e3, 1e12, 1e20, np.inf])
def test_a_peak_that_is_over_is_not_in_the_mean(peak):
    version = np.arange(1.0, 31.0)
    values = np.where(version < 4, peak, np.where(version < 20, 5.0, 0.5))
    first, sustained = measure.reached(version, version, values, target=1.0)
    # The last fifth of 24 commits are the five from the 20th on, of 23 there is a 5.
    assert (first, sustained) == (20.0, 24.0)


def test_lockstep_takes_what_its_slowest_worker_takes(round_bowl):
    made = measure.compete(BSP, unequal(), round_bowl, LIMITS)
    assert made.step == pytest.approx(1.0) and made.best_step == 1.0
    assert made.inside and not made.falls and made.tau_max == 0
    for times in (made.recommended, made.best):
        assert times.first == times.sustained == (4.0, 4.0)


def test_workers_of_a_regime_may_die(round_bowl):
    """Nobody waits any more for the one that takes 4 s."""
    gone = dataclasses.replace(unequal(), absences="given([(1, 0.5, None)])")
    made = measure.compete(BSP, gone, round_bowl, LIMITS)
    assert made.best.first == (1.0, 1.0)


def test_a_stale_rule_needs_a_shorter_step(round_bowl):
    asp = methods.Method("ASP", "asp()")
    made = measure.compete(asp, unequal(), round_bowl, LIMITS)
    assert made.tau_max == 4 and made.step < 0.3
    assert made.best.mean <= made.recommended.mean < math.inf


def test_a_step_falls_as_the_batches_of_abs_dssp_grow():
    """After round t, N (g^t - 1) / (g - 1) pushes, R^t is N / 2 times g^t."""
    n, ratio, growth = 8, 100.0, rounds.GROWTH
    problem = problems.parse(f"strongly_convex:{ratio}", 0, 1e-3)
    rates, peaks, falls = measure._lanes(problem, weight=1.0, size=1.0, n=n)
    rate, peak, fall = rates[-1], peaks[-1], falls[-1]
    assert peak == ratio / (n / 2) and rates[0] == measure.GRID[0]
    assert rate * peak == pytest.approx(measure.GRID[-1])
    for t in range(30):
        pushes = n * (growth**t - 1) / (growth - 1)
        expected = max(1.0, ratio / (n / 2 * growth**t))
        assert max(1.0, peak / (1 + fall * pushes)) == pytest.approx(expected)


def test_runs_go_on_for_three_times_what_the_best_has_needed():
    """Two of another lane's seeds may have been so much faster than the last."""
    enough = measure.Enough(target=1.0)
    ended = []
    for version in range(100):
        value = 0.5 if version >= 20 else 9.0  # of the first lane; the other never
        values = np.array([[value] * 3, [9.0] * 3])
        if enough(version, 1.0 * version, {"gradient_norm_squared": values}):
            ended.append(version)
    means = [np.mean([0.5 if v >= 20 else 9.0 for v in range(1, u + 1) if v > 0.8 * u])
             for u in range(1, 40)]  # fmt: skip
    best = 1 + int(np.argmax(np.array(means) <= 1.0))
    assert 20 < best < 27
    assert ended[0] == next(v for v in range(100) if v % 10 == 9 and v > 3 * best)


def test_ending_early_changes_nothing(monkeypatch):
    """Seeds that share a trace: a lane that is ended could not have been the best."""
    asp = methods.Method("ASP", "asp()")
    problem = problems.parse("strongly_convex:1", 0, 1e-2)
    early = measure.compete(asp, unequal(), problem, LIMITS)
    assert early.best.mean > 10 and early.best.mean < early.recommended.mean
    monkeypatch.setattr(measure, "Enough", lambda target: None)
    assert measure.compete(asp, unequal(), problem, LIMITS) == early


def test_predictions_are_compared_by_rank(round_bowl):
    def outcome(predicted, *measured):
        times = measure.Times(measured, measured)
        return measure.Outcome(
            1.0, times, 1.0, False, True, times, predicted, -predicted, 0.0, 1
        )

    made = [outcome(1.0, 5.0), outcome(3.0, 7.0), outcome(9.0, math.inf)]
    made += [outcome(math.nan, 1.0)]  # not predicted
    names = [methods.Method(label, "asp()") for label in "abcd"]
    table = {(m.label, "unequal"): o for m, o in zip(names, made, strict=True)}
    all_of_them = (round_bowl, LIMITS, names, [unequal()], table)
    made = comparison.Comparison(*all_of_them)
    for which in ("best", "recommended"):
        assert made.rank_correlation("predicted", which) == [1.0]
        assert made.rank_correlation("guessed", which) == [-1.0]
        assert made.followed("predicted", which) == [5.0]  # of the best, 1
        assert made.followed("guessed", which) == [math.inf]


def test_random_times_are_drawn_anew_for_every_seed(round_bowl):
    chance = regimes.Regime(
        "random", lambda n: delays.exponential(1.0, n), np.ones, True
    )
    made = measure.compete(BSP, chance, round_bowl, LIMITS)
    assert made.best.first[0] != made.best.first[1]


def test_outcomes_are_kept_to_the_last_digit(round_bowl, tmp_path, monkeypatch):
    path = tmp_path / "outcomes.jsonl"
    made = comparison.Kept(path).get(BSP, unequal(), round_bowl, LIMITS)
    path.write_text(path.read_text() + '{"cut": o')  # by an interruption
    monkeypatch.setattr(measure, "compete", None)
    assert comparison.Kept(path).get(BSP, unequal(), round_bowl, LIMITS) == made
    published = tmp_path / "report" / "outcomes.jsonl.xz"
    again = comparison.Kept(path)
    again.get(BSP, unequal(), round_bowl, LIMITS)
    again.publish(published)
    elsewhere = comparison.Kept(tmp_path / "other.jsonl", published)
    assert elsewhere.get(BSP, unequal(), round_bowl, LIMITS) == made
    older = json.loads(path.read_text().splitlines()[0]) | {"rules": 0}
    path.write_text(json.dumps(older))
    with pytest.raises(TypeError):  # measured again
        comparison.Kept(path).get(BSP, unequal(), round_bowl, LIMITS)


def test_times_are_what_the_regimes_are_called():
    n = 4
    found = {r.label: delays.table(r.model(n), 6000) for r in regimes.every(n)}
    means = {r.label: r.mean(n) for r in regimes.every(n)}
    assert "Alibaba, job 1" not in found
    for label in ("equal", "sqrt(i)", "i", "one straggler, 100 x"):
        assert (found[label] == means[label][:, None]).all()
    for label in ("alternating", "alternating in threes", "exponential"):
        np.testing.assert_allclose(found[label].mean(axis=1), means[label], rtol=0.1)
    spell = [1, 1, 1, 20, 20, 20]
    assert found["alternating in threes"][0, :6].tolist() == spell
    assert found["alternating in threes"][3, :6].tolist() == spell[::-1]
    assert (found["Markov, common"] == found["Markov, common"][:1]).all()
    assert not (found["Markov"][0] == found["Markov"][1]).all()
    assert means["Markov"][0] == pytest.approx(2 / 3 + 20 / 3)
    assert found["Markov, common"][0, :11].tolist() == [1.0] * 10 + [20.0]


@pytest.mark.parametrize("name", list(problems.KINDS))
def test_a_problem_has_the_noise_that_it_states(name):
    eps, ratio = 1e-3, 5.0
    problem = problems.parse(f"{name}:{ratio}", 50, eps)
    if name != "logistic":  # which rounds to whole batches
        assert problem.variance == pytest.approx(ratio * eps)
    assert problem.variance == pytest.approx(ratio * eps, rel=0.05)
    assert problem.gap > 0 and problem.steps > 1
    assert problem.task(4) is problem.task(4)


def test_workers_with_different_data_pull_apart_by_what_is_stated():
    eps, n = 1e-3, 8
    task = problems.parse("different:1", 0, eps).task(n)
    pulls = np.asarray(task.data["shifts"]) * np.ones(
        (100, 1)
    )  # gradients at the optimum
    assert np.mean(np.sum(pulls**2, axis=0)) == pytest.approx(100 * eps, rel=1e-5)
    assert np.sum(np.mean(pulls, axis=1) ** 2) < 1e-12
