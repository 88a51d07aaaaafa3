"""Batches, losses and evaluation of image tasks; models of one's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from abs_dssp import tasks
from abs_dssp.tasks import images, pixels, supervision

N = 3


@pytest.fixture(scope="module")
def digits():
    return tasks.digits(N, model="mlp(hidden=8)", batch_size=16)


@pytest.fixture(scope="module")
def variables(digits):
    return jax.jit(digits.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def whole_epoch():
    """The data of digits, and all of them as a single batch."""
    task = tasks.digits(1, model="mlp", batch_size=1437)
    return task.data, _batch(task)


@pytest.fixture(scope="module")
def splits():
    found = images.digits()
    return (found.train, found.train_labels), (found.test, found.test_labels)


def _batch(task, worker=0, index=0, seed=0):
    draw = jax.jit(task.batch)
    return draw(task.data, jax.random.key(seed), jnp.int32(worker), jnp.int32(index))


def test_a_batch_is_a_pure_function_of_key_worker_and_index(digits):
    first, again = _batch(digits), _batch(digits)
    np.testing.assert_array_equal(first[0], again[0])
    for other in (_batch(digits, worker=1), _batch(digits, index=1)):
        assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (16, 8, 8, 1) and first[0].dtype == jnp.float32
    assert first[1].shape == (16,) and first[1].dtype == jnp.int32


def test_one_epoch_of_all_workers_has_every_label_as_often_as_the_data(whole_epoch):
    data, (_, labels) = whole_epoch
    counts = np.bincount(data["train_labels"])
    np.testing.assert_array_equal(np.bincount(labels), counts)


def test_training_pixels_are_normalised(whole_epoch):
    _, (pixels, _) = whole_epoch
    # float32 sums of 92,000 numbers
    np.testing.assert_allclose(np.mean(pixels, dtype=float), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(pixels, dtype=float), 1, atol=1e-4)


def test_loss_and_evaluation_agree_with_the_formula(digits, variables):
    layers = jax.tree.map(np.asarray, variables.params)

    def logits(x):
        x = np.maximum(x.reshape(len(x), -1) @ layers["Dense_0"]["kernel"], 0)
        return x @ layers["Dense_1"]["kernel"]  # biases start at 0

    def cross_entropy(x, y):
        z = np.asarray(logits(x), float)
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y])

    batch = _batch(digits)
    inputs, labels = map(np.asarray, batch)
    value, stats = jax.jit(digits.loss)(variables, batch, jax.random.key(1))
    assert stats == {} == variables.stats
    np.testing.assert_allclose(value, cross_entropy(inputs, labels), rtol=1e-5)
    data = jax.tree.map(np.asarray, digits.data)
    test = (data["test"].astype(np.float32) - data["mean"]) * data["scale"]
    found = jax.jit(digits.evaluate)(digits.data, variables)
    labels = data["test_labels"]
    np.testing.assert_allclose(found["loss"], cross_entropy(test, labels), rtol=1e-5)
    hits = np.mean(logits(test).argmax(axis=1) == labels)
    np.testing.assert_allclose(found["accuracy"], hits, rtol=1e-6)


def test_evaluation_in_chunks_counts_no_sample_twice(digits, variables, monkeypatch):
    whole = jax.jit(digits.evaluate)(digits.data, variables)
    monkeypatch.setattr(supervision, "_CHUNK", 7)  # 360 = 51 * 7 + 3
    # Another function, since jit would take the program of the first.
    again = lambda data, variables: digits.evaluate(data, variables)  # noqa: E731
    pieces = jax.jit(again)(digits.data, variables)
    np.testing.assert_allclose(pieces["loss"], whole["loss"], rtol=1e-5)
    np.testing.assert_allclose(pieces["accuracy"], whole["accuracy"], rtol=1e-6)


def test_augmentation_crops_and_flips_reproducibly():
    augment = jax.jit(pixels.augment)
    whole = jnp.asarray(
        np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3)), jnp.uint8
    )
    crops = augment(whole, jax.random.key(0))
    np.testing.assert_array_equal(crops, augment(whole, jax.random.key(0)))
    assert not np.array_equal(crops, augment(whole, jax.random.key(1)))
    assert crops.shape == whole.shape and crops.dtype == jnp.uint8
    padded = np.pad(whole, ((0, 0), (4, 4), (4, 4), (0, 0)))
    flipped = 0
    for crop, image in zip(np.asarray(crops), padded, strict=True):
        windows = [image[i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        plain = any(np.array_equal(crop, w) for w in windows)
        mirrored = any(np.array_equal(crop, w[:, ::-1]) for w in windows)
        assert plain or mirrored
        flipped += mirrored
    assert 16 < flipped < 48  # Binomial(64, 1/2): mean 32, deviation 4


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(
            x.reshape(x.shape[0], -1)
        )
        return nn.Dense(10)(nn.Dropout(0.5, deterministic=not train)(x))


def test_linen_statistics_move_by_a_tenth_and_dropout_follows_the_key(splits):
    task = tasks.from_flax(Normed(), *splits, N, batch_size=32)
    variables = jax.jit(task.init)(jax.random.key(0))
    batch = _batch(task)
    loss = jax.jit(task.loss)
    first, stats = loss(variables, batch, jax.random.key(1))
    again, _ = loss(variables, batch, jax.random.key(1))
    other, _ = loss(variables, batch, jax.random.key(2))
    assert first == again != other
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    mean = np.asarray(batch[0]).reshape(32, -1).mean(axis=0)  # running mean starts at 0
    np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], 0.1 * mean, atol=1e-6)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(x.reshape(x.shape[0], -1)))


def test_an_nnx_model_trains_and_carries_its_statistics(splits):
    task = tasks.from_nnx(Nnx, *splits, N, batch_size=32)
    variables = jax.jit(task.init)(jax.random.key(0))
    batch = _batch(task)
    (_, stats), slope = jax.jit(
        jax.value_and_grad(
            lambda p: task.loss(variables._replace(params=p), batch, jax.random.key(0)),
            has_aux=True,
        )
    )(variables.params)
    assert jax.tree.structure(slope) == jax.tree.structure(variables.params)
    mean = np.asarray(batch[0]).reshape(32, -1).mean(axis=0)
    np.testing.assert_allclose(stats["norm"]["mean"], 0.1 * mean, atol=1e-6)


def test_plain_functions_make_a_task_with_the_loss_of_zero_logits(splits):
    task = tasks.from_functions(
        lambda key: jnp.zeros((64, 10), jnp.float32),
        lambda w, x: x.reshape(x.shape[0], -1) @ w,
        *splits,
        N,
    )
    variables = jax.jit(task.init)(jax.random.key(0))
    found = jax.jit(task.objective)(task.data, variables)
    np.testing.assert_allclose(found, np.log(10), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"batch_size": 0}, "batch_size must be at least 1", id="batch"),
        pytest.param({"limit_train": 2}, "at least as many samples, got 2", id="few"),
    ],
)
def test_digits_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        tasks.digits(N, **settings)
