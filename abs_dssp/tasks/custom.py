"""A task from a model and data of one's own."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.tasks.classifier import classification

Split = tuple[np.ndarray, np.ndarray]  # inputs (n, ...), labels (n,)


def from_flax(
    module: Any, train: Split, test: Split, num_workers: int, **settings: Any
) -> Task:
    """A classification task around a `flax.linen` module.

    Args:
      module: called as `module(inputs)` or, if its `__call__` has the argument,
        `module(inputs, train=...)`; returns logits. BatchNorm statistics and dropout
        are taken care of.
      train: inputs and integer labels.
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `classification`: `name`, `batch_size`, `partition`, `augment`,
        `seed`.

    Raises:
      ValueError: as `classification`.
    """
    import inspect

    takes_train = "train" in inspect.signature(type(module).__call__).parameters

    def call(variables, inputs, train, **options):
        arguments = {"train": train} if takes_train else {}
        return module.apply(variables, inputs, **arguments, **options)

    def init(key, sample):
        arguments = {"train": False} if takes_train else {}
        found = dict(module.init({"params": key, "dropout": key}, sample, **arguments))
        return Variables(found["params"], found.get("batch_stats", {}))

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
      train: inputs and integer labels.
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `classification`.
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
    init: Callable[[Any], Any],
    apply: Callable[[Any, jax.Array], jax.Array],
    train: Split,
    test: Split,
    num_workers: int,
    **settings: Any,
) -> Task:
    """A classification task around two plain functions, for any other library.

    Args:
      init: key -> parameters, a pytree of float32 arrays.
      apply: (parameters, inputs) -> logits.
      train: inputs and integer labels.
      test: the same, held out.
      num_workers: number of workers N.
      **settings: of `classification`.
    """
    settings.setdefault("name", getattr(apply, "__name__", "custom"))
    return classification(
        lambda key, sample: Variables(init(key), {}),
        lambda variables, inputs, train, key: (apply(variables.params, inputs), {}),
        train,
        test,
        num_workers,
        **settings,
    )
