"""Vectors put together: the values of a concatenation, without its cost."""

import jax
import numpy as np
import pytest

from abs_dssp import optimizers
from abs_dssp.tasks import resolve
from abs_dssp.training import flat
from abs_dssp.training.config import UpdateConfig
from abs_dssp.training.vectors import joined

SIZES = [(3,), (1, 0, 2), (70_000, 5), (5, 70_000, 1, 3)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_bit_of_the_parts_is_there_in_order(sizes):
    bits = np.random.default_rng(0).integers(0, 2**32, sum(sizes), np.uint32)
    parts = np.split(bits.view(np.float32), np.cumsum(sizes)[:-1])  # NaNs among them
    whole = np.asarray(jax.jit(joined)([jax.numpy.asarray(p) for p in parts]))
    assert whole.tobytes() == bits.tobytes()


def test_a_push_of_a_large_model_is_not_put_together_value_by_value():
    """XLA fuses a concatenation with gradients and takes hundreds of times as long."""
    task = resolve('digits(model="mlp(hidden=[512,512])")', 1, "test")
    functions = flat.Functions(task, UpdateConfig(optimizers.sgd(0.1)))
    key = jax.random.key(0)
    vector = functions.initial(key)
    context = flat.push_context(0, 1, 0, 0.0)
    lowered = jax.jit(functions.push).lower(vector, task.data, key, context)
    size = functions.layout.size
    assert f"tensor<{size}xf32>" in lowered.as_text()
    lines = lowered.as_text().splitlines()
    large = [line for line in lines if "concatenate" in line and f"<{size}x" in line]
    assert not large
