"""A checkpoint is taken up by its own run, whatever sizes it had, and by no other."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import (
    communication,
    delays,
    optimizers,
    policies,
    replay,
    simulate,
    tasks,
)
from abs_dssp.training import checkpoints, identity, update

N = 4
MODEL = delays.shifted_exponential([1, 1, 1, 2.7], 0.5)


@pytest.fixture(scope="module")
def task():
    return tasks.quadratic(N, dim=6, condition=10.0, noise=1.0, heterogeneity=0.3)


class Interrupted(Exception):
    pass


def interrupt(done, total, record):
    if done > 40:
        raise Interrupted


@pytest.mark.often(2)
@pytest.mark.parametrize("loop", ["compiled", "host"])
@pytest.mark.parametrize("slots", [(None, 16), (16, None)], ids=["more", "fewer"])
def test_a_checkpoint_is_resumed_with_other_sizes(task, tmp_path, loop, slots):
    trace = simulate.schedule(policies.asp(N), MODEL, 80)
    assert trace.staleness.max() < 15
    optimizer = optax.sgd(0.05, momentum=0.5)

    def run(slots, **settings):
        return replay.replay(
            task, optimizer, trace, loop=loop, slots=slots, eval_every_commits=10,
            **settings,
        )  # fmt: skip

    first, second = slots
    with pytest.raises(Interrupted):
        run(first, checkpoint_dir=tmp_path, progress=interrupt)
    seen = []
    resumed = run(
        second, checkpoint_dir=tmp_path, progress=lambda done, *_: seen.append(done)
    )
    assert seen[0] > 40, "it began again from the start"
    whole = run(None)
    np.testing.assert_array_equal(resumed.variables.params, whole.variables.params)
    assert resumed.history.records == whole.history.records


TABLE = delays.recorded(np.ones((N, 70)))  # too large to be spelled out
OTHERS = {
    "optimizer": {"optimizer": optimizers.sgd(0.2)},
    "schedule": {"optimizer": optimizers.sgd(lambda epoch: 0.1 / (1 + epoch))},
    "local optimizer": {"local_optimizer": optimizers.sgd(0.2)},
    "aggregate": {"aggregate": "sum"},
    "seed": {"seed": 1},
    "communication": {"communication": communication.link(1.0, 10.0)},
    "table of delays": {"delays": delays.recorded(1 + np.eye(N, 70) / 2)},
}


@pytest.mark.parametrize("text", ["asp()", "adasync(k0=1,interval=2)"])
def test_a_checkpoint_of_another_run_is_refused(task, tmp_path, text):
    known = {"optimizer": optimizers.sgd(0.1), "delays": TABLE}

    def run(**changed):
        return simulate.train(
            task, policies.parse(text, N), num_pushes=40, local_steps=2,
            checkpoint_dir=tmp_path, **known | changed,
        )  # fmt: skip

    run()
    run(eval_every_commits=3)  # does not decide what is computed
    for name, changed in OTHERS.items():
        with pytest.raises(ValueError, match="holds a checkpoint of another run"):
            run(**changed)
            pytest.fail(f"resumed with another {name}")


def test_an_identity_is_the_content_and_nothing_else(task):
    def identify(task=task, rate=0.1, constant=1.0):
        table = jnp.full((100,), constant)
        scaled = optax.stateless(lambda g, _: jax.tree.map(lambda x: x * table[:6], g))
        optimizer = optax.chain(scaled, optimizers.sgd(rate))
        return identity.of_run(task, update.rule(optimizer), 0)

    def build(**changed):
        given = {"dim": 6, "condition": 10.0, "noise": 1.0, "heterogeneity": 0.3}
        return tasks.quadratic(N, **given | changed)

    expected = identify()
    assert identify(task=build()) == expected  # other objects, the same content
    others = [
        identify(rate=0.2),
        identify(constant=2.0),
        identify(task=build(noise=2.0)),
        identify(task=build(heterogeneity=0.4)),
        identify(task=task._replace(batch_size=task.batch_size + 1)),
        identify(task=task._replace(loss=lambda v, b, k: (jnp.sum(v.params), v.stats))),
    ]
    assert len({expected, *others}) == 1 + len(others)


def test_large_data_is_part_of_an_identity():
    images = np.zeros((64, 8, 8, 1), np.uint8)
    labels = np.zeros(64, np.int64)

    def identify(images):
        task = tasks.from_flax(
            tasks.models.parse("mlp(hidden=4)", 3), (images, labels), (images, labels),
            num_workers=2, batch_size=8,
        )  # fmt: skip
        return identity.of_run(task, update.rule(optimizers.sgd(0.1)), 0)

    changed = images.copy()
    changed[-1, -1, -1, 0] = 1
    assert identify(images) == identify(images.copy()) != identify(changed)


@pytest.fixture
def store(tmp_path):
    """Checkpoints 3 and 5."""
    made = checkpoints.Store(tmp_path, "mine")
    for step in (3, 5):
        leaves = [jnp.full((2, 3), step, jnp.bfloat16), np.arange(4.0), np.bool_(step)]
        made.save(step, leaves, {"step": step})
    return made


def test_what_was_saved_is_read_with_its_types(store):
    found = store.latest()
    assert (found.step, found.note) == (5, {"step": 5})
    kinds = [(leaf.dtype, leaf.shape) for leaf in found.leaves]
    assert kinds == [(jnp.bfloat16, (2, 3)), (np.float64, (4,)), (np.bool_, ())]
    np.testing.assert_array_equal(found.leaves[1], np.arange(4.0))
    assert found.leaves[0].astype(float).tolist() == [[5.0] * 3] * 2


def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_used(store, tmp_path):
    path = tmp_path / "5.npz"
    whole = path.read_bytes()
    true = store.latest()
    passed_by = 0
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        found = store.latest()
        if found.step == 3:
            passed_by += 1
            assert str(path) in store.damaged.pop()
            continue
        assert found.note == true.note  # what is not content, such as a date
        for leaf, other in zip(found.leaves, true.leaves, strict=True):
            assert leaf.tobytes() == other.tobytes() and leaf.dtype == other.dtype
    assert passed_by > len(whole) / 2


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_checkpoint_that_was_cut_short_is_passed_by(store, tmp_path, kept):
    path = tmp_path / "5.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert store.latest().step == 3
    (tmp_path / "3.npz").unlink()
    assert store.latest() is None


def test_two_are_kept_and_what_a_dead_process_left_is_removed(store, tmp_path):
    store.save(8, [np.zeros(1)], {})
    (tmp_path / "9.partial").write_bytes(b"half")
    checkpoints.Store(tmp_path, None)  # a reader
    assert (tmp_path / "9.partial").exists()
    checkpoints.Store(tmp_path, "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5.npz", "8.npz"]


def test_one_that_was_passed_by_is_saved_again_and_is_none_of_the_two(store, tmp_path):
    (tmp_path / "5.npz").write_bytes(b"damaged")
    assert store.latest_step() == 5
    assert store.latest().step == 3 and store.latest_step() == 3
    store.save(7, [np.zeros(1)], {})
    assert store.usable() == [3, 7], "or else one damage more would leave none"
    store.save(8, [np.zeros(1)], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7.npz", "8.npz"]
    (tmp_path / "8.npz").write_bytes(b"damaged")
    assert store.latest().step == 7
    store.save(8, [np.zeros(1)], {})
    assert store.latest_step() == store.latest().step == 8


def test_a_full_disk_leaves_the_checkpoints_before(store, tmp_path):
    class Full:
        """`os` whose disk is full."""

        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, descriptor, data):
            raise OSError(28, "No space left on device")

    full = checkpoints.Store(tmp_path, "mine", Full())
    with pytest.raises(OSError, match="No space"):
        full.save(9, [np.zeros(10)], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.npz", "5.npz"]
    assert store.latest().step == 5


def test_checkpoints_of_an_earlier_version_are_refused(tmp_path):
    (tmp_path / "40").mkdir()
    with pytest.raises(ValueError, match="an earlier version; choose another"):
        checkpoints.Store(tmp_path, "mine")
