"""What a model's outputs are worth: losses and metrics, one value per sample.

`labelled` makes a classification of data without a loss, and refuses where they are
none; `require_per_sample` tries losses and metrics before anything is trained.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from abs_dssp.tasks import samples
from abs_dssp.tasks.base import PyTree
from abs_dssp.tasks.samples import Split

Measure = Callable[[PyTree, PyTree], Array]  # (outputs, targets) -> (B,)

# Columns of every evaluation, which a metric may not hide.
_TAKEN = ("loss", "push", "version", "seconds", "epoch", "messages", "policy", "seed")
_OWN = "give one, one value per sample, such as loss="
_SQUARES = "lambda outputs, targets: ((outputs - targets) ** 2).mean(axis=-1)"


def cross_entropy(logits: Array, labels: Array) -> Float[Array, " B"]:
    """Softmax cross entropy of (B, K) logits and integer labels (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from abs_dssp.tasks import measures
      >>> logits, labels = jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([1])  # log 4/3
      >>> [round(float(value), 4) for value in measures.cross_entropy(logits, labels)]
      [0.2877]
    """
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def hits(logits: Array, labels: Array) -> Array:
    """Whether the largest of (B, K) logits is that of the label (B,)."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32) == labels


def named(name: str, metrics: Mapping[str, Measure] | None) -> dict[str, Measure]:
    """Metrics that were checked: functions, under names that are free."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise ValueError(
            f'{name}: metrics must be functions by name, such as {{"mae": f}}, got '
            f"{type(metrics).__name__}."
        )
    for key, metric in metrics.items():
        if not isinstance(key, str) or not key.isidentifier() or key in _TAKEN:
            raise ValueError(
                f"{name}: the name of a metric must be one of letters, digits and _, "
                f"as for a variable, and none of {', '.join(_TAKEN)}, got {key!r}."
            )
        if not callable(metric):
            raise ValueError(
                f"{name}: metric {key!r} must be a function of (outputs, targets), "
                f"got {type(metric).__name__}."
            )
    return dict(metrics)


def labelled(
    name: str, outputs: PyTree, train: Split, test: Split
) -> tuple[Split, Split]:
    """Splits whose targets are the labels of a classification, int32 (n,).

    Rows that are one-hot become the labels that they stand for.

    Args:
      name: of the task.
      outputs: what the model gives for a batch, with shapes and dtypes.
      train: as `samples.read` gives it.
      test: likewise.

    Raises:
      ValueError: where the targets are no labels of these outputs: then there must be
        a loss.
    """
    shape = tuple(outputs.shape[1:]) if isinstance(outputs, _SHAPED) else None
    targets = samples.single(train.targets)
    if targets is None:
        raise ValueError(
            f"{name}: targets of several arrays ({samples.describe(train.targets)}) "
            f"need a loss; {_OWN}lambda outputs, targets: ..."
        )
    rows = targets.shape[1:]
    if rows and rows == shape and len(rows) == 1 and rows[0] > 1:
        if all(_one_hot(split.targets) for split in (train, test)):
            train, test = (
                split._replace(targets=np.argmax(split.targets, -1).astype(np.int32))
                for split in (train, test)
            )
            return train, test
    if targets.dtype == np.float32:
        raise ValueError(f"{name}: {_no_loss_for_floats(targets, rows == shape)}")
    if rows:
        hint = "; or give them as an array (n,) with targets[:, 0]" * (rows == (1,))
        tokens = (
            "lambda outputs, targets: optax.softmax_cross_entropy_with_integer_labels("
            "outputs, targets).mean(axis=-1)"
        )
        raise ValueError(
            f"{name}: without a loss, integer targets must be labels of shape (n,), "
            f"got {samples.describe(targets)} per sample; {_OWN}{tokens}{hint}."
        )
    if shape is None or len(shape) != 1:
        found = shape if shape is not None else "several arrays"
        raise ValueError(
            f"{name}: without a loss, the model must give logits (B, K) for labels "
            f"of K classes, got {found} per sample; {_OWN}lambda outputs, targets: ..."
        )
    splits = {"train": train, "test": test}
    for which, split in splits.items():
        _require_in_range(name, which, np.asarray(split.targets), shape[0])
    train, test = (
        split._replace(targets=split.targets.astype(np.int32))
        for split in splits.values()
    )
    return train, test


def require_per_sample(
    name: str, what: str, measure: Measure, outputs: PyTree, targets: PyTree
) -> None:
    """Tries a loss or metric: one value per sample, and of that sample alone.

    A loss that broadcasts outputs (B, 1) against targets (B,) also gives B values, each
    of which mixes all samples.

    Args:
      name: of the task.
      what: `"loss"` or the metric, for messages.
      measure: to try.
      outputs: what the model gives for a batch, with shapes and dtypes.
      targets: of the training samples.

    Raises:
      ValueError: if it gives anything else.
    """
    generator = np.random.default_rng(0)

    def made(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros((3, *leaf.shape[1:]), leaf.dtype)
        # Logits, probabilities and rates alike can be of this size.
        values = generator.uniform(0.1, 0.9, (3, *leaf.shape[1:]))
        return jnp.asarray(values, leaf.dtype)

    def some(leaf):
        return jnp.asarray(leaf[np.arange(3) % len(leaf)])

    # Compiled, as in training: operation by operation takes seconds.
    tried = jax.jit(lambda *batch: measure(*batch))
    batch = jax.tree.map(made, outputs), jax.tree.map(some, targets)
    shown = "outputs {}; targets {}".format(*map(samples.describe, batch))
    try:
        found: Any = tried(*batch)
        values = jnp.asarray(found)
    except Exception as error:
        error.add_note(f"{name}: {what} was tried on samples of {shown}.")
        raise
    numbers = jnp.issubdtype(values.dtype, jnp.floating)
    if values.shape != (3,) or (what == "loss" and not numbers):
        raise ValueError(
            f"{name}: {what} must give one number per sample, shape (B,), got "
            f"{values.dtype} of shape {values.shape} for B = 3 samples of {shown}; "
            + (
                "outputs and targets of different shapes broadcast, as (B, 1) and (B,) "
                "do: use outputs[:, 0], or targets[:, None]."
                if values.shape[:2] == (3, 3)
                else "leave the mean over samples to the task, and take it over other "
                "axes."
            )
        )
    alone = [
        tried(*jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch)) for i in range(3)
    ]
    apart = np.concatenate([np.asarray(value, float) for value in alone])
    together = np.asarray(values, float)
    if not np.allclose(apart, together, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"{name}: {what} mixes samples: its first value is {together[0]:.4g} for "
            f"three samples and {apart[0]:.4g} for the first alone; outputs and "
            "targets of different shapes broadcast, as (B, 1) and (B,) do: use "
            f"outputs[:, 0], or targets[:, None]. A sample has {shown}."
        )


_SHAPED = (jax.ShapeDtypeStruct, jax.Array, np.ndarray)


def _one_hot(targets: np.ndarray) -> bool:
    return bool(
        ((targets == 0) | (targets == 1)).all() and (targets.sum(axis=-1) == 1).all()
    )


def _no_loss_for_floats(targets: np.ndarray, like_outputs: bool) -> str:
    """Why floating-point targets need a loss, with one that may be meant."""
    given = f"floating-point targets, such as {targets.flat[0]:g}, need a loss"
    if targets.ndim == 1 and (targets == np.round(targets)).all():
        return (
            f"{given}; if they are labels give integers, targets.astype(int); else "
            f"{_OWN}lambda outputs, targets: (outputs[:, 0] - targets) ** 2."
        )
    sums = like_outputs and targets.ndim > 1 and np.abs(targets.sum(-1) - 1).max()
    if sums is not False and sums < 1e-3 and targets.min() >= 0:
        return (
            f"{given}; for rows of probabilities give "
            "loss=optax.softmax_cross_entropy, for regression loss="
            f"{_SQUARES}."
        )
    one = "lambda outputs, targets: (outputs[:, 0] - targets) ** 2"
    return f"{given}; {_OWN}{one if targets.ndim == 1 else _SQUARES}."


def _require_in_range(name: str, which: str, labels: np.ndarray, classes: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        index, most = int(wrong[0]), int(labels.max())
        remedy = f"give the model {most + 1} outputs or correct the label"
        if labels.min() < 0:
            remedy = "count classes from 0"
        raise ValueError(
            f"{name}: {which} label {int(labels[index])} of sample {index} is out of "
            f"range: the model has {classes} outputs, expected 0..{classes - 1}; "
            f"{remedy}, or give a loss."
        )
