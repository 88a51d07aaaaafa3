"""Any kind of number is accepted, and arguments broadcast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from abs_dssp import theory

KINDS = [int, float, np.int64, np.float32, np.float64, jnp.int32, jnp.float32]
KINDS += [np.array, jnp.array]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbers_of_any_kind_give_the_same(kind):
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        # 2 * 3 / (2 * 5) + 2 * 7, then 6 / (2 sqrt(2 * 2)).
        bound = theory.theorem_a(3, 1, 7, kind(2), 5, kappa_1=1)
        assert float(bound) == pytest.approx(14.6)
        assert float(theory.regret_step(kind(6), 2, 0, 2)) == 1.5
        assert float(theory.collection_bound([kind(2), kind(2)], 4)) == 6
        assert float(theory.round_time("asp", np.int64(4), 1, kind(2))) == 0.125


@pytest.mark.typed
def test_arrays_broadcast_and_others_are_refused():
    gap, step = jnp.ones((3, 1)), jnp.ones((1, 4))
    found = theory.theorem_a(gap, 1.0, np.ones((3, 4), np.float32), step, 1, kappa_1=1)
    assert found.shape == (3, 4)
    with pytest.raises(TypeCheckError):
        theory.theorem_a(jnp.ones(3), 1.0, 1.0, jnp.ones(4), 1, kappa_1=1)
    with pytest.raises(TypeCheckError):
        theory.collection_time(jnp.ones((2, 2)), 3)
