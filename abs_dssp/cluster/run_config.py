"""What all processes of a run, and its log, must agree on."""

from collections.abc import Mapping
from typing import Any


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
