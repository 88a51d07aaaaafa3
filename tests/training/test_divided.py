"""Pushes computed on several devices, against those of one."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from abs_dssp import tasks
from abs_dssp.tasks import splitting
from abs_dssp.training import flat, mesh
from abs_dssp.training.config import UpdateConfig

DEVICES = 4


def wide(num_workers=1):
    """Two layers of which nearly everything is divided."""
    return tasks.digits(num_workers, model="mlp(hidden=[128,64])", batch_size=16)


def transformer():
    model = "transformer(width=32,depth=1,heads=2)"
    return tasks.text(1, model=model, batch_size=2, context=16)


def both(task, config, formats=flat.Wire(), rule="largest"):  # noqa: B008
    """The functions of one device, those of several, and what each is given."""
    one = flat.Functions(task, config, formats)
    split = splitting.of_task(task, DEVICES, rule)
    several = mesh.functions(task, config, formats, split)
    key = jax.random.key(3)
    vector = one.pulled(one.initial(key))
    if one.local_size:
        local = np.asarray(one.start_local(vector))
        vector = np.concatenate([np.asarray(vector), local])
    here = (jnp.asarray(vector), task.data, key)
    there = (np.array(vector), *several.placed((task.data, key)))
    return one, several, here, there


# Linear in the gradients, so that a difference of rounding stays one; a mean, a count.
REMEMBERS = optax.chain(
    optax.trace(0.9),
    optax.scale_by_schedule(lambda count: -0.1 / (1 + count.astype(jnp.float32))),
)
KINDS = {
    "a-gradient": UpdateConfig(optax.sgd(0.1)),
    "three-local-steps": UpdateConfig(optax.sgd(0.1), REMEMBERS, 3),
    "a-displacement": UpdateConfig(optax.sgd(1.0), REMEMBERS, push="displacement"),
    "a-kept-state": UpdateConfig(
        optax.sgd(1.0), REMEMBERS, 2, push="displacement", local_state="kept"
    ),
}


@pytest.mark.often(2)
@pytest.mark.parametrize("name", KINDS)
def test_a_push_of_several_devices_is_that_of_one(name):
    one, several, here, there = both(wide(), KINDS[name])
    numbers = (0, 5, 2, 0.5)
    expected, expected_loss = one.compute(*here, *numbers)
    found, loss = several.compute(*there, *numbers)
    assert isinstance(found, mesh.Shards) and found.shape == expected.shape
    expected, found = np.asarray(expected), np.asarray(found)
    if one.local_size:  # the mean's bits, then the count's: two steps were made
        assert found[-1:].view(np.int32) == expected[-1:].view(np.int32) == 2
        expected, found = expected[:-1], found[:-1]
    # Sums are taken in another order.
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", [wide, transformer])
def test_a_device_holds_its_part_of_parameters_and_state(task):
    """Counted in the devices' own buffers, between two local steps."""
    task = task()
    config = UpdateConfig(optax.sgd(0.1), optax.adam(0.01), 2)
    _, several, _, (vector, _, key) = both(task, config)
    state = several.programs(key).begin(vector)
    for tree in (state.variables.params, state.optimizer, state.gradient):
        total = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        held = collections.Counter()
        for leaf in jax.tree.leaves(tree):
            for shard in leaf.addressable_shards:
                held[shard.device] += shard.data.nbytes
        assert len(held) == DEVICES
        assert max(held.values()) <= 0.3 * total, (held, total)


class Divided(nn.Module):
    """Says of its first layer how it is divided, and of the second nothing."""

    @nn.compact
    def __call__(self, x):
        kernel = nn.with_partitioning(nn.initializers.lecun_normal(), ("model", None))
        x = nn.relu(nn.Dense(16, kernel_init=kernel)(x))
        return nn.Dense(4)(x)


class DividedToo(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        start = nnx.initializers.lecun_normal()
        kernel = nnx.with_partitioning(start, ("model", None))
        self.first = nnx.Linear(8, 16, kernel_init=kernel, rngs=rngs)
        self.second = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


def samples():
    random = np.random.default_rng(0)
    return random.normal(size=(40, 8)).astype(np.float32), np.arange(40) % 4


def from_linen():
    return tasks.from_flax(Divided(), samples(), samples(), num_workers=1)


def from_nnx():
    return tasks.from_nnx(DividedToo, samples(), samples(), num_workers=1)


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [(from_linen, "Dense_0", "Dense_1"), (from_nnx, "first", "second")],
)
def test_the_models_metadata_come_before_the_rule(make, first, second):
    task = tasks.check(make())
    axes = dict(splitting.of_task(task, DEVICES, "metadata").axes)
    assert {name for name, axis in axes.items() if axis is not None} == {
        f"{first}.kernel"
    }
    axes = dict(splitting.of_task(task, DEVICES).axes)
    assert axes == {
        f"{first}.kernel": 0,  # (8, 16); the rule would have divided the 16
        f"{first}.bias": 0,
        f"{second}.kernel": 0,
        f"{second}.bias": 0,
    }
    one, several, here, there = both(task, KINDS["three-local-steps"])
    found, _ = several.compute(*there, 0, 1, 0, 0.0)
    expected, _ = one.compute(*here, 0, 1, 0, 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def third(name, shape, devices):
    """A rule that names an axis that no parameter has."""
    return 2


@pytest.mark.parametrize(
    ("names", "rule", "message"),
    [
        (
            ("embed", None),
            "largest",
            r"name the axis 'embed', but .* one axis, 'model'",
        ),
        (("model", "model"), "largest", r"divide 2 axes"),
        (
            (None, None),
            third,
            r"third names axis 2 of Dense_0.bias, whose shape is \(6",
        ),
        ((None, "model"), "metadata", r"name axis 1 .* must be a multiple of .*=4"),
        ((None, None), "metadata", r"no parameter of dense is divided .* \(8, 6\)"),
        ((None, None), "first", r"unknown rule 'first'; known: largest, metadata"),
    ],
    ids=["unknown", "twice", "no-axis", "not-divisible", "nothing", "no-rule"],
)
def test_a_division_that_cannot_be_is_refused(names, rule, message):
    init = nn.with_partitioning(nn.initializers.lecun_normal(), names)

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6, kernel_init=init)(x)

    data = samples(), samples()
    task = tasks.from_flax(Layer(), *data, num_workers=1, name="dense")
    with pytest.raises(ValueError, match=message):
        splitting.of_task(task, DEVICES, rule)


def test_fewer_devices_than_a_push_is_computed_on_are_refused():
    split = splitting.of_task(wide(), 16)
    several = mesh.functions(wide(), KINDS["a-gradient"], split=split)
    with pytest.raises(ValueError, match="on 16 devices of one process, .* one has 8"):
        several.placed(())
