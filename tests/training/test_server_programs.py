"""How the server's programs are compiled."""

import jax
import jax.numpy as jnp
import pytest

from abs_dssp import compilation, optimizers
from abs_dssp.tasks.base import Variables
from abs_dssp.training import flat, update


@pytest.mark.skipif(
    compilation.on_one_thread() is None, reason="this XLA has no such setting"
)
@pytest.mark.parametrize(("nbytes", "divided"), [(1 << 20, False), (1 << 23, True)])
def test_small_updates_are_not_divided_between_threads(nbytes, divided):
    vector = jnp.zeros(nbytes // 4)
    structure = jax.tree.structure(Variables(vector, {}))
    layout = flat.Layout(structure, (vector.shape,), vector.size, vector.size)
    config = update.rule(optimizers.sgd(1e-3, momentum=0.9))
    functions = flat.ServerFunctions(config, layout, num_workers=2)
    state = functions.start_optimizer(vector)
    numbers = flat.packed((1.0, 0.0, 0))
    program = functions.commit_single.lower(vector, state, vector, numbers).compile()
    other = jax.jit(lambda x: x + 1).lower(vector).compile()
    has_threads = "partitions" in other.as_text()
    assert ("partitions" in program.as_text()) == (divided and has_threads)
