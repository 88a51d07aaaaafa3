"""What the recommended steps rest on."""

import re

import numpy as np
import optax
import pytest
from theory.derivation import theorem_a as proof_of_a

from abs_dssp import delays, policies, replay, simulate, tasks, theory
from abs_dssp.experiment import methods

N, RATIO = 6, 8.0
BY_LABEL = {method.label: method for method in methods.recommended(N, RATIO)}
UNEVEN = delays.exponential([1.0] * (N - 1) + [30.0])


def scheduled(method, pushes=600):
    return simulate.schedule(policies.parse(method.text, N), UNEVEN, pushes)


@pytest.mark.parametrize("ratio", [0.01, 8.0, 300.0])
@pytest.mark.parametrize("name", ["ASP, Mishchenko", "ASP, Koloskova"])
def test_steps_that_fall_with_the_delay_are_chosen_without_a_trace(name, ratio):
    """Theorem D's, where the optimizer has the step of a push of weight 1; the proof's
    condition holds in every round of a schedule that was not asked."""
    (method,) = (m for m in methods.recommended(N, ratio) if m.label == name)
    trace = scheduled(method)
    found = method.step(trace, 1.0, ratio, 1.0)
    assert found == method.step(trace[:10], 1.0, ratio, 1.0)
    assert method.basis == methods.ANY_SCHEDULE
    eta = found.learning_rate
    assert trace.weight.mean() * eta >= found.effective * (1 - 1e-6)
    rounds = [[(1.0, tau)] for tau in trace.staleness]
    derived = proof_of_a(rounds, eta * trace.weight, 1.0, ratio)
    assert derived.slack.min() >= -1e-5 * eta
    # Start and noise have half of the target each.
    commits = theory.target_commits(1.0, found.effective, 1.0)
    start = proof_of_a(rounds, eta * trace.weight, 1.0, 0.0).bound
    noise = (derived.bound - start) / (eta * trace.weight.sum())
    assert noise <= 0.5 + 1e-5
    assert start / (commits * found.effective) <= 0.5 + 1e-5


@pytest.mark.parametrize("ratio", [0.01, 8.0, 300.0])
def test_koloskovas_limit_is_that_of_its_own_step(ratio):
    """min(eta, 1 / (4 L tau)), also where noise makes the step short: then the limit is
    above the concurrency, and the rule is not Mishchenko's."""
    (method,) = (m for m in methods.recommended(N, ratio) if "Koloskova" in m.label)
    limit = float(re.search(r"limit=([\d.]+)", method.text)[1])
    assert (limit > N) == (ratio > 100)
    eta = method.step(scheduled(method, 20), 1.0, ratio, 1.0).learning_rate
    assert limit == pytest.approx(1 / (4 * eta), rel=1e-3)  # four digits


def test_malenias_constants_are_those_of_the_proof():
    """Shares of 1 / (N B_i), nothing stale: its noise is the sum of their squares."""
    (method,) = (m for name, m in BY_LABEL.items() if name.startswith("Malenia"))
    trace = scheduled(method)
    rounds, workers = [], []
    for worker, staleness, accepted, committed in zip(
        trace.worker, trace.staleness, trace.accepted, trace.committed, strict=True
    ):
        if accepted:
            assert staleness == 0
            workers.append(int(worker))
        if committed:
            assert set(workers) == set(
                range(N)
            )  # or the mean would not be all workers'
            shares = [1 / (N * workers.count(worker)) for worker in workers]
            assert sum(shares) == pytest.approx(1)
            rounds.append([(share, 0) for share in shares])
            workers = []
    step, variance = 0.5, 3.0
    derived = proof_of_a(rounds, [step] * len(rounds), 0.0, variance)
    schedule = method.step(trace, 1.0, RATIO, 1.0).schedule
    bound = theory.theorem_a(
        0.0, 1.0, variance, step, len(rounds), kappa_1=schedule.kappa_1,
        tau_bar=schedule.stale_noise,
    )  # fmt: skip
    assert float(bound) == pytest.approx(derived.bound / (step * len(rounds)))
    assert float(schedule.largest_step(1.0)) == 1.0


def test_malenias_bound_holds_for_data_that_differ():
    """It is the mean over workers; ASP's fails, pulled to the fast ones.

    At the step 1 / L the bound is attained: every version but the first is the noise of
    one commit, whose mean square over T commits and d coordinates has a relative
    deviation of sqrt(2 / (d T)).
    """
    dim, variance = 40, 4.0
    task = tasks.quadratic(N, dim=dim, noise=variance, heterogeneity=3.0)
    malenia = f"Malenia, S = {int(RATIO)}"
    over = {}
    for label in (malenia, "ASP"):
        method = BY_LABEL[label]
        trace = scheduled(method, 8000)
        trace = trace[: int(np.flatnonzero(trace.committed)[-1]) + 1]
        schedule = method.step(trace, 1.0, RATIO, 1.0).schedule
        step = float(schedule.largest_step(1.0))
        made = replay.trajectory(
            task, optax.sgd(step), trace, aggregate=method.aggregate
        ).params
        mean = np.mean(np.sum(np.asarray(made[:-1], float) ** 2, axis=1))
        bound = theory.theorem_a(
            dim / 2, 1.0, variance, step, trace.commits, kappa_1=schedule.kappa_1,
            tau_bar=schedule.stale_noise,
        )  # fmt: skip
        over[label] = mean / float(bound)
        if label == malenia:
            deviation = (2 / (dim * trace.commits)) ** 0.5
            assert over[label] == pytest.approx(1, abs=4 * deviation)
            assert deviation < 0.05
    assert over["ASP"] > 5


def test_fedasync_has_its_traces_constants():
    method = BY_LABEL["FedAsync"]
    trace = scheduled(method)
    found = method.step(trace, 1.0, 0.01, 1.0)
    assert found.schedule == theory.schedule_of(trace, "sum")
    steps = found.learning_rate * trace.weight
    rounds = [[(1.0, tau)] for tau in trace.staleness]
    derived = proof_of_a(rounds, steps, 1.0, 0.01)
    assert (derived.slack / np.maximum(steps, 1e-9)).min() >= -1e-5


def test_guesses_are_called_guesses():
    assert {m.label for m in BY_LABEL.values() if m.basis == methods.GUESS} == {
        "AdaSync, K0 = 1", "Ringleader",
    }  # fmt: skip
