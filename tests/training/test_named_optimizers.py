"""Optimizers as text are those of optax and of this package, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import optimizers
from abs_dssp.training import named_optimizers
from abs_dssp.training.elementwise import is_elementwise

PARAMS = {"w": jnp.asarray([[0.5, -2.0], [1.0, 3.0]], jnp.float32)}
GRADIENTS = [jax.tree.map(lambda w, s=s: s * w, PARAMS) for s in (1.0, -0.3, 4.0)]


@pytest.fixture(autouse=True)
def promotion():
    """Optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def path(optimizer):
    optimizer = optax.with_extra_args_support(optimizer)
    params, state = PARAMS, optimizer.init(PARAMS)
    for number, gradient in enumerate(GRADIENTS):
        clocks = {"epoch": jnp.float32(number), "server_updates": jnp.int32(number)}
        change, state = optimizer.update(gradient, state, params, **clocks)
        params = optax.apply_updates(params, change)
    return np.asarray(params["w"])


SAME = {
    "adam(0.1)": lambda: optax.adam(0.1),
    "adamw(learning_rate=0.1, weight_decay=0.2)": lambda: optax.adamw(
        0.1, weight_decay=0.2
    ),
    "chain(clip_by_global_norm(1.0), sgd(0.1, momentum=0.9))": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9)
    ),
    "lion(linear_schedule(0.1, 0.0, 3))": lambda: optax.lion(
        optax.linear_schedule(0.1, 0.0, 3)
    ),
    "rmsprop(piecewise_constant_schedule(0.1, {2: 0.5}))": lambda: optax.rmsprop(
        optax.piecewise_constant_schedule(0.1, {2: 0.5})
    ),
    "sgd(step_decay(0.1, at=[2]), clock='epoch')": lambda: optimizers.sgd(
        optimizers.step_decay(0.1, at=[2])
    ),
    "optax:adagrad(0.1)": lambda: optax.adagrad(0.1),
}


@pytest.mark.parametrize("text", SAME)
def test_a_text_is_the_optimizer_that_it_names(text):
    made = optimizers.parse(text)
    np.testing.assert_array_equal(path(made), path(SAME[text]()))
    assert is_elementwise(made) == is_elementwise(SAME[text]())


def test_a_rate_is_given_to_what_takes_one():
    text = "chain(clip_by_global_norm(1.0), adam(b1=0.8))"
    expected = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.3, 0.8))
    np.testing.assert_array_equal(path(optimizers.parse(text, 0.3)), path(expected))


@pytest.mark.parametrize("name", named_optimizers._OPTIMIZERS)
def test_every_name_makes_an_optimizer_that_steps(name):
    assert np.isfinite(path(optimizers.parse(name, 0.1))).all()


@pytest.mark.parametrize("name", named_optimizers._SCHEDULES + named_optimizers._PARTS)
def test_every_part_is_there(name):
    assert name in optimizers.names()


@pytest.mark.parametrize(
    ("text", "rate", "message"),
    [
        ("adam", None, "adam needs the argument 'learning_rate'"),
        ("adam(0.1)", 0.1, "learning_rate=0.1 is given beside 'adam"),
        ("adam(learning_rate=0.1)", 0.1, "leave one of them out"),
        ("clip(1.0)", 0.1, "nothing in 'clip.1.0.' takes learning_rate"),
        ("adam(0.1, beta=2)", None, "adam has no argument 'beta'; known: learning_r"),
        ("lbfgs()", None, "unknown name 'lbfgs'; known: adabelief"),
        ("constant_schedule(0.1)", None, "must make an optax optimizer .*got function"),
        ("statistics:mean([1, 2])", None, "must make an optax optimizer .*got float"),
        ("adam(learning_rate='x')", None, "makes no step"),
        ("chain(1, 2)", None, "chain: expected optimizers and parts, got 1"),
        ("adam(learning_rate=__import__('os'))", None, "unknown name '__import__'"),
    ],
)
def test_parse_refuses(text, rate, message):
    with pytest.raises(ValueError, match=message):
        optimizers.parse(text, rate)
