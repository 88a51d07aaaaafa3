"""Learning from samples with targets, by any model that is a pure function."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from abs_dssp import checks
from abs_dssp.tasks import measures, pixels, samples, sampling
from abs_dssp.tasks import partition as partition_lib
from abs_dssp.tasks.base import PyTree, Task, Variables, require_float32
from abs_dssp.tasks.measures import Measure

# Samples evaluated at a time: bounds the memory of activations, which on a CPU should
# fit into its caches.
_CHUNK = 125
_OBJECTIVE = 2000  # training samples that the objective is taken over, at most

# (variables, inputs, train, key) -> (outputs, statistics); no key in evaluation
Apply = Callable[[Variables, PyTree, bool, Any], tuple[PyTree, PyTree]]


def supervised(
    init: Callable[[PRNGKeyArray, PyTree], Variables],
    apply: Apply,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    num_workers: int,
    *,
    name: str,
    loss: Measure | None = None,
    metrics: Mapping[str, Measure] | None = None,
    batch_size: int = 32,
    partition: str = "equal",
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """The mean of a loss over samples, for any model, data and loss.

    Inputs and targets are arrays whose first axis counts the samples, or pytrees of
    such arrays: tuples and dicts, while lists are read as arrays. Floating-point
    numbers become float32, float64 too; integers stay integers (int32), so tokens can
    index an embedding; uint8 inputs are taken for pixels and normalised by the mean and
    deviation of their last axis, the channels; booleans stay what they are. Data are
    checked here, once: NaN, infinite and other wrong values are refused with the number
    of their sample.

    Args:
      init: (key, inputs) -> variables; the inputs are zeros, of one sample.
      apply: (variables, inputs, train, key) -> (outputs, statistics). Outputs are an
        array, or a pytree of arrays, whose first axis counts the samples. In
        evaluation `train` is false and the key None.
      train: inputs and targets, n samples.
      test: the same, held out.
      num_workers: number of workers N.
      name: for traces and reports.
      loss: (outputs, targets) -> (B,), one value per sample, which depends on no
        other sample. Without one, the task is a classification: targets are labels
        0..K-1, (n,) integers or one-hot rows (n, K), outputs are logits (B, K), and
        the loss is softmax cross entropy.
      metrics: by name, functions like `loss`, whose means over the test split are
        evaluated too; booleans count as 0 and 1. A name is that of a column: letters,
        digits and _, and none that every history has, such as `"seconds"`. Without a
        loss there is `"accuracy"` beside them.
      batch_size: samples per gradient; may exceed what a worker has, whose samples
        then come several times in a batch.
      partition: which worker has which samples; see `partition.make`.
      augment: pad by four pixels, crop at random, flip half of the images.
      seed: of the partition.

    Returns:
      A `Task` that evaluates `"loss"` and the metrics on the test split. Its objective
      is the mean over samples, 2,000 training samples at most, whatever the partition,
      and not over workers: with different data per worker it is not what `bsp` or
      `malenia` minimise (`tasks.logistic` has both means).

    Raises:
      ValueError: if data, outputs, loss or metrics do not fit, for a batch size below
        1, or where `augment` is given for anything but (n, h, w, c) images.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from abs_dssp import tasks
      >>> samples = np.array([[1.0], [2.0]]), np.array([2.0, 5.0])
      >>> task = tasks.supervised(
      ...     lambda key, inputs: tasks.Variables(jnp.full((1, 1), 2.0), {}),
      ...     lambda variables, inputs, train, key: (inputs @ variables.params, {}),
      ...     samples, samples, num_workers=1, name="line",
      ...     loss=lambda outputs, targets: (outputs[:, 0] - targets) ** 2,
      ...     metrics={"mae": lambda outputs, targets: abs(outputs[:, 0] - targets)})
      >>> found = task.evaluate(task.data, task.init(jax.random.key(0)))
      >>> float(found["loss"]), float(found["mae"])
      (0.5, 0.5)
    """
    trained, tested = (
        samples.read(name, "train", train),
        samples.read(name, "test", test),
    )
    samples.require_alike(name, trained, tested)
    checks.wholes(name, num_workers=num_workers, batch_size=batch_size)
    images = samples.single(trained.inputs)
    if augment and (images is None or images.ndim != 4):
        raise ValueError(f"{name}: only images (n, h, w, c) can be augmented.")
    further = measures.named(name, metrics)
    outputs = _outputs(name, init, apply, trained.inputs)
    if loss is None:
        trained, tested = measures.labelled(name, outputs, trained, tested)
        loss, own = measures.cross_entropy, further
        further = {"accuracy": measures.hits} | further
    elif callable(loss):
        own = {"loss": loss} | further
    else:
        raise ValueError(
            f"{name}: loss must be a function of (outputs, targets), got {loss!r}."
        )
    for what, measure in own.items():
        measures.require_per_sample(name, what, measure, outputs, trained.targets)
    count = trained.number
    labels = samples.single(trained.targets)
    if labels is None or labels.ndim != 1 or labels.dtype == np.float32:
        parts = partition_lib.make(partition, count, num_workers, seed)
    else:
        parts = partition_lib.make(partition, labels, num_workers, seed)
    channels = jax.tree.map(pixels.channels, trained.inputs)
    mean, scale = jax.tree.transpose(
        jax.tree.structure(trained.inputs), jax.tree.structure((0, 0)), channels
    )
    chosen = np.random.default_rng(2).permutation(count)[:_OBJECTIVE]
    data = {
        "train": trained.inputs,
        "train_labels": trained.targets,
        "test": tested.inputs,
        "test_labels": tested.targets,
        "objective": np.sort(chosen).astype(np.int32),
        "indices": parts.indices,
        "sizes": parts.sizes,
        "mean": mean,
        "scale": scale,
    }
    blank = samples.blank(trained.inputs)

    def batch(data, key, worker, index):
        mine = sampling.draw(key, worker, index, batch_size, data["sizes"][worker])
        chosen = data["indices"][worker, mine]
        inputs = _rows(data["train"], chosen)
        if augment:
            stream = sampling.stream(key, 0xA06, worker, index)
            inputs = pixels.augment(inputs, stream)
        return _normal(data, inputs), _rows(data["train_labels"], chosen)

    def batch_loss(variables, batch, key):
        inputs, targets = batch
        outputs, stats = apply(variables, inputs, True, key)
        return _values(loss, outputs, targets).mean(), stats

    def means(data, variables, inputs, targets, wanted):
        """The means of some measures over all samples, a chunk at a time."""
        count = jax.tree.leaves(inputs)[0].shape[0]
        chunks = -(-count // _CHUNK)
        size = -(-count // chunks)  # so that few rows stand for no sample

        def one(chunk):
            rows = chunk * size + jnp.arange(size, dtype=jnp.int32)
            inside = rows < count
            rows = jnp.minimum(rows, count - 1)
            some, truth = _normal(data, _rows(inputs, rows)), _rows(targets, rows)
            outputs, _ = apply(variables, some, False, None)
            return {
                name: jnp.sum(_values(measure, outputs, truth), where=inside)
                for name, measure in wanted.items()
            }

        sums = jax.lax.map(one, jnp.arange(chunks, dtype=jnp.int32))
        return {name: jnp.sum(value) / count for name, value in sums.items()}

    def evaluate(data, variables):
        wanted = {"loss": loss} | further
        return means(data, variables, data["test"], data["test_labels"], wanted)

    def objective(data, variables):
        names = ("train", "train_labels")
        inputs, targets = (_rows(data[name], data["objective"]) for name in names)
        return means(data, variables, inputs, targets, {"loss": loss})["loss"]

    return Task(
        name=name,
        num_workers=num_workers,
        batch_size=batch_size,
        samples_per_epoch=count,
        data=jax.tree.map(jnp.asarray, data),
        init=lambda key: init(jax.random.fold_in(key, 0x1417), blank),
        batch=batch,
        loss=batch_loss,
        evaluate=evaluate,
        objective=objective,
    )


def _rows(tree: PyTree, rows: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _normal(data, inputs: PyTree) -> PyTree:
    def one(leaf, mean, scale):
        if leaf.dtype != jnp.uint8:
            return leaf
        return (leaf.astype(jnp.float32) - mean) * scale

    return jax.tree.map(one, inputs, data["mean"], data["scale"])


def _values(measure: Measure, outputs: PyTree, targets: PyTree) -> Array:
    return measure(outputs, targets).astype(jnp.float32)


def _outputs(name: str, init, apply: Apply, inputs: PyTree) -> PyTree:
    """Shapes and dtypes of a model's outputs for two samples; nothing is computed.

    Raises:
      ValueError: for variables, outputs or statistics that no task can have.
      Exception: what the model raises, with a note on what it was given.
    """
    try:
        return _traced(name, init, apply, inputs)
    except Exception as error:
        given = samples.describe(samples.blank(inputs, 2))
        error.add_note(f"{name}: the model was tried on samples of inputs {given}.")
        raise


def _traced(name: str, init, apply: Apply, inputs: PyTree) -> PyTree:
    key = jax.random.key(0)
    variables = jax.eval_shape(init, key, samples.blank(inputs))
    require_float32(name, variables)
    batch = samples.blank(inputs, 2)
    _, stats = jax.eval_shape(
        lambda variables, inputs, key: apply(variables, inputs, True, key),
        variables,
        batch,
        key,
    )
    if _shapes(stats) != _shapes(variables.stats):
        raise ValueError(
            f"{name}: statistics must come out of training as they went in, got "
            f"{_shapes(stats)[1]} for {_shapes(variables.stats)[1]}."
        )
    outputs, _ = jax.eval_shape(
        lambda variables, inputs: apply(variables, inputs, False, None),
        variables,
        batch,
    )
    leaves = jax.tree.leaves(outputs)
    if not leaves or any(leaf.shape[:1] != (2,) for leaf in leaves):
        found = ", ".join(str(leaf.shape) for leaf in leaves) or "nothing"
        raise ValueError(
            f"{name}: the model must give arrays whose first axis counts the samples, "
            f"got {found} for two samples."
        )
    return outputs


def _shapes(tree: PyTree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
