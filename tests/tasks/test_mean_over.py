"""`logistic` as the mean over samples and over workers, and who minimises which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks

N, SAMPLES, L2 = 4, 240, 0.1
MEANS = ("samples", "workers")


def made(mean_over, partition="dirichlet(0.2)", **settings):
    given = {"samples": SAMPLES, "dim": 5, "l2": L2, "batch_size": 20} | settings
    return tasks.logistic(N, partition=partition, mean_over=mean_over, **given)


@pytest.fixture(scope="module")
def both():
    return {mean: made(mean) for mean in MEANS}


def own_means(task, of_rows) -> np.ndarray:
    """Mean over each worker's samples of what a function gives for them, (N, ...)."""
    rows = np.asarray(task.data["signed"], float)
    parts = zip(task.data["indices"], task.data["sizes"], strict=True)
    return np.array([of_rows(rows[row[:size]]).mean(axis=0) for row, size in parts])


def squares(task, params) -> float:
    variables = tasks.Variables(jnp.asarray(params, jnp.float32), {})
    return float(task.evaluate(task.data, variables)["gradient_norm_squared"])


def minimum(task) -> np.ndarray:
    """By gradient descent, which contracts by 1 - l2 / L a step."""
    slope = jax.grad(lambda p: task.objective(task.data, tasks.Variables(p, {})))
    step = jax.jit(lambda p: p - slope(p) / task.constants.smoothness)
    params = jnp.zeros(5, jnp.float32)
    for _ in range(200):
        params = step(params)
    return np.asarray(params, float)


def test_the_mean_over_workers_is_that_of_their_own_means(both):
    task = both["workers"]
    w = np.array([0.3, -0.2, 0.5, 0.1, -0.4])
    penalty = L2 / 2 * w @ w
    losses = own_means(task, lambda rows: np.logaddexp(0, -rows @ w))
    slopes = own_means(task, lambda rows: -rows / (1 + np.exp(rows @ w))[:, None])
    found = task.evaluate(task.data, tasks.Variables(jnp.asarray(w, jnp.float32), {}))
    assert float(found["loss"]) == pytest.approx(losses.mean() + penalty, rel=1e-5)
    slope = slopes.mean(axis=0) + L2 * w
    assert float(found["gradient_norm_squared"]) == pytest.approx(slope @ slope, 1e-4)
    right = own_means(task, lambda rows: (rows @ w > 0).astype(float))
    assert float(found["accuracy"]) == pytest.approx(right.mean(), rel=1e-5)


def test_the_constants_are_those_of_the_mean_over_workers(both):
    task, w = both["workers"], minimum(both["workers"])
    smoothness, noise, optimum = task.constants
    grams = own_means(task, lambda rows: rows[:, :, None] * rows[:, None, :])
    largest = np.linalg.eigvalsh(grams.mean(axis=0))[-1] / 4 + L2
    assert smoothness == pytest.approx(largest, rel=1e-5)  # float32 rows
    losses = own_means(task, lambda rows: np.logaddexp(0, -rows @ w))
    assert optimum == pytest.approx(losses.mean() + L2 / 2 * w @ w, rel=1e-5)
    # The mean gradient is 0 at the optimum.
    variances = own_means(
        task,
        lambda rows: np.sum(
            (L2 * w - rows / (1 + np.exp(rows @ w))[:, None]) ** 2, axis=1
        ),
    )
    assert noise == pytest.approx(variances.mean(), rel=1e-4)


@pytest.mark.parametrize("partition", ["shared", "equal"])
def test_both_means_are_one_where_workers_have_equally_many(partition):
    first, second = (made(mean, partition) for mean in MEANS)
    np.testing.assert_allclose(first.constants, second.constants, rtol=1e-9)
    params = np.full(5, 0.4)
    exact = pytest.approx(squares(second, params), rel=1e-4)  # float32 sums
    assert squares(first, params) == exact


def proportional(task):
    """Workers whose pushes are in proportion to their samples."""
    return delays.constant(np.asarray(task.data["sizes"]).max() / task.data["sizes"])


# Rule, aggregate, times, and what the rule minimises. Where times are in proportion to
# 1 / n_i, every sample is seen equally often.
RULES = [
    ("bsp()", "mean", lambda task: delays.constant(1.0, N), "workers"),
    ("malenia(batch_size=8)", "workers", lambda _: delays.constant([1.0, 1, 2, 4]),
     "workers"),
    ("asp()", "mean", proportional, "samples"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "aggregate", "times", "own"), RULES)
def test_a_rule_reaches_its_own_mean_and_stalls_in_the_other(
    both, text, aggregate, times, own
):
    """Where the other gradient stalls is its norm at the minimum of one's own."""
    (other,) = set(MEANS) - {own}
    stall = squares(both[other], minimum(both[own]))
    assert stall > 1e-3
    trace = simulate.schedule(policies.parse(text, N), times(both[own]), 6000)
    step = 20 / trace.commits  # contracts by exp(-20 L2) at least
    assert step < 0.1 / both[own].constants.smoothness
    result = replay.replay(
        both[own], optimizers.sgd(step), trace, aggregate=aggregate,
        eval_every_commits=trace.commits,
    )  # fmt: skip
    params = np.asarray(result.variables.params)
    assert squares(both[own], params) < stall / 50
    # The noise that is left moves it by less than a tenth.
    assert squares(both[other], params) == pytest.approx(stall, rel=0.1)


def test_the_mean_is_one_of_two():
    with pytest.raises(ValueError, match="mean_over must be .* got 'rounds'"):
        made("rounds")
    task = tasks.parse('logistic(mean_over="workers")', 2)
    assert "shares" in task.data
