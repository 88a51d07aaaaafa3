"""The theory with one piece of its text replaced, and what must notice it."""

import ast
import inspect
import types

import pytest


def mutated(module, function: str, old: str, new: str) -> types.ModuleType:
    """The module as it would be if `function` said `new` where it says `old`.

    The text is that of the code, not of the docstring, and must be there exactly once.
    """
    source = inspect.getsource(module)
    (found,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    lines = source.splitlines(keepends=True)
    # After the docstring, which is the first statement.
    begin, end = found.body[0].end_lineno, found.end_lineno
    text = "".join(lines[begin:end])
    assert text.count(old) == 1, f"{function}: {old!r} {text.count(old)} times"
    changed = "".join(lines[:begin]) + text.replace(old, new) + "".join(lines[end:])
    made = types.ModuleType(f"{module.__name__}_mutant")
    exec(compile(changed, made.__name__, "exec"), made.__dict__)
    return made


def parametrised(mutants):
    """Every mutant of `(function, old, (new, ...), check)`, as one case each."""
    return pytest.mark.parametrize(
        ("function", "old", "new", "check"),
        [(*row[:2], new, row[3]) for row in mutants for new in row[2]],
        ids=lambda value: getattr(value, "__name__", str(value)),
    )
