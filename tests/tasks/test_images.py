"""Data sets as arrays, and what is said when they cannot be had."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abs_dssp import tasks
from abs_dssp.tasks import images

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DATA = Path(os.environ.get("ABS_DSSP_DATA_DIR", SHARED))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache and a TFDS folder that are empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    images.tfds.cache_clear()
    yield tmp_path
    images.tfds.cache_clear()


def test_digits_are_split_once_and_for_all():
    first, again = images.digits(), images.digits()
    assert first.train.shape == (1437, 8, 8, 1) and first.test.shape == (360, 8, 8, 1)
    np.testing.assert_array_equal(first.test, again.test)
    assert set(first.train_labels) == set(first.test_labels) == set(range(10))


def test_subset_takes_distinct_samples_and_keeps_their_labels():
    whole = images.digits()
    part = images.subset(whole, 100, None)
    assert part.train.shape == (100, 8, 8, 1) and len(part.test) == 360
    rows = {
        (x.tobytes(), int(y))
        for x, y in zip(whole.train, whole.train_labels, strict=True)
    }
    pairs = zip(part.train, part.train_labels, strict=True)
    assert all((x.tobytes(), int(y)) in rows for x, y in pairs)


def test_a_missing_folder_is_named(home):
    with pytest.raises(tasks.DataError, match="nowhere does not exist.*holds cifar10"):
        images.tfds("cifar10", str(home / "nowhere"))


def test_unprepared_data_are_not_fetched_unasked(home):
    with pytest.raises(tasks.DataError, match="not prepared.*--download"):
        images.tfds("cifar10", str(home))


def test_an_unknown_data_set_is_a_data_error(home):
    with pytest.raises(tasks.DataError, match="no_such_set is no data set"):
        images.tfds("no_such_set", str(home))


@pytest.mark.skipif(
    not (DATA / "cifar10").is_dir(),
    reason="no CIFAR-10; name its folder in ABS_DSSP_DATA_DIR",
)
def test_cifar10_is_decoded_once_then_read_from_the_cache(home, monkeypatch):
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda b, split: decode(b, split="test"))
    first = images.tfds("cifar10", str(DATA))  # both splits are `test`: faster
    assert first.test.shape == (10000, 32, 32, 3) and first.num_classes == 10
    np.testing.assert_array_equal(np.bincount(first.test_labels), [1000] * 10)
    images.tfds.cache_clear()
    monkeypatch.setattr(images, "_decode", lambda b, split: pytest.fail("decoded"))
    again = images.tfds("cifar10", str(DATA))
    np.testing.assert_array_equal(first.test, again.test)
    assert [f.suffix for f in (home / "cache" / "abs_dssp").iterdir()] == [".npz"]


def test_importing_the_package_loads_no_data_library():
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "PIL", "matplotlib")
    program = (
        f"import sys, abs_dssp.tasks; print([m for m in {heavy} if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
