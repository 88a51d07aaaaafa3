"""Models and data as pure functions: what is trained.

Nothing outside this package knows Flax: variables are pytrees. `from_flax`, `from_nnx`
and `from_functions` make a task of a model and a data set of one's own.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from abs_dssp import checks, literals
from abs_dssp.tasks import images, models
from abs_dssp.tasks.base import (
    Constants,
    Task,
    Variables,
    check,
    require_accuracy,
    variable_bytes,
)
from abs_dssp.tasks.classifier import classification
from abs_dssp.tasks.custom import from_flax, from_functions, from_nnx
from abs_dssp.tasks.images import DataError
from abs_dssp.tasks.language import text
from abs_dssp.tasks.logistic import logistic
from abs_dssp.tasks.quadratic import quadratic
from abs_dssp.tasks.supervision import supervised
from abs_dssp.tasks.tridiagonal import tridiagonal
from abs_dssp.tasks.zero_chain import zero_chain


def digits(
    num_workers: int,
    model: str = "mlp",
    batch_size: int = 32,
    partition: str = "equal",
    seed: int = 0,
    limit_train: int | None = None,
    limit_test: int | None = None,
    validation: int | None = None,
    shrink: int = 1,
) -> Task:
    """scikit-learn's 8x8 digits: real data that need no network.

    Args:
      num_workers: number of workers N.
      model: see `models.parse`.
      batch_size: samples per gradient.
      partition: which worker has which samples; see `partition.make`.
      seed: of the partition.
      limit_train: use so many training samples only.
      limit_test: use so many test samples only.
      validation: evaluate on so many training samples instead, taken out of training.
      shrink: side of the square blocks of pixels that are averaged.

    Returns:
      A `Task` that evaluates `"loss"` and `"accuracy"` on the test split.

    Raises:
      ValueError: for an unknown model or partition, or a number out of range.

    Example:
      >>> from abs_dssp import tasks
      >>> task = tasks.digits(num_workers=3, model="mlp(hidden=8)", limit_train=300)
      >>> task.name, task.data["sizes"].tolist()
      ('digits/mlp(hidden=8)', [100, 100, 100])
    """
    size = (validation, limit_train, limit_test, shrink)
    settings = {"batch_size": batch_size, "partition": partition, "seed": seed}
    return _images("digits", images.digits(), size, num_workers, model, **settings)


def tfds(
    num_workers: int,
    name: str,
    model: str = "cnn",
    batch_size: int = 128,
    partition: str = "equal",
    seed: int = 0,
    data_dir: str | None = None,
    download: bool = False,
    augment: bool | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    validation: int | None = None,
    shrink: int = 1,
) -> Task:
    """Any labelled image set that TensorFlow Datasets knows; no TensorFlow needed.

    Args:
      num_workers: number of workers N.
      name: the data set, e.g. `"fashion_mnist"`.
      model: see `models.parse`.
      batch_size: samples per gradient.
      partition: which worker has which samples; see `partition.make`.
      seed: of the partition.
      data_dir: folder of prepared data.
      download: let TFDS fetch what is missing.
      augment: pad, crop and flip; for the CIFARs only, if None.
      limit_train: use so many training samples only.
      limit_test: use so many test samples only.
      validation: evaluate on so many training samples instead, taken out of training.
      shrink: side of the square blocks of pixels that are averaged.

    Returns:
      A `Task` that evaluates `"loss"` and `"accuracy"` on the test split.

    Raises:
      DataError: if the data cannot be had.
      ValueError: for an unknown model or partition, or a number out of range.
    """
    data = images.tfds(name, data_dir, download)
    size = (validation, limit_train, limit_test, shrink)
    if augment is None:
        augment = name.partition(":")[0] in ("cifar10", "cifar100")
    settings = {"batch_size": batch_size, "partition": partition, "seed": seed}
    return _images(name, data, size, num_workers, model, augment=augment, **settings)


def cifar10(num_workers: int, model: str = "cnn", **settings: Any) -> Task:
    """`tfds` with CIFAR-10, augmented unless told otherwise."""
    return tfds(num_workers, "cifar10", model, **settings)


def cifar100(num_workers: int, model: str = "cnn", **settings: Any) -> Task:
    """`tfds` with CIFAR-100, augmented unless told otherwise."""
    return tfds(num_workers, "cifar100", model, **settings)


_KNOWN = (quadratic, tridiagonal, zero_chain, logistic)  # with known constants
_TASKS: dict[str, Callable[..., Task]] = {
    made.__name__: made for made in (cifar10, cifar100, digits, text, tfds, *_KNOWN)
}

# Beside the names that `parse` knows.
__all__ = ["Constants", "DataError", "Task", "Variables", "check", "classification"]
__all__ += ["from_flax", "from_functions", "from_nnx", "names", "parse"]
__all__ += ["arguments", "require_accuracy", "resolve", "supervised"]
__all__ += ["variable_bytes", *_TASKS]


def names() -> tuple[str, ...]:
    """The names that `parse` knows, in alphabetical order.

    Example:
      >>> from abs_dssp import tasks
      >>> tasks.names()[:3]
      ('cifar10', 'cifar100', 'digits')
    """
    return tuple(sorted(_TASKS))


def arguments(text: str) -> Mapping[str, inspect.Parameter]:
    """What the task of a text can be given, by name; `num_workers` is not among it.

    Args:
      text: see `parse`.

    Raises:
      ValueError: for an unknown task, or a function of one's own that is not found.

    Example:
      >>> from abs_dssp import tasks
      >>> list(tasks.arguments("tridiagonal(dim=10)"))[:2]
      ['dim', 'noise']
    """
    constructor = _constructor(literals.parse_call(text, "tasks.arguments").name)
    shape = tfds if constructor in (cifar10, cifar100) else constructor
    known = dict(inspect.signature(shape).parameters)
    known.pop("num_workers", None)
    return known


def _constructor(name: str, where: str = "tasks.arguments") -> Callable[..., Any]:
    if ":" in name:
        return literals.load(name, where)
    if name not in _TASKS:
        known = ", ".join(names())
        raise ValueError(
            f"{where}: unknown task {name!r}{literals.guess(name, _TASKS)}; known: "
            f"{known}, and module:function for one of your own."
        )
    return _TASKS[name]


def parse(text: str, num_workers: int, **settings: Any) -> Task:
    """The task that `text` describes, e.g. `"digits"` or `"quadratic(dim=100)"`.

    Args:
      text: a call with literal arguments; these win over `settings`. A task of one's
        own is named with its module: `"my_tasks:make(width=3)"` is what
        `make(num_workers, width=3)` of the module `my_tasks` returns.
      num_workers: number of workers N.
      **settings: given to tasks that have such an argument; those of one's own too.

    Raises:
      ValueError: for an unknown task, argument or model, data that cannot be had, or
        a function that makes no task, or none for so many workers.

    Example:
      >>> from abs_dssp import tasks
      >>> tasks.parse("quadratic(dim=3)", num_workers=2, batch_size=4).batch_size
      4
    """
    where = "tasks.parse"
    checks.text(where, text, "'digits' or 'quadratic(dim=100)'")
    num_workers = checks.whole(where, "num_workers", num_workers, least=1)
    call = literals.parse_call(text, where)
    own, constructor = ":" in call.name, _constructor(call.name, where)
    accepted = arguments(call.name)
    given = {name: _spelled(value) for name, value in call.kwargs.items()}
    merged = {k: v for k, v in settings.items() if k in accepted} | given
    for name in merged:
        if name not in accepted:
            known = ", ".join(accepted)
            raise ValueError(
                f"{where}: {call.name} has no argument {name!r}; known: {known}."
            )
    for name in ("model", "partition"):
        if not isinstance(merged.get(name, ""), str):
            raise ValueError(
                f"{where}: {name} must be a name or a call, got {merged[name]!r}."
            )
    args = (num_workers, *map(_spelled, call.args))
    try:
        if not own:
            return constructor(*args, **merged)
        inspect.signature(constructor).bind(*args, **merged)
    except TypeError as error:
        raise ValueError(f"{where}: {call.name}: {error}.") from error
    task = constructor(*args, **merged)  # whose mistakes are shown where they are made
    if not isinstance(task, Task):
        raise ValueError(
            f"{where}: {call.name} must return a tasks.Task, such as that of "
            f"tasks.from_flax, got {type(task).__name__}."
        )
    if task.num_workers != num_workers:
        raise ValueError(
            f"{where}: {call.name} made a task for {task.num_workers} workers instead "
            f"of the {num_workers} that it was given as its first argument."
        )
    return check(task)


def resolve(task: Task | str, num_workers: int, where: str = "tasks.resolve") -> Task:
    """A task, or the one that a text describes.

    Args:
      task: what was given.
      num_workers: number of workers N of a text's task.
      where: the caller's name, for messages.

    Raises:
      TypeError: if it is neither.
      ValueError: as `parse`.

    Example:
      >>> from abs_dssp import tasks
      >>> tasks.resolve("quadratic(dim=3)", num_workers=2)
      <Task quadratic: 2 workers, batches of 1, 1000 samples>
    """
    if isinstance(task, str):
        task = _parsed(task, num_workers)
    example = f"tasks.digits({num_workers}) or the text 'digits'"
    checks.kind(where, "task", task, Task, example)
    return task


@functools.lru_cache(maxsize=8)  # the same task again, for which programs are compiled
def _parsed(text: str, num_workers: int) -> Task:
    return parse(text, num_workers)


def _spelled(value: Any) -> Any:
    """A nested call as text again, since constructors read models themselves."""
    if not isinstance(value, literals.Call):
        return value

    def text(argument):
        nested = isinstance(argument, literals.Call)
        return _spelled(argument) if nested else repr(argument)

    named = [f"{name}={text(argument)}" for name, argument in value.kwargs.items()]
    return f"{value.name}({','.join([*map(text, value.args), *named])})"


def _images(name, data, size, num_workers, model, **settings: Any) -> Task:
    num_workers = checks.whole(name, "num_workers", num_workers, least=1)
    validation, limit_train, limit_test, factor = size
    data = images.subset(images.validation(data, validation), limit_train, limit_test)
    data = images.shrink(data, factor)
    train, test = (data.train, data.train_labels), (data.test, data.test_labels)
    settings["name"] = f"{name}/{model}"
    module = models.parse(model, data.num_classes)
    return from_flax(module, train, test, num_workers, **settings)
