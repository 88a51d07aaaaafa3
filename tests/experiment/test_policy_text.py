"""The text of a policy with settings of its own."""

import pytest

from abs_dssp.experiment import methods, policy_text, run_flags

NUMBERS = {"local_steps": int, "learning_rate": float}


@pytest.mark.parametrize(
    ("text", "policy", "settings"),
    [
        ("bsp()", "bsp()", {}),
        (" asp() ; local_steps=2", "asp()", {"local_steps": 2}),
        ("asp();aggregate=sum", "asp()", {"aggregate": "sum"}),
        (
            "asp(); aggregate = compensated(strength=0.04,adaptive=True);local_steps=8",
            "asp()",
            {
                "aggregate": "compensated(strength=0.04,adaptive=True)",
                "local_steps": 8,
            },
        ),
    ],
)
def test_settings_follow_the_policy(text, policy, settings):
    assert policy_text.settings_of(text, NUMBERS) == (policy, settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bsp(); steps=1", "'steps'; known: aggregate, learning_rate, local_steps."),
        ("bsp(); aggregate=most", "aggregate must be one of 'mean'"),
        ("bsp(); aggregate", "aggregate must be one of 'mean'"),
        ("bsp(); local_steps=x", "local_steps must be a number, got 'x'"),
    ],
)
def test_other_settings_are_refused(text, message):
    with pytest.raises(ValueError) as error:
        policy_text.settings_of(text, NUMBERS)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text", ["rescaled()", "ringleader()", "bsp()", "fedbuff(k=2)"]
)
def test_a_given_policy_is_combined_as_it_states(text):
    method = methods.given(text, 4)
    again, settings = policy_text.settings_of(method.setting, {})
    assert again == text and settings.get("aggregate", "mean") == method.aggregate
    stated = {"rescaled()": "sum", "ringleader()": "table", "bsp()": "mean"}
    assert method.aggregate == stated.get(text, "sum")
    assert methods.given(f"{text}; aggregate=sum", 4).aggregate == "sum"


def test_a_built_in_method_that_is_given_has_the_same_constants():
    listed = {m.text: m for m in methods.recommended(4, 8.0)}
    for text in ("bsp()", "rescaled()", "malenia(batch_size=16)", "ringleader()"):
        if text in listed:
            mine = methods.given(text, 4)
            assert mine.aggregate == listed[text].aggregate
            assert mine.schedule_of is listed[text].schedule_of


def test_a_policys_own_aggregate_comes_before_the_flag():
    flags = run_flags.flags.FLAGS
    if not flags.is_parsed():
        flags(["test"])
    assert run_flags.run("asp(); aggregate=sum").aggregate == "sum"
    assert run_flags.run("asp()").aggregate == "mean"
