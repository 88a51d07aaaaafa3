"""Imports between the rooms of the package flow one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "abs_dssp"
FLOORS = [  # a room imports those above it, and itself
    "policies",
    "history",
    "tasks",
    "simulation",
    "training",
    "theory",
    "verify",
    "cluster",
    "report",
    "experiment",
    "commands",
]


def imported(path):
    """All modules that a file imports anywhere, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_nothing_below_it(room):
    assert (PACKAGE / room).is_dir()
    below = FLOORS[FLOORS.index(room) + 1 :]
    offenders = [
        (str(path.relative_to(PACKAGE)), name)
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for name in imported(path)
        if path.name != "__main__.py"  # a command stands above all rooms
        if any(f"{name}.".startswith(f"abs_dssp.{other}.") for other in below)
    ]
    assert offenders == []


def test_every_room_has_its_floor():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS)
