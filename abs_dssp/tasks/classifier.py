"""Classification of images or vectors by any model that is a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from abs_dssp.tasks import partition as partition_lib
from abs_dssp.tasks import sampling
from abs_dssp.tasks.base import PyTree, Task, Variables

# Samples evaluated at a time: bounds the memory of activations, which on a CPU should
# fit into its caches.
_CHUNK = 125
_OBJECTIVE = 2000  # training samples that the objective is taken over, at most
_PAD = 4  # pixels around an image before it is cropped again

# (variables, inputs, train, key) -> (logits, statistics); the key is None in evaluation
Apply = Callable[[Variables, Array, bool, Any], tuple[Float[Array, "B K"], PyTree]]


def classification(
    init: Callable[[PRNGKeyArray, Array], Variables],
    apply: Apply,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_workers: int,
    *,
    name: str,
    batch_size: int = 32,
    partition: str = "equal",
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """Mean softmax cross entropy over labelled samples.

    Args:
      init: (key, sample) -> variables; the sample is a (1, ...) float32 array of zeros.
      apply: (variables, inputs, train, key) -> (logits, statistics), for (B, ...)
        float32 inputs and (B, K) logits.
      train: inputs (n, ...) and integer labels (n,); uint8 inputs are normalised by the
        mean and deviation of each channel, others are cast to float32.
      test: the same, held out; (m, ...) and (m,).
      num_workers: number of workers N.
      name: for traces and reports.
      batch_size: samples per gradient.
      partition: which worker has which samples; see `partition.make`.
      augment: pad by four pixels, crop at random, flip half of the images.
      seed: of the partition.

    Returns:
      A `Task` that evaluates `"loss"` and `"accuracy"` on the test split. Its objective
      is the mean over samples, 2,000 training samples at most, whatever the partition,
      and not over workers: with different data per worker it is not what `bsp` or
      `malenia` minimise (`tasks.logistic` has both means).

    Raises:
      ValueError: if inputs and labels do not fit, for a batch size below 1, or where
        `augment` is given for anything but (n, h, w, c) images.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from abs_dssp import tasks
      >>> samples = np.eye(4), np.arange(4)
      >>> task = tasks.classification(
      ...     lambda key, sample: tasks.Variables(8.0 * jnp.eye(4), {}),
      ...     lambda variables, inputs, train, key: (inputs @ variables.params, {}),
      ...     samples, samples, num_workers=2, name="identity", batch_size=2)
      >>> variables = task.init(jax.random.key(0))
      >>> float(task.evaluate(task.data, variables)["accuracy"])
      1.0
    """
    for split, (inputs, labels) in (("train", train), ("test", test)):
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"{name}: {split} needs as many labels as inputs and at least one, "
                f"got {len(labels)} and {len(inputs)}."
            )
    if batch_size < 1:
        raise ValueError(f"{name}: batch_size must be at least 1, got {batch_size}.")
    if augment and np.ndim(train[0]) != 4:
        raise ValueError(f"{name}: only images (n, h, w, c) can be augmented.")
    inputs, labels = train
    parts = partition_lib.make(partition, np.asarray(labels), num_workers, seed)
    mean, scale = _channels(np.asarray(inputs))
    chosen = np.random.default_rng(2).permutation(len(labels))[:_OBJECTIVE]
    data = {
        "train": _stored(inputs),
        "train_labels": jnp.asarray(labels, jnp.int32),
        "test": _stored(test[0]),
        "test_labels": jnp.asarray(test[1], jnp.int32),
        "objective": jnp.asarray(np.sort(chosen), jnp.int32),
        "indices": jnp.asarray(parts.indices),
        "sizes": jnp.asarray(parts.sizes),
        "mean": jnp.asarray(mean),
        "scale": jnp.asarray(scale),
    }
    sample = jnp.zeros((1, *np.shape(inputs)[1:]), jnp.float32)

    def normal(data, pixels):
        if pixels.dtype != jnp.uint8:
            return pixels
        return (pixels.astype(jnp.float32) - data["mean"]) * data["scale"]

    def batch(data, key, worker, index):
        mine = sampling.draw(key, worker, index, batch_size, data["sizes"][worker])
        chosen = data["indices"][worker, mine]
        pixels = data["train"][chosen]
        if augment:
            pixels = _augment(pixels, sampling.stream(key, 0xA06, worker, index))
        return normal(data, pixels), data["train_labels"][chosen]

    def loss(variables, batch, key):
        inputs, labels = batch
        logits, stats = apply(variables, inputs, True, key)
        return _cross_entropy(logits, labels).mean(), stats

    def totals(data, variables, inputs, labels):
        """Mean loss and accuracy over all samples, a chunk at a time."""
        count = inputs.shape[0]
        chunks = -(-count // _CHUNK)

        def one(chunk):
            rows = chunk * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
            inside = rows < count
            rows = jnp.minimum(rows, count - 1)
            logits, _ = apply(variables, normal(data, inputs[rows]), False, None)
            losses = _cross_entropy(logits, labels[rows])
            hits = jnp.argmax(logits, axis=-1).astype(jnp.int32) == labels[rows]
            hits = hits.astype(jnp.float32)
            return jnp.sum(losses, where=inside), jnp.sum(hits, where=inside)

        losses, hits = jax.lax.map(one, jnp.arange(chunks, dtype=jnp.int32))
        return jnp.sum(losses) / count, jnp.sum(hits) / count

    def evaluate(data, variables):
        value, accuracy = totals(data, variables, data["test"], data["test_labels"])
        return {"loss": value, "accuracy": accuracy}

    def objective(data, variables):
        samples = (data[name][data["objective"]] for name in ("train", "train_labels"))
        return totals(data, variables, *samples)[0]

    return Task(
        name=name,
        num_workers=num_workers,
        batch_size=batch_size,
        samples_per_epoch=len(labels),
        data=data,
        init=lambda key: init(jax.random.fold_in(key, 0x1417), sample),
        batch=batch,
        loss=loss,
        evaluate=evaluate,
        objective=objective,
    )


def _stored(inputs):
    """On the device: uint8 to save memory, or float32."""
    is_bytes = np.asarray(inputs).dtype == np.uint8
    return jnp.asarray(inputs, jnp.uint8 if is_bytes else jnp.float32)


def _cross_entropy(logits, labels):
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _augment(images, key):
    """Zero-pads by four pixels, crops at random, flips half of the images."""
    count, height, width, channels = images.shape
    shift_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD), (0, 0)))
    shifts = jax.random.randint(shift_key, (count, 2), 0, 2 * _PAD + 1, jnp.int32)
    flips = jax.random.bernoulli(flip_key, 0.5, (count,))

    def one(image, shift, flip):
        corner = (shift[0], shift[1], jnp.int32(0))
        crop = jax.lax.dynamic_slice(image, corner, (height, width, channels))
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, shifts, flips)


def _channels(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse deviation of each channel of the training images."""
    if inputs.dtype != np.uint8:
        return np.zeros((), np.float32), np.ones((), np.float32)
    shape = (1,) * (inputs.ndim - 1) + (inputs.shape[-1],)
    # From histograms: an array of floats would need eight times the memory.
    channels = np.moveaxis(inputs, -1, 0)
    counts = np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])
    values = np.arange(256.0)
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    scale = 1 / np.sqrt(np.maximum(variance, 1e-8))
    mean, scale = mean.reshape(shape), scale.reshape(shape)
    return mean.astype(np.float32), scale.astype(np.float32)
