"""What callers give, checked: one sentence with the value and what was expected.

Numbers that are traced, as inside jit or vmap, have no value yet and pass.
"""

import inspect
import math
import operator
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp import literals

_SHOWN = 60  # characters of a value in a sentence


class TransientError(ValueError):
    """Something that is no mistake: the same command may have more luck later."""


def whole(where: str, name: str, value: Any, least: int = 0) -> Any:
    """`value` as an int, if it is a whole number of at least `least`.

    Floats are refused, integral ones too, and so are True and False.

    Args:
      where: the function that was called, for the sentence.
      name: of its argument.
      value: what was given.
      least: the smallest number allowed.

    Raises:
      ValueError: if it is something else, or smaller.

    Example:
      >>> from abs_dssp import checks
      >>> checks.whole("schedule", "num_pushes", 50.0, least=1)
      Traceback (most recent call last):
      ValueError: schedule: num_pushes must be a whole number, got 50.0; write 50.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        remedy = ""
        if isinstance(value, (float, np.floating)) and float(value).is_integer():
            remedy = f"; write {int(value)}"
        raise ValueError(
            f"{where}: {name} must be a whole number, got {shown(value)}{remedy}."
        ) from None
    if number < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {number}.")
    return number


def wholes(where: str, least: int = 1, **values: Any) -> None:
    """`whole` for several arguments, given by name.

    Example:
      >>> from abs_dssp import checks
      >>> checks.wholes("quadratic", dim=3, batch_size=0)
      Traceback (most recent call last):
      ValueError: quadratic: batch_size must be at least 1, got 0.
    """
    for name, value in values.items():
        whole(where, name, value, least)


def number(where: str, name: str, value: Any, above: float | None = None) -> None:
    """Refuses what is no finite number of at least 0, or above `above`.

    Args:
      where: the function that was called, for the sentence.
      name: of its argument.
      value: what was given.
      above: the number must be larger than this; by default it may be 0.

    Raises:
      ValueError: if it is something else.

    Example:
      >>> from abs_dssp import checks
      >>> checks.number("train", "until_seconds", "10", above=0)
      Traceback (most recent call last):
      ValueError: train: until_seconds must be a number, got '10'.
    """
    if isinstance(value, jax.core.Tracer):
        return
    if not _is_number(value):
        raise ValueError(f"{where}: {name} must be a number, got {shown(value)}.")
    if above is not None and not value > above:
        raise ValueError(f"{where}: {name} must be above {above}, got {value}.")
    if above is None and not value >= 0:
        raise ValueError(f"{where}: {name} must be at least 0, got {value}.")
    if not math.isfinite(value):
        raise ValueError(f"{where}: {name} must be finite, got {value}.")


def numbers(where: str, name: str, value: Any) -> Any:
    """`value` as float64: one number, or a list of one per worker; tracers as they are.

    Args:
      where: the function that was called, for the sentence.
      name: of its argument.
      value: what was given.

    Raises:
      ValueError: for anything else.

    Example:
      >>> from abs_dssp import checks
      >>> checks.numbers("constant", "seconds", "fast")
      Traceback (most recent call last):
      ValueError: constant: seconds must be a number or a list of numbers, got 'fast'.
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value)):
        return value
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or not array.size:
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: {name} must be a number or a list of numbers, "
            f"got {shown(value)}."
        ) from None


def share(where: str, name: str, value: Any) -> None:
    """Refuses what is no share in 0..1.

    Args:
      where: the function that was called, for the sentence.
      name: of its argument.
      value: what was given.

    Raises:
      ValueError: for anything else; a percentage is recognised.

    Example:
      >>> from abs_dssp import checks
      >>> checks.share("train", "target_accuracy", 95)
      Traceback (most recent call last):
      ValueError: train: target_accuracy must be in 0..1, got 95; for 95 % write 0.95.
    """
    if _is_number(value) and 0 <= value <= 1:
        return
    remedy = ""
    if _is_number(value) and 1 < value <= 100:
        remedy = f"; for {value:g} % write {value / 100:g}"
    raise ValueError(f"{where}: {name} must be in 0..1, got {shown(value)}{remedy}.")


def kind(where: str, name: str, value: Any, wanted: type, example: str) -> None:
    """Refuses an object of another kind.

    Args:
      where: the function that was called, for the sentence.
      name: of its argument.
      value: what was given.
      wanted: the kind.
      example: what could be given instead.

    Raises:
      TypeError: for another kind; a constructor that was not called is recognised.

    Example:
      >>> from abs_dssp import checks, delays
      >>> checks.kind("table", "delays", 3, delays.Delays, "delays.constant([1, 2])")
      Traceback (most recent call last):
      TypeError: table: delays must be a Delays, such as delays.constant([1, 2]), got 3.
    """
    if isinstance(value, wanted):
        return
    remedy = "; call it first" if inspect.isfunction(value) else ""
    raise TypeError(
        f"{where}: {name} must be a {wanted.__name__}, such as {example}, "
        f"got {shown(value)}{remedy}."
    )


def function(where: str, name: str, value: Any, example: str) -> None:
    """Refuses what cannot be called.

    Args:
      where: the function that was called, for the sentence.
      name: of its argument.
      value: what was given.
      example: what could be given instead.

    Raises:
      TypeError: for anything else.

    Example:
      >>> from abs_dssp import checks
      >>> checks.function("from_functions", "apply", "mlp", "(parameters, inputs)")
      Traceback (most recent call last):
      TypeError: from_functions: apply must be a function of (parameters, inputs), got \
'mlp'.
    """
    if not callable(value):
        raise TypeError(
            f"{where}: {name} must be a function of {example}, got {shown(value)}."
        )


def text(where: str, value: Any, example: str) -> None:
    """Refuses what is no text.

    Args:
      where: the function that was called, for the sentence.
      value: what was given.
      example: what could be given instead.

    Raises:
      TypeError: for anything else.

    Example:
      >>> from abs_dssp import checks
      >>> checks.text("policies.parse", None, "'ssp(s=3)'")
      Traceback (most recent call last):
      TypeError: policies.parse: expected text such as 'ssp(s=3)', got None.
    """
    if not isinstance(value, str):
        raise TypeError(
            f"{where}: expected text such as {example}, got {shown(value)}."
        )


def seeds(where: str, value: Any) -> Sequence[int]:
    """The whole numbers of a sequence of seeds.

    Args:
      where: the function that was called, for the sentence.
      value: what was given.

    Raises:
      ValueError: for no sequence, none at all, or what is no seed.

    Example:
      >>> from abs_dssp import checks
      >>> checks.seeds("sweep", 3)
      Traceback (most recent call last):
      ValueError: sweep: seeds must be a sequence of at least one seed, such as \
range(3), got 3.
    """
    given = [] if isinstance(value, str) or np.ndim(value) != 1 else list(value)
    if not given:
        raise ValueError(
            f"{where}: seeds must be a sequence of at least one seed, such as "
            f"range(3), got {shown(value)}."
        )
    return [whole(where, "seed", each) for each in given]


def same_workers(where: str, **counts: int | None) -> None:
    """Refuses things that are made for different numbers of workers.

    Args:
      where: the function that was called, for the sentence.
      **counts: numbers of workers by what has them; None where it is not known.

    Raises:
      ValueError: naming all of them.

    Example:
      >>> from abs_dssp import checks
      >>> checks.same_workers("train", task=3, delays=4)
      Traceback (most recent call last):
      ValueError: train: the task has 3 workers, the delays 4; make them for one number.
    """
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        (first, count), *rest = known.items()
        others = ", ".join(f"the {name} {count}" for name, count in rest)
        raise ValueError(
            f"{where}: the {first} has {count} workers, {others}; make them for one "
            "number."
        )


def accepted(where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuses names of arguments that a function does not have.

    Args:
      where: the function that was called, for the sentence.
      given: the names that it was called with.
      known: the names that it has.

    Raises:
      TypeError: for the first that it does not have, as Python does.

    Example:
      >>> from abs_dssp import checks
      >>> checks.accepted("from_flax", ["batchsize"], ["batch_size", "seed"])
      Traceback (most recent call last):
      TypeError: from_flax: unknown argument 'batchsize' (did you mean batch_size?); \
known: batch_size, seed.
    """
    for name in given:
        if name not in known:
            raise TypeError(
                f"{where}: unknown argument {name!r}"
                f"{literals.guess(name, known)}; known: "
                f"{', '.join(known)}."
            )


def shown(value: Any) -> str:
    """A value in a sentence: short, and of functions the name.

    Example:
      >>> from abs_dssp import checks
      >>> checks.shown(checks.shown), checks.shown([1, 2]), len(checks.shown("a" * 99))
      ('the function shown', '[1, 2]', 48)
    """
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        words = " ".join(repr(value).split())
    except Exception:  # of an object of somebody's own
        return f"a {type(value).__name__}"
    if " at 0x" in words:
        return f"a {type(value).__name__}"
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 15]}..."


def _is_number(value: Any) -> bool:
    return (
        not isinstance(value, (bool, np.bool_, str, bytes, complex))
        and np.ndim(value) == 0
        and np.asarray(value).dtype.kind in "iuf"
    )
