"""Pushes and commits over one buffer, against the same on pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
from abs_dssp.history.machine import TOGETHER
from abs_dssp.training import flat, update
from abs_dssp.training.parameters import Parameters, advances


def variables():
    return tasks.Variables(
        {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(4)}, {"mean": jnp.zeros(2)}
    )


def problem(num_workers=2):
    """Quadratic in the parameters; statistics follow the batch."""

    def loss(v, batch, key):
        value = sum(jnp.sum((x - batch) ** 2) for x in jax.tree.leaves(v.params))
        return value, {"mean": 0.5 * v.stats["mean"] + batch}

    return tasks.Task(
        name="toy", num_workers=num_workers, batch_size=1, samples_per_epoch=10,
        data=(), init=lambda key: variables(),
        batch=lambda data, key, worker, index: worker + 0.1 * index,
        loss=loss, evaluate=lambda data, v: {"sum": jnp.sum(v.params["a"])},
        objective=lambda data, v: jnp.float32(0),
    )  # fmt: skip


@pytest.mark.parametrize("weights", [[1.0], [0.5], [0.5, 0.25], [1.0, 0.0, 2.0], []])
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize(
    "optimizer", [optimizers.sgd(0.1, momentum=0.9), optax.lars(0.1)]
)
def test_weighted_pushes_move_the_parameters_as_defined(weights, aggregate, optimizer):
    """Sum of w_i g_i, divided by the sum of w_i for the mean; statistics averaged."""
    functions = flat.Functions(problem(), update.rule(optimizer, aggregate=aggregate))
    server = Parameters(functions, functions.initial(jax.random.key(0)))
    random = np.random.default_rng(0)
    pushes = random.normal(size=(len(weights), functions.layout.size))
    for push, weight in zip(pushes.astype(np.float32), weights, strict=True):
        buffer = push.copy()
        server.receive(buffer, weight, 0, False, buffer)
        server.keep()
        buffer[:] = np.nan  # the ring's slot is used again
    server.commit(0.0, 0)
    total = sum(weights)
    mixed = sum((w * p for w, p in zip(weights, pushes, strict=True)), np.zeros(12))
    mean = mixed / total if total else mixed
    gradient = mean if aggregate == "mean" else mixed
    slopes = functions.layout.unflatten(jnp.asarray(gradient, jnp.float32)).params
    start = variables()
    full = optax.with_extra_args_support(optimizer)
    change, _ = full.update(
        slopes, full.init(start.params), start.params, epoch=0.0, server_updates=0
    )
    expected = flat.flatten(
        tasks.Variables(
            optax.apply_updates(start.params, change),
            {"mean": jnp.asarray(mean[10:] if total else [0.0, 0.0], jnp.float32)},
        )
    )
    np.testing.assert_allclose(server.vector, expected, rtol=2e-6, atol=1e-6)


def test_state_is_restored_between_any_two_pushes():
    functions = flat.Functions(
        problem(), update.rule(optimizers.sgd(0.1, momentum=0.9))
    )
    random = np.random.default_rng(0)
    pushes = random.normal(size=(9, functions.layout.size)).astype(np.float32)
    first = Parameters(functions, functions.initial(jax.random.key(0)))
    for number, push in enumerate(pushes):
        again = Parameters(functions, functions.initial(jax.random.key(1)))
        again.restore([np.array(leaf) for leaf in first.leaves()])
        first = again
        first.receive(push, 0.5, 0, False, push)
        if number % 3 == 2:
            first.commit(0.0, number)
    straight = Parameters(functions, functions.initial(jax.random.key(0)))
    for number, push in enumerate(pushes):
        straight.receive(push, 0.5, 0, False, push)
        if number % 3 == 2:
            straight.commit(0.0, number)
    np.testing.assert_array_equal(first.vector, straight.vector)


@pytest.mark.often(1)
@pytest.mark.parametrize(
    "text", ["asp()", "bsp()", "weighted(k_async(k=2), inverse())"]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_row_by_row_is_the_compiled_loop(text, steps):
    task = tasks.digits(4, model="mlp", batch_size=16)
    optimizer = optimizers.sgd(0.1, momentum=0.9)
    trace = simulate.schedule(
        policies.parse(text, 4), delays.exponential(1.0, 4), 60, local_steps=steps
    )
    compiled = replay.replay(task, optimizer, trace, loop="compiled")
    rows = replay.replay(task, optimizer, trace, loop="host")
    for one, other in zip(
        jax.tree.leaves(compiled.variables),
        jax.tree.leaves(rows.variables),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.often(6)
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize(
    ("optimizer", "always"),
    [
        (optimizers.sgd(lambda e: 0.1 / (1 + e), momentum=0.9, nesterov=True), True),
        (optax.rmsprop(0.1, momentum=0.5), False),
        (optax.lars(0.1), False),
    ],
)
@pytest.mark.parametrize("count", range(2, TOGETHER + 1))
def test_versions_made_at_once_are_those_made_one_by_one(
    count, optimizer, always, aggregate
):
    functions = flat.Functions(problem(4), update.rule(optimizer, aggregate=aggregate))
    if not advances(functions):  # as with Adam; its rounding is another
        assert not always
        return
    start = functions.initial(jax.random.key(3))
    one, many = Parameters(functions, start), Parameters(functions, start)
    random = np.random.default_rng(count)
    for first in range(0, 3 * count, count):
        pushes = random.normal(size=(count, functions.layout.size)).astype(np.float32)
        numbers = [(0.5 + i, 0.25 * i, first + i) for i in range(count)]
        made = [np.array(version) for version in many.advance(list(pushes), numbers)]
        for push, (weight, epoch, number), version in zip(
            pushes, numbers, made, strict=True
        ):
            one.receive(push, weight, 0, True, push)
            one.commit(epoch, number)
            np.testing.assert_array_equal(one.vector, version)
    for mine, theirs in zip(one.leaves(), many.leaves(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_versions_are_not_made_at_once_where_pushes_are_kept_apart():
    rule = update.rule(optimizers.sgd(0.1), aggregate="workers")
    assert not advances(flat.Functions(problem(), rule))
    assert advances(flat.Functions(problem(), update.rule(optimizers.sgd(0.1))))


def test_other_number_types_are_refused():
    half = problem()._replace(
        init=lambda key: tasks.Variables({"a": jnp.ones(3, jnp.bfloat16)}, {})
    )
    with pytest.raises(ValueError, match="bfloat16; parameters and statistics must be"):
        flat.layout(half)
    with pytest.raises(ValueError, match="push format must be one of"):
        flat.wire(push="float16")


def test_the_first_version_stays_the_callers():
    """A commit uses up the parameters' buffer, which must not be the caller's."""
    functions = flat.Functions(problem(), update.rule(optimizers.sgd(0.1)))
    start = functions.initial(jax.random.key(0))
    start = jax.device_put(start, jax.local_devices()[0])
    before = np.array(start)
    server = Parameters(functions, start)
    server.receive(np.ones_like(before), 1.0, 0, True, before)
    server.commit(0.0, 0)
    np.testing.assert_array_equal(start, before)
    assert not np.array_equal(server.vector, before)
