"""Samples as a user gives them: checked once, cast, and named in what is refused.

A split is a pair of inputs and targets. Each is an array, or a pytree of arrays, whose
first axis counts the samples. Lists are read as arrays, so that plain Python numbers
will do; several arrays are a tuple or a dict.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.tasks.base import PyTree

_AT_ONCE = 2**22  # numbers that are looked at together: bounds the memory of a check


class Split(NamedTuple):
    """Inputs and targets of the same number of samples, on the host."""

    inputs: PyTree  # arrays (n, ...) of float32, int32, uint8 or bool
    targets: PyTree  # arrays (n, ...) of float32, int32 or bool
    number: int  # n


def read(name: str, which: str, given: Any) -> Split:
    """A split that was checked: numbers, all of them finite, for as many samples.

    Args:
      name: of the task, for messages.
      which: `"train"` or `"test"`.
      given: `(inputs, targets)`.

    Raises:
      ValueError: with the value, what was expected and what to do.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import samples
      >>> samples.read("mine", "train", (np.ones((2, 3)), [0.5, np.nan]))
      Traceback (most recent call last):
      ValueError: mine: train targets: sample 1 is nan; expected finite numbers, \
correct or leave out this sample.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(
            f"{name}: {which} must be a pair (inputs, targets), got "
            f"{type(given).__name__}"
            + (f" of {len(given)}." if isinstance(given, tuple | list) else ".")
        )
    inputs = _arrays(f"{name}: {which} inputs", given[0], keep_bytes=True)
    targets = _arrays(f"{name}: {which} targets", given[1], keep_bytes=False)
    counts = {
        f"{what}{path}": len(leaf)
        for what, tree in (("inputs", inputs), ("targets", targets))
        for path, leaf in _named(tree)
    }
    if len(set(counts.values())) > 1 or not min(counts.values()):
        listed = ", ".join(f"{count} {what}" for what, count in counts.items())
        raise ValueError(
            f"{name}: {which} needs as many targets as inputs, one per sample along "
            f"the first axis, and at least one, got {listed}."
        )
    return Split(inputs, targets, next(iter(counts.values())))


def require_alike(name: str, train: Split, test: Split) -> None:
    """Refuses splits whose samples differ in structure, shape or dtype."""
    for what in ("inputs", "targets"):
        trained, tested = getattr(train, what), getattr(test, what)
        expected, found = describe(trained), describe(tested)
        if expected != found:
            raise ValueError(
                f"{name}: a sample of the test {what} is {found}, one of the train "
                f"{what} {expected}; give both splits the same arrays."
            )


def describe(tree: PyTree) -> str:
    """One sample's shapes and dtypes in words.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import samples
      >>> samples.describe({"a": np.zeros((9, 3), np.float32), "b": np.arange(9)})
      "float32 of shape (3,) at ['a'] and int64 of shape () at ['b']"
    """
    parts = [
        f"{leaf.dtype} of shape {tuple(leaf.shape[1:])}" + (f" at {path}" * bool(path))
        for path, leaf in _named(tree)
    ]
    return " and ".join(parts)


def blank(inputs: PyTree, count: int = 1) -> PyTree:
    """What a model is given, as zeros for `count` samples; uint8 becomes float32."""

    def zeros(leaf):
        dtype = jnp.float32 if leaf.dtype == np.uint8 else leaf.dtype
        return jnp.zeros((count, *leaf.shape[1:]), dtype)

    return jax.tree.map(zeros, inputs)


def single(tree: PyTree) -> np.ndarray | None:
    """The array that a tree consists of; None where it has several."""
    return tree if jax.tree_util.treedef_is_leaf(jax.tree.structure(tree)) else None


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in found]


def _arrays(where: str, tree: Any, keep_bytes: bool) -> PyTree:
    """A tree of checked arrays, whose lists were read as arrays."""
    is_list = lambda value: isinstance(value, list)  # noqa: E731
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree, is_list)
    if not pairs:
        raise ValueError(f"{where}: expected an array, got {tree!r}.")
    leaves = [
        _array(where + (f" at {keystr}" if (keystr := _keystr(path)) else ""), leaf)
        for path, leaf in pairs
    ]
    if not keep_bytes:
        leaves = [x.astype(np.int32) if x.dtype == np.uint8 else x for x in leaves]
    return jax.tree.unflatten(structure, leaves)


def _keystr(path) -> str:
    return jax.tree_util.keystr(path)


def _array(where: str, given: Any) -> np.ndarray:
    try:
        array = np.asarray(given)
    except (ValueError, TypeError) as error:  # lists of different lengths, say
        raise ValueError(
            f"{where}: expected an array of numbers, got a {type(given).__name__} "
            f"that is none ({error}); pad samples to one shape."
        ) from None
    floats = jnp.issubdtype(array.dtype, jnp.floating)
    if not floats and array.dtype.kind not in "biu":
        example = f", such as {array.flat[0]!r}" if array.size else ""
        raise ValueError(
            f"{where}: expected numbers, got dtype {array.dtype}{example}; convert "
            "them first, as in np.asarray(values, np.float32)."
        )
    if not array.ndim:
        raise ValueError(
            f"{where}: expected an array whose first axis counts the samples, got "
            f"the number {array}."
        )
    if len(array) and not array.size:
        raise ValueError(f"{where}: no number per sample, got shape {array.shape}.")
    if floats:
        return _floats(where, array)
    if array.dtype in (np.bool_, np.uint8, np.int32):
        return array
    limits = np.iinfo(np.int32)
    if array.size and (array.max() > limits.max or array.min() < limits.min):
        outside = (array > limits.max) | (array < limits.min)
        at, value = _first(array, outside)
        raise ValueError(
            f"{where}: {at} is {value}; integers are kept as int32, "
            f"{limits.min} to {limits.max}; use floats or smaller numbers."
        )
    return array.astype(np.int32)


def _floats(where: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = array.astype(np.float32)
    rows = max(1, _AT_ONCE // max(1, cast[:1].size))
    for start in range(0, len(cast), rows):
        wrong = ~np.isfinite(cast[start : start + rows])
        if not wrong.any():
            continue
        at, value = _first(array[start:], wrong, start)
        finite = "" if not np.isfinite(float(value)) else " in float32"
        raise ValueError(
            f"{where}: {at} is {value}; expected finite numbers{finite}, correct or "
            "leave out this sample."
        )
    return cast


def _first(array: np.ndarray, wrong: np.ndarray, start: int = 0) -> tuple[str, Any]:
    """Where the first wrong number is, in words, and the number."""
    index = tuple(int(number) for number in np.argwhere(wrong)[0])
    inside = f" at {list(index[1:])}" if len(index) > 1 else ""
    return f"sample {start + index[0]}{inside}", array[index]
