"""Regret of SSP and DSSP, in the setting that the theorems are stated for.

Updates are summed; the step sigma / sqrt(t) follows the round-robin order t = c P + p
and not the order of arrival. The task knows worker and clock of a batch, so the step is
a factor of its loss, and the server moves by the gradient itself.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, policies, replay, simulate, theory
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.traces import Trace


class Losses(NamedTuple):
    """f_t(x) = loss(x, data[t - 1]), convex; compared with one point."""

    loss: Callable  # (x, row of data) -> scalar
    data: Callable  # (number of updates, workers) -> (T, ...) array
    start: np.ndarray
    best: np.ndarray  # x*
    lipschitz: float  # L


class Regret(NamedTuple):
    """In the round-robin order, after t = 1, 2, ... updates."""

    sums: np.ndarray  # sum over i <= t of f_i(view) - f_i(x*)
    farthest: float  # of the reference iterates: max ||x_t - x*||^2 / 2
    visited: float  # the same of the versions that the server had


def task(cases: Sequence[tuple[Losses, float]], trace: Trace) -> Task:
    """All losses side by side, each with parameters and a sigma of its own."""
    workers = trace.num_workers
    rows = int(trace.clock.max()) * workers
    data = [jnp.asarray(losses.data(rows, workers), jnp.float32) for losses, _ in cases]

    def init(key):
        del key
        return Variables([jnp.asarray(c.start, jnp.float32) for c, _ in cases], {})

    def batch(data, key, worker, index):
        del key
        t = index * workers + worker  # from 0
        root = jnp.sqrt((t + 1).astype(jnp.float32))
        sigmas = [sigma for _, sigma in cases]
        return [(s / root, rows[t]) for s, rows in zip(sigmas, data, strict=True)]

    def loss(variables, batch, key):
        del key
        parts = zip(cases, variables.params, batch, strict=True)
        return sum(step * c.loss(x, row) for (c, _), x, (step, row) in parts), {}

    def nothing(data, variables):
        del data, variables
        return jnp.float32(0)

    return Task(
        name="regret",
        num_workers=workers,
        batch_size=1,
        samples_per_epoch=1000,
        data=data,
        init=init,
        batch=batch,
        loss=loss,
        evaluate=lambda data, variables: {"loss": nothing(data, variables)},
        objective=nothing,
    )


@functools.cache
def _jitted(loss):
    return jax.jit(jax.vmap(jax.value_and_grad(loss)))


def values_and_slopes(loss, points, rows):
    """Of every row, in float64; padded, so that most lengths share a program."""
    size = max(4096, 1 << (len(points) - 1).bit_length())
    padded = (np.resize(x, (size, *x.shape[1:])) for x in (points, rows))
    values, slopes = _jitted(loss)(*padded)
    return [np.asarray(x, float)[: len(points)] for x in (values, slopes)]


def regrets(cases: Sequence[tuple[Losses, float]], trace: Trace) -> list[Regret]:
    """Over the clocks that all workers have finished; views are pulled versions."""
    workers = trace.num_workers
    work = task(cases, trace)
    made = replay.trajectory(work, optax.sgd(1.0), trace, aggregate="sum").params
    t = (trace.clock - 1) * workers + trace.worker
    clocks = np.bincount(trace.worker, minlength=workers).min()
    order = np.argsort(t)[: clocks * workers]
    assert np.array_equal(t[order], np.arange(len(order)))
    found = []
    for (losses, sigma), versions, data in zip(cases, made, work.data, strict=True):
        versions, rows = np.asarray(versions), np.asarray(data)[: len(order)]
        views = versions[trace.pulled[order]]
        best = np.broadcast_to(losses.best.astype(np.float32), views.shape)
        values, slopes = values_and_slopes(losses.loss, views, rows)
        least, _ = values_and_slopes(losses.loss, best, rows)
        lengths = np.sqrt(np.sum(slopes**2, axis=1))
        assert lengths.max() <= losses.lipschitz * (1 + 1e-5)
        steps = sigma / np.sqrt(np.arange(1.0, len(order) + 1))
        moves = np.concatenate([losses.start[None, :], -steps[:, None] * slopes])
        farthest, visited = (
            float(np.max(np.sum((points - losses.best) ** 2, axis=1)) / 2)
            for points in (np.cumsum(moves, axis=0), versions)
        )
        found.append(Regret(np.cumsum(values - least), farthest, visited))
    return found


def _absolute(x):
    """|x| with the subgradient 0 at 0; JAX takes 1 there."""
    return x * jnp.sign(x)


def _directions(rows, workers):
    del workers
    drawn = np.random.default_rng(7).normal(size=(rows, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


_TARGET = np.array([0.5, -1.0, 2.0])
LOSSES = {
    "absolute": Losses(
        lambda x, row: jnp.sum(_absolute(x)), lambda rows, workers: np.zeros((rows, 1)),
        np.array([1.0]), np.array([0.0]), 1.0,
    ),
    "norm": Losses(
        lambda x, row: jnp.sqrt(jnp.sum(x**2) + 1e-12),  # smooth at 0
        lambda rows, workers: np.zeros((rows, 1)),
        np.array([1.0, -1.0, 0.5]), np.zeros(3), 1.0,
    ),
    "random linear": Losses(
        lambda x, row: jnp.abs(jnp.sum(row * (x - jnp.asarray(_TARGET, jnp.float32)))),
        _directions, np.zeros(3), _TARGET, 1.0,
    ),
}  # fmt: skip


def regret_is_bounded(found: Regret, radius, lipschitz, s, workers):
    """Theorem C, hence the papers' theorem, after every update; its hypothesis too."""
    assert found.farthest <= radius**2
    updates = np.arange(1.0, len(found.sums) + 1, dtype=np.float32)
    sharp = np.asarray(theory.theorem_c(radius, lipschitz, s, workers, updates))
    papers = np.asarray(theory.ssp_regret(radius, lipschitz, s, workers, updates))
    assert np.all(sharp < papers)
    assert np.all(found.sums <= sharp)
    return float(np.max(found.sums / sharp))


def gaps_at_release_are_at_most(trace: Trace, s: int):
    """The s of Ho et al.: clocks ahead of the slowest when a computation starts.

    A worker that pushes at clock c + 1 was released when the slowest was at c - s or
    more; the slowest has only advanced since, so this looks at the pull itself.
    """
    clock = np.zeros(trace.num_workers, int)
    slowest = np.zeros(trace.commits + 1, int)
    for row, worker in enumerate(trace.worker):  # every push is committed alone
        clock[worker] += 1
        slowest[row + 1] = clock.min()
    assert np.all(trace.clock - 1 - slowest[trace.pulled] <= s)


SCHEDULES = [
    ("ssp(s=0)", 1, 0), ("ssp(s=0)", 3, 0), ("ssp(s=1)", 2, 1), ("ssp(s=3)", 4, 3),
    ('dssp(s_lower=1,s_upper=4,variant="bounded")', 2, 4),
    ('dssp(s_lower=0,s_upper=3,variant="bounded")', 4, 3),
]  # fmt: skip


@pytest.mark.often(3)
@pytest.mark.parametrize(("text", "workers", "s"), SCHEDULES)
def test_regret_is_bounded_and_the_bound_is_no_looser_than_stated(text, workers, s):
    """Theorem 1 of the DSSP paper for SSP, Theorem 2 for its bounded variant."""
    speed = delays.lognormal(np.linspace(1.0, 3.0, workers), 0.5)
    trace = simulate.schedule(policies.parse(text, workers), speed, 600 * workers)
    gaps_at_release_are_at_most(trace, s)
    cases, radii = [], []
    for losses in LOSSES.values():
        radius = 1.3 * float(np.linalg.norm(losses.start - losses.best)) / math.sqrt(2)
        radii.append(radius)
        sigma = float(theory.regret_step(radius, losses.lipschitz, s, workers))
        cases.append((losses, sigma))
    ratios = [
        regret_is_bounded(found, radius, losses.lipschitz, s, workers)
        for found, radius, (losses, _) in zip(
            regrets(cases, trace), radii, cases, strict=True
        )
    ]
    assert max(ratios) >= 0.1  # loose by at most 10: section 5


def test_theorem_c_is_least_at_its_step_and_below_three():
    workers, updates = 4.0, 1000.0
    for s in range(6):
        kappa = (s + 1) * workers
        sigma = theory.regret_step(2.0, 3.0, s, workers)
        chosen = float(theory.theorem_c(2.0, 3.0, s, workers, updates))
        general = theory.theorem_c_general(2.0, 3.0, s, workers, updates, sigma)
        assert chosen == pytest.approx(float(general), rel=1e-5)
        assert chosen < 3 * 2 * 3 * math.sqrt(2 * kappa * updates)
        papers = float(theory.dssp_regret(2.0, 3.0, s, workers, updates))
        assert papers == pytest.approx(4 * 2 * 3 * math.sqrt(2 * kappa * updates))


def two_workers(variant: str, s_lower: int, s_upper: int, pushes: int) -> Trace:
    """The fast one pushes at 10, 20, ... if never held; the slow one at 26, 46, ..."""
    policy = policies.dssp(2, s_lower=s_lower, s_upper=s_upper, variant=variant)
    speed = delays.recorded([[10.0], [26.0] + [20.0] * (pushes // 2)])
    return simulate.schedule(policy, speed, pushes)


def test_the_lead_under_printed_dssp_is_unbounded():
    trace = two_workers("printed", 3, 11, 3010)
    fast = trace.worker == 0
    pushes, leads = trace.clock[fast], trace.gaps[fast]
    assert np.all(trace.time[fast] == 10.0 * pushes)  # it never waits
    expected = pushes - (10 * pushes - 6) // 20
    assert np.array_equal(leads[2:], expected[2:])
    assert [leads[m - 1] for m in (10, 100, 1000, 2000)] == [6, 51, 501, 1001]
    with pytest.raises(AssertionError):
        gaps_at_release_are_at_most(trace, 11)


def test_the_lead_under_bounded_dssp_is_bounded():
    trace = two_workers("bounded", 3, 11, 3000)
    gaps_at_release_are_at_most(trace, 11)
    assert trace.gaps.max() <= 12


# f_1 = |x - 1| of the fast worker, f_2 = 1.2 |x + 1| of the slow one, x* = -1.
RIVALS = Losses(
    lambda x, row: jnp.sum(row[1] * _absolute(x - row[0])),
    lambda rows, workers: np.tile([[1.0, 1.0], [-1.0, 1.2]], (rows // 2, 1)),
    np.array([-1.0]), np.array([-1.0]), 1.2,
)  # fmt: skip
RADIUS = 1.01 * math.sqrt(2)


def rivals(trace: Trace) -> Regret:
    (found,) = regrets([(RIVALS, float(theory.regret_step(RADIUS, 1.2, 2, 2)))], trace)
    return found


def grows_like_a_root(found: Regret):
    """From 1000 to 16000 clocks by 4, where linear growth would give 16."""
    assert 3 <= found.sums[32_000 - 1] / found.sums[2_000 - 1] <= 5


def test_theorem_2_fails_for_the_printed_rule():
    found = rivals(two_workers("printed", 1, 2, 48_010))
    expected = {1000: 453.5, 4000: 1641, 16000: 6416}
    for clocks, value in expected.items():
        assert found.sums[2 * clocks - 1] == pytest.approx(value, rel=0.001)
    bound = float(theory.dssp_regret(RADIUS, 1.2, 2, 2, 32_000.0))
    assert bound == pytest.approx(4249, abs=1)
    assert found.sums[32_000 - 1] > bound
    second_half = found.sums[32_000 - 1] - found.sums[16_000 - 1]
    assert second_half / 8000 == pytest.approx(0.4, rel=0.02)  # linear
    # The models stay within the ball and the reference iterate does not, which is how
    # the proof breaks.
    assert found.visited <= RADIUS**2
    assert found.farthest == pytest.approx(192, abs=1)
    with pytest.raises(AssertionError):
        grows_like_a_root(found)
    with pytest.raises(AssertionError):
        regret_is_bounded(found, RADIUS, 1.2, 2, 2)


def test_theorem_2_holds_for_the_bounded_rule():
    """Also where the printed one fails. SSP(s_U) gives the 3.6, 7.0, 13.7 of section 5,
    to which a bounded rule comes that holds its lead at s_U; this one falls back to s_L
    now and then and comes to 6.2, 12.7, 25.6.
    """
    found = rivals(two_workers("bounded", 1, 2, 32_010))
    regret_is_bounded(found, RADIUS, 1.2, 2, 2)
    grows_like_a_root(found)
    speed = delays.recorded([[10.0], [26.0] + [20.0] * 17_000])
    ssp = rivals(simulate.schedule(policies.ssp(2, s=2), speed, 32_010))
    regret_is_bounded(ssp, RADIUS, 1.2, 2, 2)
    expected = {1000: 3.6, 4000: 7.0, 16000: 13.7}
    for clocks, value in expected.items():
        assert ssp.sums[2 * clocks - 1] == pytest.approx(value, abs=0.06)
