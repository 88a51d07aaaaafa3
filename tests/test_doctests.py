"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import inspect
import pkgutil

import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import policies

PACKAGES = ["abs_dssp.policies"]
NAMES = {"jnp": jnp, "np": np, "policies": policies}  # what examples need not import


def modules():
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for module in pkgutil.iter_modules(package.__path__, name + "."):
            if not module.name.endswith("__main__"):
                yield importlib.import_module(module.name)


def examples():
    """Everything public with an example, found also behind a decorator."""
    for module in modules():
        yield f"{module.__name__}", module.__doc__ or ""
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__:
                yield f"{module.__name__}.{name}", inspect.getdoc(value) or ""


@pytest.mark.parametrize(
    "name, text",
    [pytest.param(n, text, id=n) for n, text in examples() if ">>>" in text],
)
def test_the_example_gives_what_it_says(name, text):
    test = doctest.DocTestParser().get_doctest(text, dict(NAMES), name, name, 0)
    told: list[str] = []
    failed, tried = doctest.DocTestRunner().run(test, out=told.append)
    assert tried and not failed, "".join(told)


def test_every_constructor_has_an_example():
    found = {name.rpartition(".")[2] for name, text in examples() if ">>>" in text}
    for table in (policies._RULES, policies._COMBINATORS, policies._WEIGHTINGS):
        assert {function.__name__ for function in table.values()} <= found
