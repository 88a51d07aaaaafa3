"""A task from a model and data of one's own."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.tasks.classifier import classification

Split = tuple[np.ndarray, np.ndarray]  # inputs (n, ...) and integer labels (n,)


def from_flax(
    module: Any, train: Split, test: Split, num_workers: int, **settings: Any
) -> Task:
    """A classification task around a `flax.linen` module.

    Args:
      module: called as `module(inputs)` or, if its `__call__` has the argument,
        `module(inputs, train=...)`; returns logits. BatchNorm statistics and dropout
        are taken care of.
      train: inputs (n, ...) and integer labels (n,), as `classification` takes them.
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `classification`: `name`, `batch_size`, `partition`, `augment`,
        `seed`.

    Raises:
      ValueError: as `classification`.

    Example:
      >>> import flax.linen as nn
      >>> import numpy as np
      >>> from abs_dssp import tasks
      >>> samples = np.eye(4), np.arange(4)
      >>> task = tasks.from_flax(nn.Dense(4), samples, samples, num_workers=2)
      >>> task.name, task.samples_per_epoch
      ('dense', 4)
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters

    def call(variables, inputs, train, **options):
        arguments = {"train": train} if takes_train else {}
        return module.apply(variables, inputs, **arguments, **options)

    def init(key, sample):
        arguments = {"train": False} if takes_train else {}
        made = dict(module.init({"params": key, "dropout": key}, sample, **arguments))
        return Variables(made["params"], made.get("batch_stats", {}))

    def apply(variables, inputs, train, key):
        tree = {"params": variables.params}
        rngs = {} if key is None else {"dropout": key}
        if not variables.stats:
            return call(tree, inputs, train, rngs=rngs), {}
        tree["batch_stats"] = variables.stats
        if not train:
            return call(tree, inputs, train), variables.stats
        logits, changed = call(tree, inputs, train, rngs=rngs, mutable=["batch_stats"])
        return logits, changed["batch_stats"]

    settings.setdefault("name", type(module).__name__.lower())
    return classification(init, apply, train, test, num_workers, **settings)


def from_nnx(
    make: Callable[[Any], Any],
    train: Split,
    test: Split,
    num_workers: int,
    **settings: Any,
) -> Task:
    """A classification task around a `flax.nnx` module.

    Args:
      make: `nnx.Rngs` -> module, which maps inputs to logits. Parameters are trained,
        BatchNorm statistics travel with the push; dropout needs `from_flax`.
      train: inputs (n, ...) and integer labels (n,), as `classification` takes them.
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `classification`, as for `from_flax`.

    Raises:
      ValueError: as `classification`.

    Example:
      >>> import numpy as np
      >>> from flax import nnx
      >>> from abs_dssp import tasks
      >>> samples = np.eye(4), np.arange(4)
      >>> task = tasks.from_nnx(
      ...     lambda rngs: nnx.Linear(4, 4, rngs=rngs), samples, samples, num_workers=2)
      >>> task.data["sizes"].tolist()
      [2, 2]
    """
    from flax import nnx

    kinds = (nnx.Param, nnx.BatchStat, ...)
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    split: Any = nnx.split(abstract, *kinds)
    graph, *templates = split

    def init(key, sample):
        del sample
        parts: Any = nnx.split(make(nnx.Rngs(key)), *kinds)
        _, params, stats, _ = parts
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))

    def apply(variables, inputs, train, key):
        del key
        states = jax.tree.map(lambda leaf: leaf, templates)  # copies to be filled
        for state, values in zip(states[:2], variables, strict=True):
            nnx.replace_by_pure_dict(state, values)
        module = nnx.merge(graph, *states)
        (module.train if train else module.eval)()
        logits = module(inputs)
        return logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    settings.setdefault("name", "nnx")
    return classification(init, apply, train, test, num_workers, **settings)


def from_functions(
    init: Callable[[PRNGKeyArray], Any],
    apply: Callable[[Any, Array], Float[Array, "B K"]],
    train: Split,
    test: Split,
    num_workers: int,
    **settings: Any,
) -> Task:
    """A classification task around two plain functions, for any other library.

    Args:
      init: key -> parameters, a pytree of float32 arrays.
      apply: (parameters, inputs) -> logits, for (B, ...) inputs and (B, K) logits.
      train: inputs (n, ...) and integer labels (n,), as `classification` takes them.
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `classification`, as for `from_flax`.

    Raises:
      ValueError: as `classification`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from abs_dssp import tasks
      >>> def linear(w, x):
      ...     return x @ w
      >>> samples = np.eye(4), np.arange(4)
      >>> task = tasks.from_functions(
      ...     lambda key: jnp.zeros((4, 4)), linear, samples, samples, num_workers=2)
      >>> task.name
      'linear'
      >>> variables = task.init(jax.random.key(0))
      >>> round(float(task.objective(task.data, variables)), 4)  # log 4
      1.3863
    """
    settings.setdefault("name", getattr(apply, "__name__", "custom"))

    def begin(key, sample):
        del sample
        return Variables(init(key), {})

    def call(variables, inputs, train, key):
        del train, key
        return apply(variables.params, inputs), {}

    return classification(begin, call, train, test, num_workers, **settings)
