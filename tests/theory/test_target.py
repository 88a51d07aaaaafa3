"""Theorem A turned round, and the constants that a trace really had."""

import jax
import numpy as np
import pytest

from abs_dssp import delays, policies, simulate, theory


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("tau", [0.0, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("variance", [0.01, 3.0, 500.0])
def test_the_step_uses_up_the_target_and_no_more(tau, variance):
    """At T = 4 gap / (eta eps) the bound is eps, unless the step may not be longer."""
    smoothness, gap, target, k = 3.0, 5.0, 0.7, 4.0
    schedule = theory.Schedule(1 / k, tau, tau / 2, k)
    step = float(theory.target_step(smoothness, variance, target, schedule))
    rounds = float(theory.target_commits(gap, step, target))
    bound = theory.theorem_a(
        gap, smoothness, variance, step, rounds, kappa_1=1 / k, tau_bar=tau / 2, k_min=k
    )
    longest = float(theory.largest_step_a(smoothness, np.sqrt(tau * tau / 2)))
    assert step <= longest * (1 + 1e-9)
    if step < longest * (1 - 1e-9):
        assert float(bound) == pytest.approx(target)
    else:
        assert float(bound) <= target * (1 + 1e-9)


def test_the_constants_of_a_trace():
    trace = simulate.schedule(
        policies.k_async(6, k=2), delays.exponential(1.0, num_workers=6), 4000
    )
    found = theory.schedule_of(trace)
    assert (found.kappa_1, found.k_min) == (0.5, 2.0)
    assert found.tau_bar == pytest.approx(2.0, abs=0.1)  # N / K - 1
    assert found.tau_max == trace.staleness.max()
