"""The reader of flags: literals and calls, and nothing else."""

import hypothesis
import pytest
from hypothesis import strategies as st

from abs_dssp import literals

LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner),
    max_leaves=5,
).filter(lambda value: "inf" not in repr(value))


@hypothesis.given(st.dictionaries(st.sampled_from(["a", "b", "c"]), LITERALS))
def test_what_python_writes_is_read_back(values):
    text = "rule(" + ",".join(f"{k}={v!r}" for k, v in values.items()) + ")"
    call = literals.parse_call(text, "test")
    assert (call.name, call.args, dict(call.kwargs)) == ("rule", (), values)


@hypothesis.given(st.text())
def test_anything_else_is_a_clear_refusal(text):
    try:
        literals.parse_call(text, "test")
    except ValueError as error:
        assert str(error).startswith("test: ")


def test_calls_nest_and_share_what_is_fixed():
    known = {"outer": lambda n, x: (n, x), "inner": lambda n, y=2: (n, y)}
    assert literals.build("outer(x=inner(y=3))", "test", known, n=7) == (7, (7, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f(1,2,3)", "takes at most 2 arguments (a, b), got 3"),
        ("f(1,a=2)", "got 'a' twice"),
        ("f(b=2)", "needs the argument 'a'; known: a, b"),
        ("f(1,n=2)", "has no argument 'n'"),
        ("f(*[1])", "is not a literal value"),
        ("f(**{'a':1})", "expected the form"),
        ("f.g(1)", "expected the form"),
        ("f(a=1,a=2)", "an argument is given twice"),
        ("f(a=lambda: 1)", "is not a literal value"),
        ("1", "expected the form"),
    ],
)
def test_wrong_calls_get_one_clear_sentence(text, message):
    with pytest.raises(ValueError) as error:
        literals.build(text, "test", {"f": lambda n, a, b=0: (n, a, b)}, n=1)
    assert message in str(error.value)


def test_what_collects_arguments_is_given_all_of_them():
    known = {"total": lambda *numbers: sum(numbers), "two": lambda: 2}
    assert literals.build("total(1, two(), 3)", "here", known) == 6
    assert literals.build("total", "here", known) == 0
    with pytest.raises(ValueError, match="here: total has no argument 'x'"):
        literals.build("total(x=1)", "here", known)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:f",
            "cannot load no_such_module:f: No module named.*PYTHONPATH",
        ),
        ("math:no_such", "cannot load math:no_such: .*give a function"),
        ("math:pi", "math:pi must be a function, got 3.14"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, message):
    with pytest.raises(ValueError, match=f"here: {message}"):
        literals.load(name, "here")
