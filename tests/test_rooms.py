"""Imports between the rooms of the package flow one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "abs_dssp"
# Nothing of these looks at how runs are shown, or at experiments.
LOWER = ("policies", "history", "simulation", "training", "tasks", "theory", "cluster")


def imported(path):
    """All modules that a file imports anywhere, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(room, forbidden):
    return [
        (str(path.relative_to(PACKAGE)), name)
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for name in imported(path)
        if any(f"{name}.".startswith(f"abs_dssp.{other}.") for other in forbidden)
    ]


@pytest.mark.parametrize("room", LOWER)
def test_the_lower_rooms_import_neither_reports_nor_experiments(room):
    assert (PACKAGE / room).is_dir()
    assert offenders(room, ("report", "experiment")) == []


def test_reports_import_no_experiments():
    assert offenders("report", ("experiment",)) == []
