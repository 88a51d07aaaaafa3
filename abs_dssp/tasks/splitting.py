"""Along which axis each parameter is divided where a worker has several devices.

Flax's metadata come first: what a model says of its parameters, by
`nn.with_partitioning` or `nnx.with_partitioning`. A rule says it of those parameters of
which the model says nothing.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from abs_dssp import checks, literals
from abs_dssp.tasks.base import PyTree, Task

AXIS = "model"  # the name of the devices' axis in a model's metadata

# (name, shape, devices) -> number of the axis to divide, or None
Rule = Callable[[str, tuple[int, ...], int], int | None]


class Split(NamedTuple):
    """What a worker's devices have of every parameter. Static.

    Attributes:
      devices: of one worker; 2 or more.
      axes: names of parameters, in alphabetical order, each with the number of the axis
        that is divided into `devices` equal parts; None for a parameter of which every
        device has all.
      processes: of one worker, among which its devices are divided evenly. Where they
        are several, sums over devices are taken in an order of their own.
    """

    devices: int
    axes: tuple[tuple[str, int | None], ...]
    processes: int = 1

    @property
    def record(self) -> dict[str, Any]:
        """The same for JSON, such as a trace's; see `read`."""
        several = {"processes": self.processes} if self.processes > 1 else {}
        return {"devices": self.devices, "axes": dict(self.axes)} | several

    @property
    def digest(self) -> str:
        """Tells it from others, in few letters."""
        told = tuple(self) if self.processes > 1 else (self.devices, self.axes)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def read(record: Mapping[str, Any]) -> Split | None:
    """The split that a record says; None of an empty one: one device.

    Example:
      >>> split = Split(2, (("bias", None), ("kernel", 1)))
      >>> read(split.record) == split, read({})
      (True, None)
    """
    if not record:
        return None
    axes = sorted((str(name), axis) for name, axis in record["axes"].items())
    return Split(int(record["devices"]), tuple(axes), int(record.get("processes", 1)))


def largest(name: str, shape: tuple[int, ...], devices: int) -> int | None:
    """The largest axis that the number of devices divides; the last of equal ones.

    Example:
      >>> largest("kernel", (64, 256), 4), largest("kernel", (64, 10), 4)
      (1, 0)
      >>> largest("bias", (10,), 4) is None
      True
    """
    del name
    fitting = [(size, axis) for axis, size in enumerate(shape) if _fits(size, devices)]
    return max(fitting)[1] if fitting else None


def metadata(name: str, shape: tuple[int, ...], devices: int) -> int | None:
    """None: parameters of which the model says nothing are not divided."""
    del name, shape, devices
    return None


RULES: dict[str, Rule] = {"largest": largest, "metadata": metadata}


def of_task(
    task: Task, devices: int, rule: str | Rule = "largest", processes: int = 1
) -> Split | None:
    """How the parameters of a task are divided; nothing is computed.

    Args:
      task: model and data.
      devices: of one worker.
      rule: for parameters without metadata of Flax: a name of `RULES`,
        `"module:function"`, or a function of (name, shape, number of devices) that
        gives the number of the axis to divide, or None. Names are those of the model,
        such as `"Dense_0.kernel"`.
      processes: of one worker; divides `devices`.

    Returns:
      The split; None for one device.

    Raises:
      ValueError: for a rule that is unknown, or names an axis that is not there, or one
        that the devices do not divide; if no parameter is divided.

    Example:
      >>> from abs_dssp import tasks
      >>> task = tasks.quadratic(num_workers=1, dim=6)
      >>> of_task(task, 2).axes
      (('parameters', 0),)
      >>> of_task(task, 4)
      Traceback (most recent call last):
      ValueError: devices_per_worker=4: no parameter of quadratic is divided by \
sharding='largest'; the largest is parameters of shape (6,). Take a model with an axis \
that 4 divides, fewer devices, or another rule.
    """
    checks.whole("cluster", "devices_per_worker", devices, least=1)
    chosen = parse(rule)
    if devices == 1:
        return None
    axes: list[tuple[str, int | None]] = []
    sizes: list[tuple[int, str, tuple[int, ...]]] = []
    for name, shape, names in _parameters(task):
        if names is None:
            axis = chosen(name, shape, devices)
            said = f"{_words(rule)} names"
        else:
            axis = _named(name, names)
            said = f"the metadata {names} name"
        if axis is not None:
            _require(name, shape, axis, devices, said)
        axes.append((name, axis))
        sizes.append((math.prod(shape), name, shape))
    if all(axis is None for _, axis in axes):
        _, name, shape = max(sizes)
        raise ValueError(
            f"devices_per_worker={devices}: no parameter of {task.name} is divided by "
            f"sharding={_words(rule)}; the largest is {name} of shape {shape}. Take a "
            f"model with an axis that {devices} divides, fewer devices, or another "
            "rule."
        )
    return Split(devices, tuple(sorted(axes)), processes)


def parse(rule: str | Rule) -> Rule:
    """The rule that a text names, or the function that was given.

    Raises:
      ValueError: for an unknown one.

    Example:
      >>> parse("largst")
      Traceback (most recent call last):
      ValueError: sharding: unknown rule 'largst' (did you mean largest?); known: \
largest, metadata, and module:function for one of your own.
    """
    if callable(rule):
        return rule
    checks.text("sharding", rule, "'largest' or 'my_module:rule'")
    if ":" in rule:
        return literals.load(rule, "sharding")
    if rule not in RULES:
        raise ValueError(
            f"sharding: unknown rule {rule!r}{literals.guess(rule, RULES)}; known: "
            f"{', '.join(RULES)}, and module:function for one of your own."
        )
    return RULES[rule]


def names(params: PyTree) -> list[str]:
    """The names of parameters, such as `"Dense_0.kernel"`, in the order of the leaves.

    Example:
      >>> names({"Dense_0": {"kernel": 0, "bias": 0}})
      ['Dense_0.bias', 'Dense_0.kernel']
    """
    return [name for name, _ in _named_leaves(params)]


def bare(tree: PyTree) -> PyTree:
    """The arrays of a pytree without Flax's metadata around them."""
    return nn.unbox(tree)


def boxed(value: Any, names: tuple[str | None, ...]) -> Any:
    """An array with metadata of Flax around it: a name, or None, for every axis."""
    return nn.Partitioned(value, names)


def _parameters(task: Task):
    """Name, shape, and the names of the axes if there are any, of every parameter."""
    variables = jax.eval_shape(task.init, jax.random.key(0))
    for name, leaf in _named_leaves(variables.params):
        if _is_boxed(leaf):
            yield name, leaf.value.shape, tuple(leaf.names)
        else:
            yield name, leaf.shape, None


def _named_leaves(params: PyTree):
    """The parameters with their names; those with metadata around them as they are."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_boxed)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        yield name or "parameters", leaf


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)


def _named(name: str, names: tuple[Any, ...]) -> int | None:
    """The axis that a parameter's metadata say is divided."""
    # An axis may have several names: those of several axes of devices.
    each = [n if isinstance(n, tuple) else (n,) for n in names]
    unknown = [n for some in each for n in some if n not in (None, AXIS)]
    if unknown:
        raise ValueError(
            f"sharding: the metadata of {name} name the axis {unknown[0]!r}, but a "
            f"worker's devices have one axis, {AXIS!r}; give names such as "
            f"nn.with_partitioning(init, (None, {AXIS!r}))."
        )
    found = [number for number, some in enumerate(each) if AXIS in some]
    if len(found) > 1:
        raise ValueError(
            f"sharding: the metadata of {name} divide {len(found)} axes, {names}; one "
            "axis of a parameter is divided."
        )
    return found[0] if found else None


def _require(
    name: str, shape: tuple[int, ...], axis: Any, devices: int, said: str
) -> None:
    """Refuses an axis that a parameter lacks, or that the devices do not divide."""
    if (
        isinstance(axis, bool)
        or not isinstance(axis, int)
        or axis not in range(len(shape))
    ):
        raise ValueError(
            f"sharding: {said} axis {axis!r} of {name}, whose shape is {shape}; axes "
            f"are numbered from 0 to {len(shape) - 1}, and None divides nothing."
        )
    if not _fits(shape[axis], devices):
        raise ValueError(
            f"sharding: {said} axis {axis} of {name}, whose shape is {shape}; its size "
            f"must be a multiple of devices_per_worker={devices}."
        )


def _fits(size: int, devices: int) -> bool:
    return size >= devices and size % devices == 0


def _words(rule: str | Rule) -> str:
    return repr(rule) if isinstance(rule, str) else getattr(rule, "__name__", "a rule")
