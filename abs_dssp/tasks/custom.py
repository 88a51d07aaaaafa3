"""A task from a model and data of one's own."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from abs_dssp import checks
from abs_dssp.tasks import splitting
from abs_dssp.tasks.base import PyTree, Task, Variables
from abs_dssp.tasks.measures import Measure
from abs_dssp.tasks.supervision import supervised

Split = tuple[Any, Any]  # inputs and targets: arrays (n, ...), or pytrees of them

_SETTINGS = tuple(  # what the constructors below hand on
    name
    for name, parameter in inspect.signature(supervised).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)

# Arguments by which models are told whether they are trained, and their value if so.
_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def from_flax(
    module: Any,
    train: Split,
    test: Split,
    num_workers: int,
    *,
    loss: Measure | None = None,
    metrics: Mapping[str, Measure] | None = None,
    **settings: Any,
) -> Task:
    """A task around a `flax.linen` module.

    Args:
      module: called as `module(inputs)`. Arguments of its `__call__` named `train`,
        `training`, `is_training`, `deterministic` or `use_running_average` are given
        their value. BatchNorm statistics are taken care of, and so is randomness: a
        push has keys of its own, for dropout and all other streams.
      train: inputs and targets of n samples: arrays (n, ...) or pytrees of them. What
        becomes of their dtypes says `supervised`.
      test: the same, held out.
      num_workers: number of workers N.
      loss: (outputs, targets) -> (B,), one value per sample, such as
        `lambda outputs, targets: (outputs[:, 0] - targets) ** 2`; softmax cross entropy
        by default, for targets that are labels.
      metrics: by name, functions like `loss`, averaged over the test split.
      **settings: of `supervised`: `name`, `batch_size`, `partition`, `augment`, `seed`.

    Raises:
      TypeError: for an argument that `supervised` does not have.
      ValueError: as `supervised`; for a module that is none, or that has collections
        other than parameters and BatchNorm statistics.

    Example:
      >>> import flax.linen as nn
      >>> import numpy as np
      >>> from abs_dssp import tasks
      >>> samples = np.eye(4), np.arange(4)
      >>> task = tasks.from_flax(nn.Dense(4), samples, samples, num_workers=2)
      >>> task.name, task.samples_per_epoch
      ('dense', 4)

      Regression, of two numbers per sample:

      >>> samples = np.ones((4, 3)), np.zeros((4, 2))
      >>> task = tasks.from_flax(
      ...     nn.Dense(2), samples, samples, num_workers=2, name="line",
      ...     loss=lambda outputs, targets: ((outputs - targets) ** 2).mean(axis=-1),
      ...     metrics={"worst": lambda outputs, targets: abs(outputs - targets).max(1)})
      >>> sorted(task.evaluate(task.data, task.init(jax.random.key(0))))
      ['loss', 'worst']
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            "from_flax: expected a flax.linen module, such as nn.Dense(10), got "
            f"{type(module).__name__}; nnx models go to from_nnx, functions to "
            "from_functions."
        )
    checks.accepted("from_flax", settings, _SETTINGS)
    settings.setdefault("name", type(module).__name__.lower())
    name = settings["name"]
    modes = _modes(type(module).__call__)

    def call(variables, inputs, train, **options):
        return module.apply(variables, inputs, **modes(train), **options)

    def init(key, inputs):
        made = module.init({"params": key, "dropout": key}, inputs, **modes(False))
        other = set(made) - {"params", "batch_stats"}
        if other:
            raise ValueError(
                f"{name}: the module has the collections {sorted(other)}; a push "
                "carries params and batch_stats alone, so the module must do without."
            )
        return Variables(made.get("params", {}), made.get("batch_stats", {}))

    def apply(variables, inputs, train, key):
        tree = {"params": variables.params}
        # Streams without a key of their own fall back to "params".
        rngs = (
            {}
            if key is None
            else {"dropout": key, "params": jax.random.fold_in(key, 0x9A6)}
        )
        if variables.stats:
            tree["batch_stats"] = variables.stats
        if train and variables.stats:
            outputs, changed = call(
                tree, inputs, train, rngs=rngs, mutable=["batch_stats"]
            )
            return outputs, changed["batch_stats"]
        try:
            return call(tree, inputs, train, rngs=rngs), variables.stats
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                f"{name}: the module draws random numbers in evaluation ({error}); "
                "give its __call__ an argument `train` or `deterministic`, and hand it "
                "to dropout."
            ) from error

    samples = train, test, num_workers
    return supervised(init, apply, *samples, loss=loss, metrics=metrics, **settings)


def from_nnx(
    make: Callable[[Any], Any],
    train: Split,
    test: Split,
    num_workers: int,
    *,
    loss: Measure | None = None,
    metrics: Mapping[str, Measure] | None = None,
    **settings: Any,
) -> Task:
    """A task around a `flax.nnx` module.

    Args:
      make: `nnx.Rngs` -> module, or a class whose one argument is `rngs`; the module is
        called as `module(inputs)`. Parameters are
        trained, BatchNorm statistics travel with the push. Each push sets all random
        streams of the module anew, from a key of its own, so dropout works as it is;
        `module.train()` and `module.eval()` switch it. Arguments of `__call__` are
        found as by `from_flax`, and `rngs`.
      train: inputs and targets of n samples, as for `from_flax`.
      test: the same, held out.
      num_workers: number of workers N.
      loss: as for `from_flax`.
      metrics: as for `from_flax`.
      **settings: of `supervised`, as for `from_flax`.

    Raises:
      TypeError: for an argument that `supervised` does not have.
      ValueError: as `supervised`; if `make` makes no module, or one with variables
        other than parameters, BatchNorm statistics and random streams.

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

    checks.accepted("from_nnx", settings, _SETTINGS)
    settings.setdefault("name", "nnx")
    name = settings["name"]
    if isinstance(make, nnx.Module):
        raise ValueError(
            f"{name}: expected a function that makes the module of nnx.Rngs, such as "
            f"lambda rngs: Model(rngs=rngs), got a {type(make).__name__} itself."
        )
    checks.function("from_nnx", "make", make, "nnx.Rngs that makes the module")
    kinds = (nnx.Param, nnx.BatchStat, nnx.RngState, ...)

    # Metadata say how parameters are to be divided; whether that is done, and among
    # which devices, is not the module's to decide.
    without_mesh = functools.partial(nnx.use_eager_sharding, False)

    made_by: Any = make
    # Of a class, mostly by keyword alone; its own call does not tell.
    told = made_by.__init__ if isinstance(make, type) else make
    named = "rngs" in _parameters(told)

    def maker(rngs):
        return made_by(rngs=rngs) if named else made_by(rngs)

    def module():
        made = maker(nnx.Rngs(0))
        if not isinstance(made, nnx.Module):
            raise ValueError(
                f"{name}: expected a function of nnx.Rngs that makes an nnx.Module, "
                f"got {type(made).__name__} from it; from_flax takes modules "
                "of flax.linen."
            )
        return made

    with without_mesh():
        abstract = nnx.eval_shape(module)
    modes = _modes(type(abstract).__call__)
    draws = "rngs" in _parameters(type(abstract).__call__)
    split: Any = nnx.split(abstract, *kinds)
    graph, *templates, rest = split
    other: list[Any] = [path for path, _ in nnx.to_flat_state(rest)]
    # An array that was no nnx.data in an abstract module: it would be baked in.
    nodes = nnx.iter_graph(abstract)
    other += [path for path, node in nodes if isinstance(node, jax.core.Tracer)]
    if other:
        listed = ", ".join(".".join(map(str, path)) for path in other)
        raise ValueError(
            f"{name}: the module keeps {listed}, but a push carries nnx.Param and "
            "nnx.BatchStat alone; make constants in __call__, or keep them outside the "
            "module."
        )

    def init(key, inputs):
        del inputs
        with without_mesh():
            parts: Any = nnx.split(maker(nnx.Rngs(key)), *kinds)
        _, params, stats, *_ = parts
        values = nnx.to_pure_dict(params)
        for path, variable in nnx.to_flat_state(params):
            _box(values, path, variable.get_metadata().get("out_sharding"))
        return Variables(values, nnx.to_pure_dict(stats))

    def apply(variables, inputs, train, key):
        states = jax.tree.map(lambda leaf: leaf, templates)  # copies to be filled
        for state, values in zip(states[:2], variables, strict=True):
            nnx.replace_by_pure_dict(state, splitting.bare(values))
        module = nnx.merge(graph, *states[:2], _streams(states[2], key), rest)
        (module.train if train else module.eval)()
        given = modes(train)
        if draws:
            own = jax.random.key(0) if key is None else key
            given["rngs"] = nnx.Rngs(jax.random.fold_in(own, 0x9A6))
        outputs = module(inputs, **given)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    samples = train, test, num_workers
    return supervised(init, apply, *samples, loss=loss, metrics=metrics, **settings)


def from_functions(
    init: Callable[[PRNGKeyArray], Any],
    apply: Callable[..., PyTree],
    train: Split,
    test: Split,
    num_workers: int,
    *,
    loss: Measure | None = None,
    metrics: Mapping[str, Measure] | None = None,
    **settings: Any,
) -> Task:
    """A task around two plain functions, for any other library.

    Args:
      init: key -> parameters, a pytree of float32 arrays.
      apply: (parameters, inputs) -> outputs. An argument named `key` is given the key
        of a push, None in evaluation; those that say whether it is trained are found
        as by `from_flax`.
      train: inputs and targets of n samples, as for `from_flax`.
      test: the same, held out.
      num_workers: number of workers N.
      loss: as for `from_flax`.
      metrics: as for `from_flax`.
      **settings: of `supervised`, as for `from_flax`.

    Raises:
      TypeError: for an argument that `supervised` does not have.
      ValueError: as `supervised`.

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
    checks.accepted("from_functions", settings, _SETTINGS)
    checks.function("from_functions", "init", init, "a key")
    checks.function("from_functions", "apply", apply, "(parameters, inputs)")
    own = getattr(apply, "__name__", "custom")
    settings.setdefault("name", own if own.isidentifier() else "custom")
    modes, parameters = _modes(apply), _parameters(apply)

    def begin(key, inputs):
        del inputs
        return Variables(init(key), {})

    def call(variables, inputs, train, key):
        given = modes(train) | ({"key": key} if "key" in parameters else {})
        return apply(variables.params, inputs, **given), {}

    samples = train, test, num_workers
    return supervised(begin, call, *samples, loss=loss, metrics=metrics, **settings)


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's arguments; none where it does not tell."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _modes(function: Callable[..., Any]) -> Callable[[bool], dict[str, Any]]:
    """What a model is told of training, by the arguments that it has for that."""
    known = [name for name in _parameters(function) if name in _MODES]
    return lambda train: {name: _MODES[name] == train for name in known}


def _box(values: dict[Any, Any], path: Sequence[Any], names: Any) -> None:
    """Puts an nnx variable's metadata around its value, as linen's lie there."""
    if names is None:
        return
    *outer, last = path
    for step in outer:
        values = values[step]
    values[last] = splitting.boxed(values[last], tuple(names))


def _streams(state: PyTree, key: Any) -> PyTree:
    """The random streams of an nnx module at their start, one key each."""
    leaves, structure = jax.tree.flatten(state)
    if not leaves:
        return state
    key = jax.random.key(0) if key is None else key

    def fresh(number, leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)  # how often it was drawn from
        own = jax.random.fold_in(key, number)
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    return jax.tree.unflatten(structure, [fresh(*each) for each in enumerate(leaves)])
