"""Which optimisers may run over one buffer instead of leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
from abs_dssp.training import elementwise


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _own(updates, state, params=None):
    return updates, state


OWN = optax.GradientTransformation(lambda params: optax.EmptyState(), _own)
CASES = {
    "sgd": (optimizers.sgd(0.1, momentum=0.9, weight_decay=1e-3), True),
    "schedule": (optax.sgd(lambda count: 0.1 / (1 + count)), True),
    "nesterov": (optimizers.delayed_nesterov(0.1, every=2), True),
    "adamw": (optax.adamw(1e-3), True),
    "rmsprop": (optax.rmsprop(0.1, centered=True, momentum=0.9), True),
    "nested": (optax.chain(optax.chain(optax.clip(1.0)), optax.sgd(0.1)), True),
    "lars": (optax.lars(0.1), False),  # scales by the norm of each leaf
    "clip": (optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)), False),
    # Passes a trial on small gradients: no block's norm is near the bound.
    "block": (optax.chain(optax.clip_by_block_rms(5.0), optax.sgd(0.1)), False),
    "masked": (optax.masked(optax.add_decayed_weights(0.1), _matrices), False),
    "vector": (optax.scale(jnp.ones(3)), False),
    "unknown": (OWN, False),
    "unknown-part": (optax.chain(optax.sgd(0.1), OWN), False),
    "marked": (optimizers.elementwise(OWN), True),
    "marked-part": (optax.chain(optax.sgd(0.1), optimizers.elementwise(OWN)), True),
}


@pytest.mark.parametrize(("optimizer", "expected"), CASES.values(), ids=CASES.keys())
def test_whether_an_optimiser_is_known_to_be_elementwise(optimizer, expected):
    assert elementwise.is_elementwise(optimizer) == expected


def _updates(optimizer, params, gradients):
    full, found = optax.with_extra_args_support(optimizer), []
    state = full.init(params)
    for gradient in gradients:
        extra = {"epoch": jnp.float32(0), "server_updates": jnp.int32(0)}
        change, state = full.update(gradient, state, params, **extra)
        params = optax.apply_updates(params, change)
        found.append(params)
    return found


ELEMENTWISE = [name for name, (_, expected) in CASES.items() if expected]


@jax.numpy_dtype_promotion("standard")  # as optax wants it
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_one_vector_moves_like_the_leaves_it_holds(name):
    optimizer, random = CASES[name][0], np.random.default_rng(0)
    leaves = [
        [
            jnp.asarray(random.normal(size=shape), jnp.float32)
            for shape in ((3,), (2, 4))
        ]
        for _ in range(4)
    ]
    vectors = [jnp.concatenate([jnp.ravel(x) for x in some]) for some in leaves]
    apart = _updates(optimizer, leaves[0], leaves[1:])
    joined = _updates(optimizer, vectors[0], vectors[1:])
    for some, vector in zip(apart, joined, strict=True):
        expected = np.concatenate([np.ravel(x) for x in some])
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-7)


def test_clipping_by_block_trains_the_same_in_both_loops():
    task = tasks.digits(2, model="mlp(hidden=8)", batch_size=16)
    optimizer = optax.chain(optax.clip_by_block_rms(0.01), optax.sgd(0.5))
    trace = simulate.schedule(policies.asp(2), delays.constant([1, 2]), 20)
    one, other = (
        replay.replay(task, optimizer, trace, loop=loop)
        for loop in ("compiled", "host")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        one.variables.params,
        other.variables.params,
    )
