"""`quadratic` and `logistic` against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import tasks


def _gradients(task, params, workers, count):
    """Gradients of `count` mini-batches of each worker at `params`."""

    def one(worker, index):
        batch = task.batch(task.data, jax.random.key(0), worker, index)
        value = lambda p: task.loss(tasks.Variables(p, {}), batch, None)[0]  # noqa: E731
        return jax.grad(value)(params)

    each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    indices = jnp.arange(count, dtype=jnp.int32)
    return np.asarray(jax.jit(each)(jnp.asarray(workers, jnp.int32), indices))


def test_a_noiseless_quadratic_has_gradient_lambda_w():
    task = tasks.quadratic(2, eigenvalues=[1.0, 3.0, 0.5], noise=0.0)
    params = jnp.asarray([2.0, -1.0, 4.0], jnp.float32)
    (slope,) = _gradients(task, params, [1], 2)
    np.testing.assert_allclose(slope, [[2.0, -3.0, 2.0]] * 2, rtol=1e-6)
    found = jax.jit(task.evaluate)(task.data, tasks.Variables(params, {}))
    assert found["loss"] == 0.5 * (4 + 3 + 8)
    assert found["gradient_norm_squared"] == 4 + 9 + 4


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_divides_the_total_noise_variance(batch_size):
    dim, count, noise = 5, 4000, 2.0
    task = tasks.quadratic(1, dim=dim, noise=noise, batch_size=batch_size)
    (draws,) = _gradients(task, jnp.zeros(dim, jnp.float32), [0], count)
    squares = np.sum(draws.astype(float) ** 2, axis=1)
    # |noise|^2 is (v/d) chi-square(d) with v = noise/B: mean v, variance 2 v^2 / d
    expected = noise / batch_size
    tolerance = 4 * expected * np.sqrt(2 / dim / count)
    assert abs(squares.mean() - expected) < tolerance
    assert task.constants.noise_variance == noise


@pytest.mark.parametrize("batch_size", [1, 4])
def test_relative_noise_is_unbiased_and_fades_with_the_gradient(batch_size):
    count, relative = 4000, 3.0
    task = tasks.quadratic(
        1, eigenvalues=[1.0, 2.0], noise=0.0, relative_noise=relative,
        batch_size=batch_size,
    )  # fmt: skip
    for scale in (1.0, 0.01):
        exact = scale * np.array([1.0, 4.0])  # of (1, 2), with square 17 scale^2
        point = jnp.asarray([scale, 2 * scale], jnp.float32)
        (draws,) = _gradients(task, point, [0], count)
        off = draws.astype(float) - exact
        expected = relative / batch_size * exact**2  # by coordinate
        np.testing.assert_allclose(off.var(axis=0), expected, rtol=0.1)
        error = 4 * np.sqrt(expected / count)
        assert (np.abs(off.mean(axis=0)) < error).all()
    assert task.constants.noise_variance is None


def test_a_quadratic_has_the_constants_it_was_given():
    task = tasks.quadratic(3, dim=6, smoothness=4.0, condition=100.0)
    curvature = np.asarray(task.data["curvature"])
    np.testing.assert_allclose([curvature.min(), curvature.max()], [0.04, 4.0], 1e-6)
    assert task.constants.smoothness == 4.0 and task.constants.optimum == 0.0


def test_heterogeneous_shifts_average_to_the_common_gradient():
    task = tasks.quadratic(5, dim=3, noise=0.0, heterogeneity=0.7)
    params = jnp.ones(3, jnp.float32)
    each = _gradients(task, params, range(5), 1)[:, 0]
    assert np.ptp(each, axis=0).min() > 0.7
    np.testing.assert_allclose(np.mean(each, axis=0), np.ones(3), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 0},
        {"batch_size": 0},
        {"condition": 0.5},
        {"condition": float("nan")},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"relative_noise": -1.0},
        {"eigenvalues": [1.0, float("inf")]},
        {"eigenvalues": []},
        {"samples_per_epoch": 0},
    ],
)
def test_quadratic_refuses(settings):
    with pytest.raises(ValueError, match="quadratic: .*must be at least"):
        tasks.quadratic(2, **settings)


@pytest.mark.parametrize("smoothness", [0.0, -1.0, float("nan")])
def test_quadratic_needs_curvature(smoothness):
    with pytest.raises(ValueError, match="quadratic: smoothness must be above 0"):
        tasks.quadratic(2, smoothness=smoothness)


@pytest.mark.parametrize("make", [tasks.quadratic, tasks.logistic, tasks.digits])
def test_a_task_needs_a_worker(make):
    with pytest.raises(ValueError, match="num_workers"):
        make(0)


def test_logistic_constants_agree_with_gradient_descent():
    task = tasks.logistic(2, samples=200, dim=5, l2=0.1, seed=3)
    rows = np.asarray(task.data["signed"], float)
    smoothness, noise, optimum = task.constants
    curvature = np.linalg.norm(rows, 2) ** 2 / 200 / 4 + 0.1
    np.testing.assert_allclose(smoothness, curvature, rtol=1e-5)  # float32 rows
    w = np.zeros(5)
    for _ in range(2000):  # contracts by 1 - l2/L each step: to rounding
        miss = 1 / (1 + np.exp(rows @ w))
        w = w - (0.1 * w - rows.T @ miss / 200) / smoothness
    value = np.mean(np.logaddexp(0, -rows @ w)) + 0.05 * w @ w
    np.testing.assert_allclose(optimum, value, rtol=1e-6)  # float32 rows
    each = 0.1 * w - rows * (1 / (1 + np.exp(rows @ w)))[:, None]
    np.testing.assert_allclose(noise, np.mean(np.sum(each**2, axis=1)), rtol=1e-5)
    at_optimum = tasks.Variables(jnp.asarray(w, jnp.float32), {})
    # float32 arithmetic over 200 rows
    found = jax.jit(task.objective)(task.data, at_optimum)
    np.testing.assert_allclose(found, optimum, 1e-5)


def test_logistic_batches_of_an_epoch_average_to_the_full_gradient():
    task = tasks.logistic(1, samples=60, dim=4, batch_size=10)
    params = jnp.full(4, 0.3, jnp.float32)
    objective = lambda p: task.objective(task.data, tasks.Variables(p, {}))  # noqa: E731
    full = jax.jit(jax.grad(objective))(params)
    (each,) = _gradients(task, params, [0], 6)
    np.testing.assert_allclose(each.mean(axis=0), full, atol=1e-5)  # float32 sums
