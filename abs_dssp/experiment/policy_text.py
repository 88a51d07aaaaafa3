"""Policies as flags take them: the text of a rule, and settings after semicolons."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from abs_dssp.training import aggregators


def settings_of(
    text: str, known: Mapping[str, Callable[[Any], Any]]
) -> tuple[str, dict[str, Any]]:
    """A policy's own text and the settings that follow it.

    Args:
      text: `POLICY; NAME=VALUE; NAME=VALUE`.
      known: settings, as for `assignment`; `aggregate` is known too.

    Returns:
      The text for `policies.parse`, and the settings that were given.

    Raises:
      ValueError: for an unknown setting, or a value that is none of it.
    """
    policy, *settings = text.split(";")
    found: dict[str, Any] = {}
    for setting in settings:
        found |= assignment("policy", setting, {**known, "aggregate": str})
    if "aggregate" in found:
        aggregators.parse(found["aggregate"])  # refuses what it does not know
    return policy.strip(), found


def with_aggregate(policy: str, aggregate: str) -> str:
    """The text that `settings_of` reads; "mean" is what is meant without one.

    Args:
      policy: for `policies.parse`.
      aggregate: for `aggregators.parse`.
    """
    return policy if aggregate == "mean" else f"{policy}; aggregate={aggregate}"


def assignment(flag: str, text: str, known: Mapping[str, Callable]) -> dict[str, Any]:
    """Reads `NAME=NUMBER`, or `NAME=TEXT` for names of texts.

    Args:
      flag: where it was given, for messages.
      text: to read.
      known: by name, what makes a value of a Python literal; `str` for a text.
    """
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in known:
        choices = ", ".join(sorted(known))
        raise ValueError(f"--{flag}: unknown setting {name!r}; known: {choices}.")
    if known[name] is str:
        quoted = value[:1] in ("'", '"') and value[-1:] == value[:1]
        return {name: value[1:-1] if quoted else value}
    try:
        return {name: known[name](ast.literal_eval(value))}
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"--{flag}: {name} must be a number, got {value!r}.") from None
