"""Epochs visit each sample once, in orders that differ and look uniform."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp.tasks import sampling


@jax.jit
def _orders(keys, size, places):
    """The first `len(places)` images under the permutation of each key."""
    one = lambda words: sampling.permute(  # noqa: E731
        places,
        jnp.full(places.shape, size, jnp.uint32),
        jnp.broadcast_to(words, (places.shape[0], words.shape[0])),
    )
    return jax.vmap(one)(keys)


def _words(count, seed=0):
    generator = np.random.default_rng(seed)
    return jnp.asarray(generator.integers(0, 2**32, (count, 6), dtype=np.uint32))


_draw = jax.jit(sampling.draw, static_argnums=3)


def _drawn(key, worker, index, batch_size, size):
    """One batch; a program for each batch size."""
    worker, index, size = (jnp.int32(number) for number in (worker, index, size))
    return np.asarray(_draw(key, worker, index, batch_size, size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 257])
def test_permute_is_a_bijection(size):
    # Padded places repeat place 0, so that every size shares one program.
    places = jnp.where(jnp.arange(257) < size, jnp.arange(257), 0).astype(jnp.uint32)
    orders = np.asarray(_orders(_words(5), jnp.uint32(size), places))[:, :size]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_the_six_orders_of_three_samples_are_equally_likely():
    draws = 6000
    places = jnp.arange(3, dtype=jnp.uint32)
    orders = np.asarray(_orders(_words(draws), jnp.uint32(3), places))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == math.factorial(3)
    statistic = np.sum((counts - draws / 6) ** 2) / (draws / 6)
    # chi-square with 5 degrees of freedom: mean 5, variance 10
    assert statistic < 5 + 5 * math.sqrt(10)


def test_places_and_images_are_uncorrelated():
    draws, size = 500, 100
    places = jnp.arange(size, dtype=jnp.uint32)
    orders = np.asarray(_orders(_words(draws, 1), jnp.uint32(size), places))
    correlation = [np.corrcoef(np.arange(size), order)[0, 1] for order in orders]
    # Of a uniform permutation it has mean 0 and variance 1 / (size - 1).
    assert abs(np.mean(correlation)) < 4 / math.sqrt(draws * (size - 1))
    assert abs(np.var(correlation) * (size - 1) - 1) < 4 * math.sqrt(2 / draws)


def test_every_epoch_visits_each_sample_once_in_batches_that_straddle():
    size, batch = 10, 4  # five batches are two epochs
    key = jax.random.key(0)
    stream = np.concatenate([_drawn(key, 2, i, batch, size) for i in range(5)])
    np.testing.assert_array_equal(np.sort(stream[:size]), np.arange(size))
    np.testing.assert_array_equal(np.sort(stream[size:]), np.arange(size))


def test_the_stream_does_not_depend_on_how_it_is_cut_into_batches():
    key = jax.random.key(3)
    whole = _drawn(key, 1, 0, 12, 7)
    parts = [_drawn(key, 1, i, 4, 7) for i in range(3)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_orders_differ_by_epoch_worker_and_key():
    key, other = jax.random.key(0), jax.random.key(1)
    # Two equal orders of 50 samples have probability 1/50!.
    orders = [
        _drawn(key, 0, 0, 50, 50),  # one epoch is one batch
        _drawn(key, 0, 1, 50, 50),
        _drawn(key, 1, 0, 50, 50),
        _drawn(other, 0, 0, 50, 50),
    ]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_workers_of_different_sizes_are_drawn_side_by_side():
    key = jax.random.key(0)
    sizes = jnp.asarray([1, 5, 8], jnp.int32)
    together = jax.jit(
        jax.vmap(lambda w, i, n: sampling.draw(key, w, i, 12, n), in_axes=(0, None, 0))
    )(jnp.arange(3, dtype=jnp.int32), jnp.int32(3), sizes)
    alone = [_drawn(key, w, 3, 12, sizes[w]) for w in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone))
