"""Every coefficient of Theorems A and B and of their step conditions can be missed.

Three kinds of checks. Runs on which a term is attained: the start and the noise of A to
1 %. Runs on which a term is too much to be without: the staleness of A, the drift of B.
And the proofs' steps added up again (derivation.py), which give every coefficient
exactly. The last is all that there is for what is loose by nature: no run is known on
which A's stale term is attained by more than half, nor any that needs B's stale term or
its 1 + 4 eta U L, and at a step of at most 1 / (4 L U) even B's start is 1.75 times
what a quadratic does.
"""

import functools

import derivation
import known_problems as known
import numpy as np
import pytest
from mutations import mutated, parametrised
from test_mutants import catches

from abs_dssp import delays, policies, simulate, theory
from abs_dssp.theory import convergence

VARIANCE = 4.0
AT_ITS_OPTIMUM = known.EQUAL._replace(start=0.0, gap=0.0)


# Runs on which a term is attained.


@functools.cache
def fresh_runs():
    """Four workers in lockstep at the step 1 / L, without noise and with it.

    A step then leads to the optimum of (1/2) w^2, but for the noise of that step: the
    mean of ||w^t||^2 is 2 gap / T without noise and V / K with it.
    """
    trace = simulate.schedule(policies.bsp(4), delays.constant(1.0, 4), 4000)
    runs = [known.Run(known.EQUAL, 1.0, 0.0), known.Run(AT_ITS_OPTIMUM, 1.0)]
    return trace, runs, known.measure(runs, trace, VARIANCE)


def attained_by_fresh_runs(theorems):
    """Also beyond it: no step longer than 1 / L has this bound."""
    trace, runs, found = fresh_runs()
    for run, measured in zip(runs, found, strict=True):
        bound = theorems.theorem_a(
            run.problem.gap, 1.0, run.noise * VARIANCE, run.step, trace.commits,
            kappa_1=theory.kappa_1(trace),
        )  # fmt: skip
        assert float(bound) == pytest.approx(measured.mean, rel=0.01)


def no_longer_than_a_quadratic_allows(theorems):
    """eta sum ||w^t||^2 is 2 gap / (2 - eta L), so the bound ends at eta L = 1."""
    longest = float(theorems.largest_step_a(1.0, staleness_scale=0.0))
    assert 1 / (2 - longest) == pytest.approx(1, rel=1e-6)


DELAY = 8


def stationary(step: float, delay: int) -> float:
    """Mean square of w <- w - step (w^{t - delay} + n), n of variance 1."""
    response = np.zeros(100 * (delay + 1))
    response[: delay + 1] = step
    for t in range(delay + 1, len(response)):
        response[t] = response[t - 1] - step * response[t - 1 - delay]
    return float(np.sum(response**2))


@functools.cache
def delayed_run():
    """Equal workers under ASP, from the optimum: noise and staleness alone."""
    workers = DELAY + 1
    trace = simulate.schedule(
        policies.asp(workers), delays.constant(1.0, workers), 6000
    )
    step = float(theory.target_step(1.0, 0.0, 1.0, theory.schedule_of(trace)))
    run = known.Run(AT_ITS_OPTIMUM, step)
    (found,) = known.measure([run], trace, VARIANCE)
    return trace, run, found


def holds_for_a_constant_delay(theorems):
    trace, run, measured = delayed_run()
    bound = float(
        theorems.theorem_a(
            0.0, 1.0, VARIANCE, run.step, trace.commits, kappa_1=1.0,
            tau_bar=theory.schedule_of(trace).stale_noise,
        )
    )  # fmt: skip
    exact = VARIANCE * stationary(run.step, DELAY)
    assert measured.mean == pytest.approx(exact, rel=0.02)
    assert exact <= bound <= 2.4 * exact


def test_a_constant_delay_is_exact_and_needs_the_stale_term():
    """Bound over exact value at the largest step; then without the stale term."""
    holds_for_a_constant_delay(convergence)
    ratios, without = [], []
    for tau in (1, 2, 4, 8, 16, 32):
        step = float(theory.largest_step_a(1.0, float(tau)))
        exact, terms = stationary(step, tau), (step, 2 * step**2 * tau)
        ratios.append(sum(terms) / exact)
        without.append(terms[0] / exact)
    assert 1.6 < min(ratios) and max(ratios) < 2.4
    assert max(without) < 0.95


@functools.cache
def drifting_run(workers=512, rounds=200):
    """U = 2 and a slope |w| - a, at which the bias of a noisy local step is greatest.

    The noise is +-1, so half of the second gradients are taken at either side of the
    kink, where the slope is positive, and the first ones in it, where it is negative.
    They balance at a w that is not stationary. 512 workers average the noise away and
    leave the bias.
    """
    step = 0.125  # largest_step_b for L = 1, U = 2
    a = 0.65 * step
    start = 2 * a - step  # where the two gradients would balance without server noise
    w = np.full(64, start)
    generator = np.random.default_rng(0)

    def slope(w):
        return np.where(w < -a, w + a, np.abs(w) - a)  # bounded below: F is least at a

    squares = []
    for _ in range(rounds):
        squares.append(np.mean(slope(w) ** 2))
        local, pushed = np.repeat(w[:, None], workers, axis=1), 0.0
        for _ in range(2):
            gradient = slope(local) + generator.choice([-1.0, 1.0], local.shape)
            local, pushed = local - step * gradient, pushed + gradient
        w = w - step * np.mean(pushed, axis=1)
    return step, (start - a) ** 2 / 2, float(np.mean(squares)), rounds


def holds_where_local_steps_drift(theorems):
    step, gap, measured, rounds = drifting_run()
    bound = theorems.theorem_b(
        gap, 1.0, 1.0, step, rounds, kappa_1=1 / 512, local_steps=2
    )
    assert measured <= float(bound)


# The proofs' steps, added up again.

L = 2.0  # derived for 1: F / L has the gap gap / L, the noise V / L^2, and steps eta L


def a_is_derived(theorems):
    gap, rounds = 3.0, 12
    for tau, share, step in ((0, 1.0, 0.5), (3, 1.0, 0.1), (2, 0.25, 0.2)):
        schedule = derivation.constant_delay(tau, rounds, share)
        derived = derivation.theorem_a(schedule, [step] * rounds, gap / L, VARIANCE / 4)
        mean = np.mean([t for pushes in schedule for _, t in pushes])
        bound = theorems.theorem_a(
            gap, L, VARIANCE, step / L, rounds, kappa_1=share, tau_bar=mean,
            k_min=1 / share,
        )  # fmt: skip
        assert float(bound) == pytest.approx(L**2 * derived.bound / (step * rounds))


def a_ends_where_its_proof_does(theorems):
    """At the largest step the coefficient of one ||G_s||^2 comes to 0."""
    for tau in (0, 1, 3, 8):
        scale = theorems.staleness_scale(float(tau), float(tau))
        step = L * float(theorems.largest_step_a(L, scale))
        schedule = derivation.constant_delay(tau, 4 * tau + 2)
        slack = derivation.theorem_a(schedule, [step] * len(schedule), 1.0, 1.0).slack
        assert slack.min() == pytest.approx(0, abs=1e-6)


def b_settings():
    for tau, share in ((0, 1.0), (3, 1.0), (2, 0.25)):
        for local_steps in (1, 2, 5):
            for ratio in (1.0, 0.5):  # gamma over eta
                scale = theory.staleness_scale(float(tau), float(tau))
                step = float(theory.largest_step_b(1.0, scale, local_steps))
                yield tau, share, local_steps, step, ratio * step


def b_is_derived(theorems):
    gap, rounds = 3.0, 12
    for tau, share, local_steps, step, local_step in b_settings():
        schedule = derivation.constant_delay(tau, rounds, share)
        derived = derivation.theorem_b(
            schedule, step, local_steps, local_step, gap / L, VARIANCE / 4
        )
        assert derived.slack.min() > 0
        mean = np.mean([t for pushes in schedule for _, t in pushes])
        given = {"kappa_1": share, "tau_bar": mean, "k_min": 1 / share}
        given |= {"local_steps": local_steps, "local_step": local_step / L}
        bound = theorems.theorem_b(gap, L, VARIANCE, step / L, rounds, **given)
        assert float(bound) == pytest.approx(L**2 * derived.bound / (step * rounds))


# One term at a time is made to outweigh the others.
TERMS = {
    "start": (1.0, 0.0, {"kappa_1": 0.0}),
    "noise": (0.0, 1.0, {"kappa_1": 1e6}),
    "stale": (0.0, 1.0, {"kappa_1": 0.0, "tau_bar": 1e6}),
    "drift": (0.0, 1.0, {"kappa_1": 0.0}),
}


def the_second_bound_of_b_is_the_first_at_its_worst(theorems):
    """Never below it, and equal at the largest step for U to infinity, S = 0."""
    for local_steps in (1, 2, 1000):
        edge = theorems.largest_step_b(L, staleness_scale=0.0, local_steps=local_steps)
        for step in (edge, edge / 3):
            for gap, variance, given in TERMS.values():
                both = [
                    float(
                        bound(gap, L, variance, step, 1, local_steps=local_steps,
                              **given)
                    )
                    for bound in (theorems.theorem_b, theorems.theorem_b_simple)
                ]  # fmt: skip
                assert both[0] <= both[1] * (1 + 1e-6)
                if local_steps == 1000 and step == edge:
                    assert both[1] == pytest.approx(both[0], rel=0.005)


def staleness_shortens_the_step_of_b(theorems):
    """As stated; the proof has a slack of 1/6 left, so it is not a sharp condition."""
    for scale in (1.0, 7.0):
        step = float(theorems.largest_step_b(L, scale, 3))
        assert step * L * 3 * (1 + scale) == pytest.approx(0.25)


def the_corollary_begins_where_its_proof_does(theorems):
    """At T_0 the tightest of three demands is met exactly: on the step, on the stale
    term and on the drift, which may be L c V / sqrt(T K U) each."""
    c, variance = 0.7, 3.0
    for k, tau_bar, scale in ((2.0, 0.5, 6.0), (2.0, 9.0, 1.0), (40.0, 1.0, 1.0)):
        u = 500
        rounds = float(
            theorems.corollary_threshold(
                c, L, k, local_steps=u, staleness_scale=scale, tau_bar=tau_bar
            )
        )
        step = float(theorems.corollary_step(c, k, rounds, u))
        assert step == pytest.approx(c * (k / (rounds * u)) ** 0.5)
        share = L * c * variance / (rounds * k * u) ** 0.5
        stale, drift = (
            theorems.theorem_b_simple(
                0.0, L, variance, step, rounds, kappa_1=0.0, local_steps=steps,
                tau_bar=tau, k_min=k,
            )
            for steps, tau in ((1, tau_bar * u), (u, 0.0))
        )  # fmt: skip
        largest = float(theorems.largest_step_b(L, scale, u))
        demands = step / largest, float(stale) / share, float(drift) / share
        assert max(demands) == pytest.approx(1, rel=0.005)


def the_corollary_is_the_second_bound_at_its_threshold(theorems):
    """Where K = 2 tau_bar and U is large, both of its demands are met exactly."""
    c, k, u = 0.7, 8.0, 500
    given = {"local_steps": u, "tau_bar": k / 2}
    rounds = float(theory.corollary_threshold(c, L, k, **given))
    step = theory.corollary_step(c, k, rounds, u)
    for gap, variance in ((2.0, 0.0), (0.0, 3.0)):
        exact = theory.theorem_b_simple(
            gap, L, variance, step, rounds, kappa_1=1 / k, k_min=k, **given
        )
        found = theorems.corollary(gap, L, variance, rounds, k, c, local_steps=u)
        assert float(found) == pytest.approx(float(exact), rel=0.005)


A, ENDS = a_is_derived, a_ends_where_its_proof_does
B, SECOND = b_is_derived, the_second_bound_of_b_is_the_first_at_its_worst
FRESH, SHORT = attained_by_fresh_runs, staleness_shortens_the_step_of_b
RATE = the_corollary_is_the_second_bound_at_its_threshold
BEGINS = the_corollary_begins_where_its_proof_does

# Function, its text, what takes its place, and the check that notices.
MUTANTS = [
    ("theorem_a", "2 * gap", ("1.6 * gap", "2.4 * gap", "0 * gap"), FRESH),
    ("theorem_a", "2 * gap", ("1.6 * gap", "2.4 * gap"), A),
    ("theorem_a", "noise = s", ("noise = 0.8 * s", "noise = 1.2 * s"), FRESH),
    ("theorem_a", "noise = s", ("noise = 0.8 * s", "noise = 1.2 * s"), A),
    ("theorem_a", "stale = 2", ("stale = 0",), holds_for_a_constant_delay),
    ("theorem_a", "stale = 2", ("stale = 1.6", "stale = 2.4"), A),
    ("theorem_a", "smoothness * step", ("step",), A),
    ("theorem_a", "smoothness**2", ("smoothness",), A),
    ("theorem_a", "tau_bar / k_min", ("tau_bar",), A),
    ("largest_step_a", "8 * s2", ("6.4 * s2", "9.6 * s2"), ENDS),
    ("largest_step_a", "4 * s2", ("3.2 * s2", "4.8 * s2"), ENDS),
    ("largest_step_a", "root, 1.0", ("root, 1.2", "root, 0.8"), ENDS),
    ("largest_step_a", "root, 1.0", ("root, 1.2", "root, 0.8"),
     no_longer_than_a_quadratic_allows),
    ("largest_step_a", "/ smoothness", ("",), ENDS),
    ("staleness_scale", "tau_max * tau_bar", ("tau_max", "0.64 * tau_max * tau_bar",
                                              "1.44 * tau_max * tau_bar"), ENDS),
    ("theorem_b", "q = 4", ("q = 3.2", "q = 4.8", "q = 0"), B),
    ("theorem_b", "u * (u - 1)", ("u * u", "(u - 1)"), B),
    ("theorem_b", "rho = q / (1 - q)", ("rho = q", "rho = 0 * q"), B),
    ("theorem_b", "2 * gap", ("1.6 * gap", "2.4 * gap"), B),
    ("theorem_b", "noise = s", ("noise = 0.8 * s", "noise = 1.2 * s"), B),
    ("theorem_b", "(1 + 4 *", ("(1 + 3.2 *", "(1 + 4.8 *", "(1 + 0 *"), B),
    ("theorem_b", "stale = 4", ("stale = 3.2", "stale = 4.8", "stale = 0"), B),
    ("theorem_b", "((1 - q) * k_min)", ("k_min", "(1 - q)"), B),
    ("theorem_b", "step**2 * u", ("step**2",), B),
    ("theorem_b", "drift = 2", ("drift = 0",), holds_where_local_steps_drift),
    ("theorem_b", "drift = 2", ("drift = 1.6", "drift = 2.4"), B),
    ("theorem_b", "* (u - 1) * variance / (1 - q)",
     ("* u * variance / (1 - q)", "* (u - 1) * variance"), B),
    ("theorem_b", "drift = 2 * gamma", ("drift = 2 * step",), B),
    ("theorem_b", "drift) / (1 - rho)", ("drift)",), B),
    ("theorem_b_simple", "3 * gap", ("2.4 * gap", "3.6 * gap"), SECOND),
    ("theorem_b_simple", "3 * smoothness",
     ("2.4 * smoothness", "3.6 * smoothness"), SECOND),
    ("theorem_b_simple", "8 * smoothness",
     ("6.4 * smoothness", "9.6 * smoothness"), SECOND),
    ("theorem_b_simple", "drift = 4", ("drift = 3.2", "drift = 4.8"), SECOND),
    ("largest_step_b", "0.25", ("0.2", "0.3"), SECOND),
    ("largest_step_b", "(1 + s", ("(1 + 0.8 * s", "(1 + 1.2 * s", "(0.8 + s"), SHORT),
    ("largest_step_b", "local_steps *", ("",), SHORT),
    ("corollary_step", "c *", ("0.8 * c *", "1.2 * c *"), BEGINS),
    ("corollary_step", "(rounds * local_steps)", ("rounds",), BEGINS),
    ("corollary_threshold", "16 *", ("12.8 *", "19.2 *"), BEGINS),
    ("corollary_threshold", "(1 + staleness_scale)",
     ("(1 + 0.8 * staleness_scale)", "(0.2 + staleness_scale)"), BEGINS),
    ("corollary_threshold", "4 * tau_bar", ("3.2 * tau_bar", "4.8 * tau_bar"), BEGINS),
    ("corollary_threshold", "k**2", ("0.8 * k**2", "1.2 * k**2"), BEGINS),
    ("corollary_threshold", "c**2", ("c",), BEGINS),
    ("corollary_threshold", "smoothness**2", ("smoothness",), BEGINS),
    ("corollary", "3 * gap", ("2.4 * gap", "3.6 * gap"), RATE),
    ("corollary", "5 * smoothness", ("4 * smoothness", "6 * smoothness"), RATE),
    ("corollary", "rounds * k", ("rounds",), RATE),
]  # fmt: skip


@parametrised(MUTANTS)
def test_a_wrong_coefficient_is_noticed(function, old, new, check):
    catches(check, convergence, mutated(convergence, function, old, new))
