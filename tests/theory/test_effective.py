"""Which optimisers the theorems cover, and with what steps."""

import optax
import pytest

from abs_dssp import optimizers, theory
from abs_dssp.training.config import UpdateConfig


def config(server, local, steps=1, push="displacement"):
    return UpdateConfig(server, local, steps, push=push)


@pytest.mark.parametrize("sgd", [optimizers.sgd, optax.sgd])
def test_a_displacement_by_sgd_is_gamma_times_the_gradients(sgd):
    """w - s (w - w_local) = w - s gamma sum of g."""
    assert theory.effective_steps(config(sgd(0.5), sgd(0.25))) == (0.125, 0.125)
    assert theory.effective_steps(config(sgd(4.0), sgd(0.25), 3)) == (1.0, 0.25)
    gradients = config(sgd(0.5), sgd(0.25), 3, "gradients")
    assert theory.effective_steps(gradients) == (0.5, 0.25)
    single = config(sgd(0.5), optax.adam(0.1), 1, "gradients")  # which takes no step
    assert theory.effective_steps(single) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("server", "local", "message"),
    [
        (optimizers.sgd(1.0), optax.adamw(0.1), "local optimizer is not plain SGD"),
        (optimizers.sgd(1.0), optax.sign_sgd(0.1), "local optimizer is not plain SGD"),
        (optimizers.sgd(0.7, momentum=0.9), optax.sgd(0.1), "server's optimizer is"),
        (optimizers.sgd(0.7, weight_decay=0.1), optax.sgd(0.1), "server's optimizer"),
        (optimizers.sgd(lambda epoch: 1 / (1 + epoch)), optax.sgd(0.1), "server's"),
        (optax.chain(optax.clip(1.0), optax.sgd(1.0)), optax.sgd(0.1), "server's"),
        (optimizers.sgd(0.5), optax.sgd(0.1), "gamma=0.1 and eta=0.05"),
    ],
)
def test_anything_else_has_no_guarantee(server, local, message):
    with pytest.raises(ValueError, match=message):
        theory.effective_steps(config(server, local, 4))
