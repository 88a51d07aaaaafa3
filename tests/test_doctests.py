"""The examples in docstrings print what they say."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

# Packages, with all modules in them, and modules; add yours.
CHECKED = [
    "abs_dssp.literals",
    "abs_dssp.simulation.communication",
    "abs_dssp.simulation.delay_base",
    "abs_dssp.simulation.delays",
    "abs_dssp.simulation.recording",
    "abs_dssp.tasks",
    "abs_dssp.theory",
]


def _modules(name):
    """The module, or the package and all modules in it."""
    inside = importlib.util.find_spec(name).submodule_search_locations
    found = pkgutil.walk_packages(inside or [], name + ".")
    return [name, *(module.name for module in found)]


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
    tests = doctest.DocTestFinder(recurse=False).find(module, name)
    # One by one: doctest would skip functions that the type checker has wrapped.
    for key, value in public.items():
        tests += doctest.DocTestFinder().find(value, f"{name}.{key}", module=False)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in tests:
        runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)
    functions = [value for value in public.values() if inspect.isfunction(value)]
    assert runner.tries or not functions, f"{name}: no example in any docstring"
