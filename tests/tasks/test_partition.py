"""Who has which samples."""

import numpy as np
import pytest

from abs_dssp.tasks import partition

LABELS = np.arange(200) % 10


def _rows(parts):
    return [row[:size] for row, size in zip(parts.indices, parts.sizes, strict=True)]


@pytest.mark.parametrize("num_workers", [1, 3, 7, 200])
@pytest.mark.parametrize(
    "text",
    [
        "equal",
        "contiguous",
        "dirichlet(alpha=0.001)",
        "dirichlet(0.3)",
        "dirichlet(alpha=9)",
    ],
)
def test_every_sample_has_exactly_one_owner_and_nobody_is_left_out(text, num_workers):
    parts = partition.make(text, LABELS, num_workers)
    rows = _rows(parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(200))
    assert parts.sizes.min() >= 1
    assert parts.indices.dtype == parts.sizes.dtype == np.int32


def test_equal_parts_differ_by_one_sample_at_most():
    sizes = partition.make("equal", LABELS, 7).sizes
    assert sizes.max() - sizes.min() <= 1


def test_shared_gives_everybody_everything():
    for row in _rows(partition.make("shared", LABELS, 3)):
        np.testing.assert_array_equal(np.sort(row), np.arange(200))


def test_small_alpha_skews_labels_and_large_alpha_does_not():
    labels = np.arange(5000) % 10

    def largest_shares(alpha):
        rows = _rows(partition.make(f"dirichlet(alpha={alpha})", labels, 5))
        return [np.bincount(labels[r], minlength=10).max() / len(r) for r in rows]

    assert np.mean(largest_shares(0.05)) > 0.25
    # A share is a/(sum a), of relative deviation about 1/sqrt(alpha) = 0.01.
    assert max(largest_shares(10000.0)) < 0.1 * (1 + 0.06)


@pytest.mark.parametrize("text", ["equal", "dirichlet(alpha=0.3)"])
def test_the_seed_alone_decides(text):
    first, again, other = (partition.make(text, LABELS, 4, s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.indices, again.indices)
    assert not np.array_equal(_rows(first)[0], _rows(other)[0])


@pytest.mark.parametrize(
    ("text", "num_workers", "message"),
    [
        pytest.param(
            "sorted", 2, "known: contiguous, dirichlet, equal, shared", id="unknown"
        ),
        pytest.param("dirichlet", 2, "needs the argument 'alpha'", id="missing"),
        pytest.param("dirichlet(alpha=0)", 2, "alpha must be above 0", id="alpha"),
        pytest.param("equal", 201, "at least as many samples, got 200", id="too-few"),
    ],
)
def test_make_refuses(text, num_workers, message):
    with pytest.raises(ValueError, match=message):
        partition.make(text, LABELS, num_workers)
