"""The hard chain against its published properties, the bound against an integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks, theory
from abs_dssp.tasks.zero_chain import chain

T = 8


@pytest.fixture(scope="module")
def points():
    """Random points of all sizes, and points that have found some coordinates only."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(300, T)) * rng.choice([0.5, 1.0, 2.0], size=(300, 1))
    partly = rng.normal(size=(300, T)) * 3
    known = rng.integers(0, T, size=300)
    behind = np.arange(T) >= known[:, None]
    partly = np.where(behind, rng.uniform(-1, 1, size=(300, T)), partly)
    return jnp.asarray(wide, jnp.float32), jnp.asarray(partly, jnp.float32)


def test_the_chain_has_its_published_constants(points):
    """Smoothness 152, slopes up to 23, a fall of at most 12 T (arXiv 1912.02365)."""
    wide, _ = points
    curvature = jax.jit(jax.vmap(jax.hessian(chain)))(wide)
    largest = np.abs(np.linalg.eigvalsh(np.asarray(curvature))).max()
    assert 60 < largest < 152
    slopes = jax.jit(jax.vmap(jax.grad(chain)))(wide)
    assert 10 < np.abs(np.asarray(slopes)).max() < 23
    fall = chain(jnp.zeros(T)) - chain(jnp.full(T, 30.0))
    assert 10 * T < float(fall) < 12 * T


def test_no_point_without_the_last_coordinate_is_stationary(points):
    _, partly = points
    slopes = jax.jit(jax.vmap(jax.grad(chain)))(partly)
    assert (np.linalg.norm(np.asarray(slopes), axis=1) > 1).all()


def test_a_coordinate_has_no_slope_before_the_one_before_is_found():
    for known in range(T - 1):
        x = jnp.where(jnp.arange(T) < known, 1.0, 0.0)
        slope = np.asarray(jax.grad(chain)(x))
        assert slope[known] != 0
        assert (slope[known + 1 :] == 0).all()


def test_the_oracle_is_unbiased_and_mostly_blind():
    task = tasks.zero_chain(2, length=T, probability=0.25)
    x = jnp.where(jnp.arange(T) < 3, 1.0, 0.0)
    variables = tasks.Variables(x, {})

    def gradient(index):
        batch = task.batch(task.data, jax.random.key(0), 0, index)
        loss = lambda p: task.loss(tasks.Variables(p, {}), batch, None)[0]  # noqa: E731
        return jax.value_and_grad(loss)(variables.params)

    values, shown = jax.jit(jax.vmap(gradient))(jnp.arange(4000))
    shown, exact = np.asarray(shown), np.asarray(jax.grad(chain)(x))
    np.testing.assert_allclose(values, chain(x), rtol=1e-5)
    np.testing.assert_allclose(
        shown[:, :3], np.broadcast_to(exact[:3], (4000, 3)), rtol=1e-5
    )
    seen = shown[:, 3] != 0
    assert abs(seen.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_allclose(shown[seen, 3], 4 * exact[3], rtol=1e-5)
    assert (shown[:, 4:] == 0).all()


def test_the_bound_is_the_integral():
    times = np.array([1.0, 2.5, 7.0])
    grid = np.arange(0, 400, 0.001) + 0.0005
    for probability in (0.05, 0.5):
        finished = np.floor(grid[:, None] / times).sum(axis=1)
        integral = 0.001 * ((1 - probability) ** finished).sum()
        found = theory.discovery_time(times, probability, length=3)
        assert found == pytest.approx(3 * integral, rel=1e-5)


@pytest.mark.parametrize("text", ["asp()", "bsp()", "ringmaster(threshold=8)"])
def test_no_rule_is_faster_than_the_bound(text):
    """Steps that pass a coordinate at once: the mean of 30 runs, less its error."""
    times, n, probability = [1.0, 1.5, 4.0], 3, 0.2
    task = tasks.zero_chain(n, length=T, probability=probability)
    trace = simulate.schedule(policies.parse(text, n), delays.constant(times), 600)
    made = replay.sweep(
        task, optimizers.sgd, [[0.1]], trace, range(30), eval_every_commits=1
    )
    whole = made.measures["progress"][0] == T
    assert whole.any(axis=1).all()
    reached = made.seconds[whole.argmax(axis=1)]
    error = np.std(reached, ddof=1) / np.sqrt(len(reached))
    bound = theory.discovery_time(times, probability, T)
    assert np.mean(reached) > bound - 3 * error
    assert np.mean(reached) < 20 * bound  # or this would say nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"probability": 0}, "got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tasks.zero_chain(2, **settings)
    with pytest.raises(ValueError, match="probability must be in"):
        theory.discovery_time([1.0], 0.0)
    with pytest.raises(ValueError, match="times must be above 0"):
        theory.discovery_time([0.0], 0.5)
