"""Theorem C's coefficients: losses on which it is attained, and counts that give M.

With one worker both of its terms are attained as T grows. With more, a pair of updates
of which neither saw the other costs what the proof says, but the proof counts every
pair twice: losses in lockstep attain 1 + M where it says 1 + 2 M. So M, whose largest
value real schedules attain, is pinned by counting, and its factor 2 is loose by nature.
"""

import functools

import numpy as np
import pytest
from mutations import mutated, parametrised
from test_mutants import catches
from test_regret import Losses, regrets

from abs_dssp import delays, policies, simulate
from abs_dssp.theory import regret

CLOCKS = 10_000
RADIUS = 1.0


def adversary(workers: int, sigma: float) -> np.ndarray:
    """Slopes +-1 by clock and worker, one sign a clock, against x* = 0.

    They keep the iterate at the edge of the ball, from where at last all go downhill:
    the start term weighs that descent by 1 / eta_T.
    """
    edge = np.sqrt(2.0) * RADIUS
    steps = sigma / np.sqrt(np.arange(1.0, CLOCKS * workers + 1))
    moves = steps.reshape(CLOCKS, workers).sum(axis=1)
    left = np.cumsum(moves[::-1])[::-1]  # of the way, from this clock to the last
    signs, x = np.ones(CLOCKS), edge
    for clock in range(CLOCKS):
        if left[clock] > edge and x + moves[clock] <= edge:
            signs[clock] = -1.0
        x -= signs[clock] * moves[clock]
    return np.repeat(signs, workers)[:, None]


# Workers and sigma over that of `regret_step`: where F^2 / sigma is nearly all, both
# count, sigma L^2 is most; four workers at their step.
CASES = [(1, 0.1), (1, 1.0), (1, 3.0), (4, 1.0)]


@functools.cache
def attained():
    """Regret after all updates of each case, its sigma, and the ball that it stayed in.

    SSP(0) with equal times: no worker sees what others do in the same clock.
    """
    found = {}
    for workers in (1, 4):
        sigmas = [
            factor * float(regret.regret_step(RADIUS, 1.0, 0, workers))
            for n, factor in CASES
            if n == workers
        ]
        cases = [
            (Losses(
                lambda x, row: row[0] * x[0],
                lambda rows, workers, sigma=sigma: adversary(workers, sigma),
                np.array([np.sqrt(2.0) * RADIUS]), np.zeros(1), 1.0,
            ), sigma)
            for sigma in sigmas
        ]  # fmt: skip
        trace = simulate.schedule(
            policies.ssp(workers, s=0), delays.constant(1.0, workers), CLOCKS * workers
        )
        for sigma, run in zip(sigmas, regrets(cases, trace), strict=True):
            assert run.farthest <= RADIUS**2 * (1 + 1e-3)
            found[workers, sigma] = float(run.sums[-1])
    return found


def holds_against_the_adversary(theorems):
    for (workers, sigma), exact in attained().items():
        bound = theorems.theorem_c_general(
            RADIUS, 1.0, 0, workers, CLOCKS * workers, sigma
        )
        assert exact <= float(bound)


def test_one_worker_attains_the_bound_and_four_half_of_their_staleness():
    for (workers, sigma), exact in attained().items():
        both = [1 / sigma, sigma]
        bound = float(
            regret.theorem_c_general(RADIUS, 1.0, 0, workers, CLOCKS * workers, sigma)
        )
        root = (CLOCKS * workers) ** 0.5
        assert bound == pytest.approx(root * (both[0] + both[1] * (2 * workers - 1)))
        assert exact == pytest.approx(root * (both[0] + both[1] * workers), rel=0.08)


def holds_at_its_own_step(theorems):
    """The final form, for one worker: it is attained."""
    sigma = float(regret.regret_step(RADIUS, 1.0, 0, 1))
    exact = attained()[1, sigma]
    bound = float(theorems.theorem_c(RADIUS, 1.0, 0, 1, CLOCKS))
    assert exact <= bound <= 1.08 * exact


def most_that_is_missing_or_early(s: int, workers: int) -> int:
    """Over the updates j of a schedule: those that j sees although they come later in
    the order, and those that come later and do not see j. Worker 0 is the slow one."""
    speed = delays.constant([50.0] + [1.0] * (workers - 1))
    trace = simulate.schedule(policies.ssp(workers, s=s), speed, 40 * workers)
    order = (trace.clock - 1) * workers + trace.worker
    row = np.arange(len(trace))  # also the version that the push makes, less one
    later = order[:, None] < order[None, :]  # [j, i]: i comes after j
    seen = later & (row[None, :] < trace.pulled[:, None])
    not_seeing = later & (row[:, None] >= trace.pulled[None, :])
    return int((seen.sum(axis=1) + not_seeing.sum(axis=1)).max())


SETTINGS = [(0, 2), (0, 4), (1, 3), (3, 2), (3, 4)]
counted = functools.cache(most_that_is_missing_or_early)


def is_attained_by_schedules(theorems):
    for s, workers in SETTINGS:
        assert theorems.missing_updates(s, workers) == counted(s, workers)


def is_the_general_form_at_its_step(theorems):
    for s, workers in SETTINGS:
        sigma = theorems.regret_step(2.0, 3.0, s, workers)
        general = regret.theorem_c_general(2.0, 3.0, s, workers, 50.0, sigma)
        found = float(theorems.theorem_c(2.0, 3.0, s, workers, 50.0))
        assert found == pytest.approx(float(general), rel=1e-5)


def is_what_the_proof_adds_up_to(theorems):
    """F^2 / eta_T, half of eta L^2 and M eta L^2 for every update, with the sum of
    1 / sqrt(t) for 2 sqrt(T): 0.15 % less at T = 10^6."""
    steps = 0.3 / np.sqrt(np.arange(1.0, 1e6 + 1))
    for s, workers in SETTINGS:
        each = 3.0**2 * (0.5 + counted(s, workers)) * steps
        exact = 2.0**2 / steps[-1] + each.sum()
        bound = theorems.theorem_c_general(2.0, 3.0, s, workers, 1e6, 0.3)
        assert exact == pytest.approx(float(bound), rel=0.005)


PROOF = is_what_the_proof_adds_up_to
AGAINST, COUNTED = holds_against_the_adversary, is_attained_by_schedules
FORM, OWN = is_the_general_form_at_its_step, holds_at_its_own_step

# Function, its text, what takes its place, and the check that notices.
MUTANTS = [
    ("theorem_c_general", "radius**2", ("0.8 * radius**2", "0 * radius"), AGAINST),
    ("theorem_c_general", "(1 + 2 * missing)",
     ("(0.8 + 2 * missing)", "2 * missing", "(1 + 0.5 * missing)", "1"), AGAINST),
    ("theorem_c_general", "jnp.sqrt(1.0", ("0.8 * jnp.sqrt(1.0",), AGAINST),
    ("theorem_c_general", "radius**2", ("0.8 * radius**2", "1.2 * radius**2"), PROOF),
    ("theorem_c_general", "2 * missing", ("1.6 * missing", "2.4 * missing"), PROOF),
    ("theorem_c_general", "lipschitz**2", ("0.8 * lipschitz**2", "lipschitz"), PROOF),
    ("theorem_c", "return radius", ("return 0.8 * radius", "return 1.2 * radius"), OWN),
    ("theorem_c", "0.5 +", ("0.4 +", "0.6 +", ""), FORM),
    ("theorem_c", "missing_updates(s, workers)) / kappa",
     ("0.8 * missing_updates(s, workers)) / kappa",), FORM),
    ("theorem_c", "2.0 * kappa", ("1.28 * kappa", "2.88 * kappa"), FORM),
    ("theorem_c", "(s + 1) * workers", ("s * workers + 1", "(s + 1)"), FORM),
    ("regret_step", "2.0 * (s + 1)", ("1.28 * (s + 1)", "2.0 * (s + 0.8)"), FORM),
    ("missing_updates", "2 * s", ("s", "3 * s", "1.6 * s"), COUNTED),
    ("missing_updates", "s + 1", ("s + 0.8", "s", "s + 2"), COUNTED),
    ("missing_updates", "workers - 1", ("workers", "workers - 2"), COUNTED),
]  # fmt: skip


@parametrised(MUTANTS)
def test_a_wrong_coefficient_is_noticed(function, old, new, check):
    catches(check, regret, mutated(regret, function, old, new))
