"""Data that are refused, and losses that do not fit them: one sentence each."""

import numpy as np
import pytest
from own_problem import LABELS, X, Y, absolute, plain, squares

from abs_dssp.tasks import samples


def test_lists_are_arrays():
    task = plain(([[1.0, 2, 3]] * 3, [0, 1, 0]), width=2)
    assert task.data["train"].shape == (3, 3) and task.data["train_labels"].shape == (
        3,
    )


NAN = X.copy()
NAN[17, 2] = np.nan
WRONG = LABELS.copy()
WRONG[5] = 9
HUGE = np.where(np.arange(64) == 3, 1e39, 0.5)

REFUSED = {
    "nan": ((NAN, Y), {"loss": squares}, r"train inputs: sample 17 at \[2\] is nan"),
    "too-large": ((X, HUGE), {"loss": squares}, "sample 3 is 1e.39; .* in float32"),
    "label": (
        (X, WRONG),
        {},
        r"train label 9 of sample 5 .* has 4 outputs, .* 0\.\.3;",
    ),
    "below-0": ((X, LABELS - 1), {}, "label -1 of sample .* count classes from 0"),
    "lengths": ((X, LABELS[:60]), {}, "as many targets .* got 64 inputs, 60 targets"),
    "empty": ((X[:0], LABELS[:0]), {}, "at least one, got 0 inputs"),
    "floats": ((X, Y), {}, "such as .* need a loss; give one.*loss=lambda outputs, t"),
    "float-labels": ((X, LABELS * 1.0), {}, r"give integers, targets.astype\(int\)"),
    "objects": ((X, np.array([None] * 64)), {}, "dtype object, such as None; convert"),
    "words": ((X, np.array(["a"] * 64)), {}, "expected numbers, got dtype <U1"),
    "ragged": (([[1.0], [1.0, 2.0]], [0, 1]), {}, "pad samples to one shape"),
    "number": ((X, 3), {}, "first axis counts the samples, got the number 3"),
    "column": ((X, LABELS[:, None]), {}, r"labels of shape \(n,\).*targets\[:, 0\]"),
    "rows": ((X, np.full((64, 4), 0.25)), {}, "loss=optax.softmax_cross_entropy"),
    "int64": ((np.full((64, 3), 2**40), Y), {"loss": squares}, "kept as int32"),
    "no-numbers": ((X, np.zeros((64, 0))), {}, r"got shape \(64, 0\)"),
    "trees": ((X, {"a": Y}), {}, "need a loss; give one"),
    "square": (
        (X, Y),
        {"loss": lambda o, t: (o - t[None]) ** 2},
        r"of shape \(3, 3\).*\(B, 1\) and \(B,\) do: use outputs\[:, 0\]",
    ),
    "broadcast": (
        (X, Y),
        {"loss": lambda o, t: ((o - t[None]) ** 2).mean(axis=-1)},
        r"loss mixes samples.*outputs\[:, 0\]",
    ),
    "mean": (
        (X, Y),
        {"loss": lambda o, t: squares(o, t).mean()},
        r"one number per sample, shape \(B,\), got float32 of shape \(\)",
    ),
    "metric": (
        (X, Y),
        {"loss": squares, "metrics": {"mse": lambda o, t: (o - t[:, None]) ** 2}},
        r"mse must give one number per sample.*of shape \(3, 1\)",
    ),
    "metrics-name": (
        (X, Y),
        {"loss": squares, "metrics": {"epoch": absolute}},
        "and none of loss.*got 'epoch'",
    ),
    "dirichlet": (
        (X, Y),
        {"loss": squares, "partition": "dirichlet(alpha=1.0)"},
        "splits samples by label.*equal or shared",
    ),
    "augment": ((X, LABELS), {"augment": True}, "only images"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_data_get_a_sentence_at_construction(kind):
    given, settings, message = REFUSED[kind]
    inputs = np.shape(given[0]) if kind != "ragged" else ()
    assert inputs[1:] in ((), (3,))
    width = 1 if "loss" in settings else 4
    with pytest.raises(ValueError, match=message) as caught:
        plain(given, width=width, **settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_both_splits_have_the_same_arrays():
    with pytest.raises(
        ValueError, match=r"test inputs is float32 of shape \(2,\), one"
    ):
        plain((X, Y), (X[:, :2], Y), loss=squares)
    with pytest.raises(ValueError, match="test targets is int32 .* targets float32"):
        plain((X, Y), (X, LABELS), loss=squares)
    with pytest.raises(ValueError, match="test label 9 of sample 5"):
        plain((X, LABELS), (X, WRONG), width=4)


def test_a_split_is_a_pair():
    with pytest.raises(ValueError, match=r"train must be a pair .*, got ndarray\."):
        samples.read("mine", "train", X)
    with pytest.raises(ValueError, match="got tuple of 3"):
        samples.read("mine", "train", (X, Y, Y))


def test_a_mistake_in_a_loss_is_told_with_the_samples_that_it_was_tried_on():
    with pytest.raises(AttributeError) as caught:
        plain((X, Y), loss=lambda outputs, targets: outputs.no_such_thing)
    assert "outputs float32 of shape (1,)" in "".join(caught.value.__notes__)
