"""Pushes computed on several devices, against those of one."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
