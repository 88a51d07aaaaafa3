"""The bytes of a text: windows, their split, identity and measures."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import tasks
from abs_dssp.tasks import language, models
from abs_dssp.training import identity
from abs_dssp.training.config import UpdateConfig

SMALL = "transformer(width=8,depth=1,heads=2)"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(bytes(i * 7 % 251 for i in range(1000)))
    return path


def test_targets_are_the_next_bytes_and_the_end_is_for_testing(file):
    content = np.frombuffer(file.read_bytes(), np.uint8)
    task = tasks.text(2, path=str(file), context=10, stride=5, model=SMALL)
    data = jax.device_get(task.data)
    for start in (0, 1, 100):
        at = 5 * start
        np.testing.assert_array_equal(data["train"][start], content[at : at + 10])
        np.testing.assert_array_equal(
            data["train_labels"][start], content[at + 1 : at + 11]
        )
    # 900 bytes: the last window that has a byte after it begins at 885.
    assert len(data["train"]) == 178 and task.samples_per_epoch == 178
    np.testing.assert_array_equal(data["test"][0], content[900:910])
    assert len(data["test"]) == 9  # 100 bytes, windows that do not overlap
    limited = tasks.text(
        2, path=str(file), context=10, model=SMALL, limit_train=5, limit_test=3
    )
    assert len(limited.data["train"]) == 5 and len(limited.data["test"]) == 3


@pytest.mark.parametrize("partition", ["contiguous", "shared"])
def test_workers_have_parts_of_the_text_or_all_of_it(file, partition):
    text = f"text(path='{file}', context=10, model={SMALL})"
    task = tasks.parse(text, 2, partition=partition)
    content = np.frombuffer(file.read_bytes(), np.uint8)[:900]
    batch = jax.jit(task.batch)
    numbers = jnp.arange(20, dtype=jnp.int32)
    batches = [
        {
            bytes(row.astype(np.uint8))
            for index in numbers
            for row in np.asarray(
                batch(task.data, jax.random.key(0), jnp.int32(worker), index)[0]
            )
        }
        for worker in range(2)
    ]
    # 20 batches of 32 are more than the 445 windows of an epoch.
    every = {bytes(content[at : at + 10]) for at in range(0, 890, 2)}
    first = {bytes(content[at : at + 10]) for at in range(0, 446, 2)}
    last = {bytes(content[at : at + 10]) for at in range(446, 890, 2)}
    wanted = [every, every] if partition == "shared" else [first, last]
    assert batches == wanted


def test_a_batch_depends_on_seed_worker_and_number_alone(file):
    task = tasks.text(2, path=str(file), context=10, model=SMALL, batch_size=4)

    compiled = jax.jit(task.batch)

    def batch(seed, worker, index):
        numbers = jnp.int32(worker), jnp.int32(index)
        return np.asarray(compiled(task.data, jax.random.key(seed), *numbers)[0])

    np.testing.assert_array_equal(batch(0, 1, 7), batch(0, 1, 7))
    for other in ((1, 1, 7), (0, 0, 7), (0, 1, 8)):
        assert not np.array_equal(batch(0, 1, 7), batch(*other))


def test_measures_are_those_of_a_plain_model(file):
    task = tasks.text(1, path=str(file), context=10, model=SMALL)
    variables = jax.jit(task.init)(jax.random.key(1))
    found = jax.jit(task.evaluate)(task.data, variables)
    inputs, targets = (np.asarray(task.data[name]) for name in ("test", "test_labels"))
    module = models.parse(SMALL, 256)
    apply = jax.jit(lambda inputs: module.apply({"params": variables.params}, inputs))
    logits = np.asarray(apply(inputs), float)
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    right = -np.take_along_axis(log, targets[..., None], -1).mean()
    assert float(found["loss"]) == pytest.approx(right, rel=1e-5)
    assert float(found["bits_per_byte"]) == pytest.approx(right / np.log(2), rel=1e-5)
    share = (logits.argmax(-1) == targets).mean()
    assert float(found["accuracy"]) == pytest.approx(share)


def test_other_bytes_are_another_run(file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(file.read_bytes()[:-1] + b"!")  # the last byte is tested on only

    def made(path):
        task = tasks.text(2, path=str(path), context=10, model=SMALL)
        return task.name, identity.of_run(task, UpdateConfig(_sgd()), 0)

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    one, again, another = made(file), made(file), made(other)
    assert one[0] == f"text-{digest[:12]}/{SMALL}"
    assert one == again
    assert one[0] != another[0] and one[1] != another[1]


def _sgd():
    import optax

    return optax.sgd(0.1)


def test_the_texts_of_python_are_text():
    found = language.read()
    assert found == language.read() and len(found.content) > 10**5
    assert b"The Python" in bytes(found.content) or b"Python" in bytes(found.content)
    assert found.sha256 == hashlib.sha256(bytes(found.content)).hexdigest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "/nowhere/file.txt"}, "cannot read /nowhere/file.txt: No such file"),
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"limit_test": 0}, "limit_test must be at least 1, got 0"),
        ({"context": 10**6}, "too few for a window of context=1000000"),
        ({"model": "transformer(width=9)"}, "multiple of heads=4, got 9"),
        ({"model": f"{SMALL[:-1]},context=5)"}, "64 tokens, but .* context=5"),
        ({"partition": "dirichlet(alpha=1)"}, "splits samples by label"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    given = {"model": SMALL} | settings
    with pytest.raises(ValueError, match=message):
        tasks.text(2, **given)
