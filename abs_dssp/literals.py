"""Reads calls with literal arguments, such as `"ssp(s=3)"`, and evaluates nothing."""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """A call as it was written.

    Attributes:
      name: of the function.
      args: positional arguments, literals or `Call`s.
      kwargs: keyword arguments, likewise.
    """

    name: str  # or module:name
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# A string, which is skipped, or the name of a module and of a function in it.
_QUOTED = r"""(?s:\"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_MODULE = re.compile(_QUOTED + r"|(?P<module>[^\W\d]\w*(?:\.\w+)*):(?=\w+\s*(?:\(|$))")


def parse_call(text: str, where: str) -> Call:
    """The call that `text` spells; a bare name is a call without arguments.

    Args:
      text: for instance `"weighted(my_rules:mine(s=3), inverse())"`; a function that
        is not known by its name alone is named with its module.
      where: the caller's name, for error messages.

    Returns:
      The call, with nested calls as `Call`s and literals as Python values.

    Raises:
      ValueError: if `text` is not a call, or an argument neither a literal nor a call.

    Example:
      >>> from abs_dssp import literals
      >>> literals.parse_call("weighted(asp, s=[1, 2])", "example")
      Traceback (most recent call last):
      ValueError: example: 'asp' in 'weighted(asp, s=[1, 2])' is not a literal value; \
a text needs quotes, and a name of a function parentheses.
      >>> literals.parse_call("ssp(s=3)", "example")
      Call(name='ssp', args=(), kwargs={'s': 3})
    """
    text = text.strip()

    def one_name(match):  # as long as the text, so that positions stay what they are
        if match["module"] is None:
            return match[0]
        return match[0].replace(".", "_").replace(":", "_")

    try:
        tree = ast.parse(_MODULE.sub(one_name, text), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if isinstance(tree, ast.Name):
        return Call(_source(text, tree))
    if not isinstance(tree, ast.Call):
        raise ValueError(
            f"{where}: expected the form name(argument=value), got {text!r}."
        )
    return _call(tree, text, where)


def calls(call: Call) -> Iterator[Call]:
    """`call` and all calls among its arguments, at any depth."""
    yield call
    for argument in (*call.args, *call.kwargs.values()):
        if isinstance(argument, Call):
            yield from calls(argument)


@functools.cache  # the same function again, so that caches by it hold
def load(name: str, where: str) -> Callable[..., Any]:
    """The function that `module:function` names, of a module that can be imported.

    Args:
      name: of module and function.
      where: the caller's name, for error messages.

    Raises:
      ValueError: if there is no such module, or no function in it.

    Example:
      >>> from abs_dssp import literals
      >>> literals.load("math:sqrt", "example")(9)
      3.0
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{where}: cannot load {name}: {error}; {_advice(module, function)}."
        ) from error
    if not callable(found):
        raise ValueError(f"{where}: {name} must be a function, got {found!r}.")
    return found


def _advice(module: str, function: str) -> str:
    """What to do about a name that cannot be loaded."""
    if module.endswith(".py"):
        return f"leave out .py: {module.removesuffix('.py')}:{function}"
    if module in sys.modules:
        there = [n for n in vars(sys.modules[module]) if not n.startswith("_")]
        near = difflib.get_close_matches(function, there, 1)
        return (
            f"did you mean {module}:{near[0]}"
            if near
            else "give a function that is there"
        )
    return (
        "modules of one's own are looked for in the present folder and in those that "
        "PYTHONPATH names"
    )


def guess(name: str, known: Iterable[str]) -> str:
    """What may have been meant by an unknown name, to put behind it; "" if unclear.

    Example:
      >>> from abs_dssp import literals
      >>> literals.guess("batchsize", ["batch_size", "seed"])
      ' (did you mean batch_size?)'
    """
    near = difflib.get_close_matches(name.lower(), list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def build(
    text: str | Call, where: str, known: Mapping[str, Callable[..., Any]], **fixed: Any
) -> Any:
    """Calls the constructor that `text` names, nested calls first.

    Args:
      text: what `parse_call` reads, or what it returned.
      where: the caller's name, for error messages.
      known: constructors by name.
      **fixed: arguments for every constructor that accepts them; `text` may not give
        them.

    Returns:
      What the constructor returns.

    Raises:
      ValueError: for an unknown name or argument (with the known ones), a missing
        argument, or whatever the constructor refuses.

    Example:
      >>> from abs_dssp import literals
      >>> known = {"add": lambda a, b: a + b, "twice": lambda a: 2 * a}
      >>> literals.build("add(1, b=twice(3))", "example", known)
      7
    """
    call = parse_call(text, where) if isinstance(text, str) else text
    return _build(call, where, known, fixed)


def _build(call: Call, where, known, fixed) -> Any:
    if call.name not in known:
        names = ", ".join(sorted(known))
        near = guess(call.name, known)
        raise ValueError(f"{where}: unknown name {call.name!r}{near}; known: {names}.")

    def value(argument):
        if isinstance(argument, Call):
            return _build(argument, where, known, fixed)
        return argument

    function = known[call.name]
    signature = inspect.signature(function)
    given = {k: v for k, v in fixed.items() if k in signature.parameters}
    kinds = {name: each.kind for name, each in signature.parameters.items()}
    rest = inspect.Parameter.VAR_POSITIONAL
    if rest in kinds.values() and not call.kwargs and not given:  # f(*args)
        return _called(function, call.name, where, [value(a) for a in call.args], {})
    collects = (rest, inspect.Parameter.VAR_KEYWORD)
    free = [n for n, kind in kinds.items() if n not in given and kind not in collects]
    listed = ", ".join(free) or "none"
    if len(call.args) > len(free):
        raise ValueError(
            f"{where}: {call.name} takes at most {len(free)} arguments ({listed}), "
            f"got {len(call.args)}."
        )
    arguments = dict(zip(free, call.args, strict=False))
    for name, argument in call.kwargs.items():
        if name not in free:
            raise ValueError(
                f"{where}: {call.name} has no argument {name!r}; known: {listed}."
            )
        if name in arguments:
            raise ValueError(f"{where}: {call.name} got {name!r} twice.")
        arguments[name] = argument
    for name in free:
        parameter = signature.parameters[name]
        if name not in arguments and parameter.default is parameter.empty:
            raise ValueError(
                f"{where}: {call.name} needs the argument {name!r}; known: {listed}."
            )
    values = {name: value(argument) for name, argument in arguments.items()}
    return _called(function, call.name, where, [], given | values)


def _called(function, name: str, where: str, args: list, kwargs: dict) -> Any:
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{where}: {name}: {reason}.") from error


def _call(node: ast.Call, text: str, where: str) -> Call:
    def value(argument: ast.expr):
        if isinstance(argument, ast.Call):
            return _call(argument, text, where)
        try:
            return ast.literal_eval(argument)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            written = _source(text, argument)
            raise ValueError(
                f"{where}: {written!r} in {text!r} is not a literal value; a text "
                "needs quotes, and a name of a function parentheses."
            ) from None

    named = all(keyword.arg is not None for keyword in node.keywords)
    if not isinstance(node.func, ast.Name) or not named:
        raise ValueError(
            f"{where}: expected the form name(argument=value), got {text!r}."
        )
    if len({keyword.arg for keyword in node.keywords}) < len(node.keywords):
        raise ValueError(f"{where}: an argument is given twice in {text!r}.")
    kwargs = {str(k.arg): value(k.value) for k in node.keywords}
    return Call(_source(text, node.func), tuple(value(a) for a in node.args), kwargs)


def _source(text: str, node: ast.expr) -> str:
    return ast.get_source_segment(text, node) or "?"
