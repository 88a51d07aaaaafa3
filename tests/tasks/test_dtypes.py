"""Tasks are float32 whatever JAX's default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import tasks


def _doubles(num_workers):
    """A model of one's own on float64 data."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(6, 5)), np.arange(6) % 2
    return tasks.from_functions(
        lambda key: jnp.zeros((5, 2), jnp.float32),
        lambda params, inputs: inputs @ params,
        samples,
        samples,
        num_workers,
        batch_size=2,
    )


MAKERS = [tasks.quadratic, tasks.logistic, tasks.tridiagonal, tasks.zero_chain]
MAKERS += [tasks.digits, _doubles]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.strip("_"))
def test_tasks_hold_and_make_no_float64_and_no_int64(make):
    def step(data, key):
        variables = task.init(key)
        batch = task.batch(data, key, jnp.int32(1), jnp.int32(3))
        loss = jax.value_and_grad(
            lambda params: task.loss(variables._replace(params=params), batch, key),
            has_aux=True,
        )
        values = task.evaluate(data, variables), task.objective(data, variables)
        return variables, batch, loss(variables.params), values

    with jax.enable_x64(True):
        task = make(2)
        made = jax.eval_shape(step, task.data, jax.random.key(0))
    narrow = {jnp.dtype(kind) for kind in (jnp.float32, jnp.int32, jnp.uint8)}
    for path, leaf in jax.tree.leaves_with_path((task.data, made)):
        assert leaf.dtype in narrow, f"{jax.tree_util.keystr(path)}: {leaf.dtype}"
