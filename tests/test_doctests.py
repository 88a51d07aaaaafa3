"""The examples in docstrings print what they say."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import policies

# Nothing that a user calls, and no short example of it.
WITHOUT = (
    "abs_dssp.simulation.drawing",
    "abs_dssp.training.engines",
    "abs_dssp.training.identity",
)
NAMES = {"jnp": jnp, "np": np, "policies": policies}  # what examples need not import
# Packages, with all modules in them, and modules; add yours.
CHECKED = [
    "abs_dssp.checks",
    "abs_dssp.experiment.comparison",
    "abs_dssp.experiment.reproduction.scales",
    "abs_dssp.extras",
    "abs_dssp.history",
    "abs_dssp.literals",
    "abs_dssp.markup",
    "abs_dssp.plot",
    "abs_dssp.policies",
    "abs_dssp.record",
    "abs_dssp.report.curves",
    "abs_dssp.report.web",
    "abs_dssp.simulation",
    "abs_dssp.tasks",
    "abs_dssp.theory",
    "abs_dssp.training",
]


def _modules(name):
    """The module, or the package and all modules in it."""
    inside = importlib.util.find_spec(name).submodule_search_locations
    found = pkgutil.walk_packages(inside or [], name + ".")
    names = (module.name for module in found)
    return [name, *(each for each in names if not each.endswith("__main__"))]


def _public(module):
    """The functions and classes that are defined in the module."""
    return {
        name: value
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


@pytest.mark.parametrize("name", [each for name in CHECKED for each in _modules(name)])
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    public = _public(module)
    names = vars(module) | NAMES
    tests = doctest.DocTestFinder(recurse=False).find(module, name, extraglobs=NAMES)
    # One by one: doctest would skip functions that the type checker has wrapped.
    for key, value in public.items():
        finder = doctest.DocTestFinder()
        tests += finder.find(value, f"{name}.{key}", module=False, globs=names)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in tests:
        runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)
    functions = [value for value in public.values() if inspect.isfunction(value)]
    bare = not runner.tries and name not in WITHOUT
    assert not (functions and bare), f"{name}: no example in any docstring"


def test_every_constructor_of_a_policy_has_an_example():
    for table in (policies._RULES, policies._COMBINATORS, policies._WEIGHTINGS):
        for function in table.values():
            assert ">>>" in (inspect.getdoc(function) or ""), function.__name__
