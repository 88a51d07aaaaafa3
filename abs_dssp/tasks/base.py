"""What a task is: pure functions around a model and its data."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from abs_dssp import checks

PyTree = Any


class Variables(NamedTuple):
    """What a model consists of.

    Attributes:
      params: pytree of float32 arrays, of which gradients are taken.
      stats: pytree of float32 arrays, the BatchNorm statistics; {} for models without.
    """

    params: PyTree
    stats: PyTree


class Constants(NamedTuple):
    """The constants of an objective F in the theorems; None where unknown.

    Attributes:
      smoothness: L, the Lipschitz constant of the gradient.
      noise_variance: E||g - grad F||^2 of one sample's gradient g.
      optimum: F*, the least value of F.
    """

    smoothness: float | None = None
    noise_variance: float | None = None
    optimum: float | None = None


class Task(NamedTuple):
    """A model, its data and their distribution over workers.

    `tasks.from_flax`, `from_nnx`, `from_functions` and `supervised` make one of a model
    and samples; one that is filled by hand is tried by `tasks.check`. The functions are
    pure and can be jitted. They take `data` as an argument and never close over it, so
    that no array is baked into a compiled program. Floating-point arrays are float32
    whatever JAX's default.

    Attributes:
      name: for traces and reports.
      num_workers: N.
      batch_size: samples per gradient.
      samples_per_epoch: training samples of all workers together.
      data: pytree of arrays, handed to the functions below.
      init: key -> `Variables`, the initial ones.
      batch: (data, key, worker, index) -> pytree of arrays, the mini-batch number
        `index` of a worker. The key is that of the run; worker and index are int32
        scalars.
      loss: (variables, batch, key) -> mean loss of the batch and new statistics. The
        key is for dropout.
      evaluate: (data, variables) -> scalars by name, on held-out data where there are
        any; `"loss"` is one of them.
      objective: (data, variables) -> F, the mean loss over training data.
      constants: those of F; None for models without theory.

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.quadratic(num_workers=2, dim=3, noise=0.0)
      >>> variables = task.init(jax.random.key(0))
      >>> variables.params.tolist()
      [1.0, 1.0, 1.0]
      >>> float(task.objective(task.data, variables))  # 1/2 |w|^2
      1.5

      Filled by hand, without data, for the loss |w|^2:

      >>> import jax.numpy as jnp
      >>> def value(variables):
      ...     return jnp.sum(variables.params**2)
      >>> mine = tasks.Task(
      ...     name="mine", num_workers=2, batch_size=1, samples_per_epoch=100, data={},
      ...     init=lambda key: tasks.Variables(jax.random.normal(key, (3,)), {}),
      ...     batch=lambda data, key, worker, index: (),
      ...     loss=lambda variables, batch, key: (value(variables), {}),
      ...     evaluate=lambda data, variables: {"loss": value(variables)},
      ...     objective=lambda data, variables: value(variables))
      >>> tasks.check(mine).name
      'mine'
    """

    name: str
    num_workers: int
    batch_size: int
    samples_per_epoch: int
    data: PyTree
    init: Callable[[PRNGKeyArray], Variables]
    batch: Callable[[PyTree, PRNGKeyArray, Int[Array, ""], Int[Array, ""]], PyTree]
    loss: Callable[[Variables, PyTree, Any], tuple[Float[Array, ""], PyTree]]
    evaluate: Callable[[PyTree, Variables], dict[str, Float[Array, ""]]]
    objective: Callable[[PyTree, Variables], Float[Array, ""]]
    constants: Constants | None = None

    def __repr__(self) -> str:
        parts = f"{self.num_workers} workers, batches of {self.batch_size}"
        return f"<Task {self.name}: {parts}, {self.samples_per_epoch} samples>"


def variable_bytes(task: Task) -> int:
    """Bytes of a task's parameters and statistics: what a push or a pull moves.

    Example:
      >>> from abs_dssp import tasks
      >>> tasks.variable_bytes(tasks.quadratic(num_workers=2, dim=3))  # float32
      12
    """
    shapes = jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))
    return sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes)


def require_accuracy(where: str, task: Task, target: float | None) -> None:
    """Refuses a target accuracy for a task that measures none; None asks for nothing.

    Args:
      where: the function that was called, for the sentence.
      task: what is trained.
      target: the accuracy at which to stop.

    Raises:
      ValueError: naming what the task measures.

    Example:
      >>> from abs_dssp import tasks
      >>> require_accuracy("train", tasks.quadratic(2), 0.9)
      Traceback (most recent call last):
      ValueError: train: target_accuracy=0.9 cannot be reached on quadratic, which \
measures gradient_norm_squared, loss; leave it out, or take a task with an "accuracy".
    """
    if target is None:
        return
    variables = jax.eval_shape(task.init, jax.random.key(0))
    measures = jax.eval_shape(task.evaluate, task.data, variables)
    if "accuracy" not in measures:
        raise ValueError(
            f"{where}: target_accuracy={target} cannot be reached on {task.name}, "
            f"which measures {', '.join(sorted(measures))}; leave it out, or take a "
            'task with an "accuracy".'
        )


def check(task: Task) -> Task:
    """The same task, if its functions fit together; nothing is computed.

    Raises:
      ValueError: for the first thing that does not fit.

    Example:
      >>> from abs_dssp import tasks
      >>> task = tasks.quadratic(num_workers=2, dim=3)
      >>> tasks.check(task._replace(loss=lambda variables, batch, key: jnp.float32(0)))
      Traceback (most recent call last):
      ValueError: quadratic: loss must give a number and new statistics, got float32 \
of shape ().
    """
    checks.kind("tasks.check", "task", task, Task, "tasks.digits(4)")
    name, key, index = task.name, jax.random.key(0), jnp.int32(0)
    for field in ("num_workers", "batch_size", "samples_per_epoch"):
        value = getattr(task, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name}: {field} must be a whole number above 0, got {value!r}."
            )
    variables = jax.eval_shape(task.init, key)
    require_float32(name, variables)
    batch = jax.eval_shape(task.batch, task.data, key, index, index)
    made = jax.eval_shape(task.loss, variables, batch, key)
    if not isinstance(made, tuple) or len(made) != 2:
        raise ValueError(
            f"{name}: loss must give a number and new statistics, got {_words(made)}."
        )
    _require_number(name, "loss", made[0])
    expected: Any = jax.tree.structure(variables.stats)
    found: Any = jax.tree.structure(made[1])
    if found != expected:
        raise ValueError(
            f"{name}: loss must give statistics like those of init, {expected}, got "
            f"{found}."
        )
    measures = jax.eval_shape(task.evaluate, task.data, variables)
    if not isinstance(measures, dict) or "loss" not in measures:
        raise ValueError(
            f'{name}: evaluate must give numbers by name, "loss" among them, got '
            f"{_words(measures)}."
        )
    for measure, value in measures.items():
        _require_number(name, f"evaluate's {measure!r}", value)
    objective = jax.eval_shape(task.objective, task.data, variables)
    _require_number(name, "objective", objective)
    return task


def require_float32(name: str, variables: Any) -> None:
    """Refuses what is no `Variables` of float32 arrays, at least one of them trained.

    Args:
      name: of the task.
      variables: what `init` gives, or its shapes.
    """
    if not isinstance(variables, Variables):
        raise ValueError(
            f"{name}: init must give tasks.Variables(params, stats), got a "
            f"{type(variables).__name__}."
        )
    if not jax.tree.leaves(variables.params):
        raise ValueError(f"{name}: the model has no parameters to train.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"{name}: {jax.tree_util.keystr(path)} is {leaf.dtype}; parameters and "
                "statistics must be float32."
            )


def _require_number(name: str, what: str, value: Any) -> None:
    if getattr(value, "shape", None) != () or not jnp.issubdtype(
        value.dtype, jnp.floating
    ):
        raise ValueError(
            f"{name}: {what} must be one floating-point number, got {_words(value)}."
        )


def _words(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    return ", ".join(f"{leaf.dtype} of shape {leaf.shape}" for leaf in leaves) or "none"
