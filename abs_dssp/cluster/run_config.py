"""What all processes of a run, and its log, must agree on."""

import ast
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What decides bits, decisions and messages; reports, theory and launchers do not.
_ROOMS = ("policies", "history", "simulation", "training", "tasks", "cluster")


def first_difference(
    wanted: Mapping[str, Any], found: Any
) -> tuple[str, Any, Any] | None:
    """Name, wanted and found value of the first setting that differs; None if none.

    Settings within settings are compared one by one. What is only found is ignored.
    """
    if not isinstance(found, Mapping):
        found = {}
    for name, value in wanted.items():
        other = found.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            inner = first_difference(value, other)
            if inner is not None:
                return inner
        elif other != value:
            return name, value, other
    return None


def digest(agreed: Mapping[str, Any]) -> str:
    """Tells a run from others, by what all of its processes agree on."""
    text = repr(sorted(agreed.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_digest(package: Path | None = None) -> str:
    """A digest of the code that processes of one run must share.

    Comments, docstrings and the layout of lines do not count, nor do rooms that
    decide nothing about a run.

    Args:
      package: the folder of the package; this one by default.
    """
    root = Path(__file__).resolve().parents[1] if package is None else package
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            if "launcher" in path.parts:
                continue
            tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                _drop_docstring(node)
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _drop_docstring(node: ast.AST) -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
        node.body[0] = ast.Pass()
