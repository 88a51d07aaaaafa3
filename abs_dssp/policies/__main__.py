"""Prints README's table of the rules: `python -m abs_dssp.policies`."""

import inspect
from typing import Any

from abs_dssp import policies

WORKERS = 4  # of the bounds that are shown
# Values of the arguments that have no default.
_VALUES: dict[str, Any] = {"k": 2, "m": 2, "s": 3, "batch_size": 8, "threshold": 10}
_VALUES |= {"at": 100, "seconds": 3.0, "trials": 2}
# Further rows, after that of the same rule.
_VARIANTS = {
    "dssp": ({"variant": "bounded"},),
    "ringmaster": ({"stop": True},),
}
_HEAD = (
    *("rule", "what it does", "staleness", "gap", "pushes per commit"),
    *("waits", "restarts", "reads loss", "aggregate"),
)


def table() -> str:
    """One row for each rule, with its defaults and what it states of itself.

    Returns:
      A Markdown table, without a line's end.
    """
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for name in policies.names():
        for changed in ({}, *_VARIANTS.get(name, ())):
            rows.append(_row(name, changed))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(name: str, changed: dict[str, Any]) -> tuple[str, ...]:
    constructor = policies.rule(name)
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    values = {p.name: _VALUES.get(p.name) for p in parameters} | defaults | changed
    shown = ",".join(f"{key}={_literal(value)}" for key, value in values.items())
    text = f"{name}({shown})"
    stated = policies.parse(text, WORKERS).properties
    doc = inspect.getdoc(constructor) or ""
    return (
        f"`{text}`",
        doc.partition("\n\n")[0].replace("\n", " "),
        _bound(stated.max_staleness),
        _bound(stated.max_gap),
        _sizes(stated.min_commit, stated.max_commit, stated.commits_every_push),
        "yes" if stated.waits else "",
        "yes" if stated.restarts else "",
        "yes" if stated.reads_loss else "",
        stated.aggregate,
    )


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _bound(value: Any) -> str:
    return "" if value is None else str(value)


def _sizes(least: Any, most: Any, every: bool) -> str:
    if every:
        return "1, every push"
    if least == most:
        return _bound(least)
    return f"{least} or more" if most is None else f"{least} to {most}"


if __name__ == "__main__":
    print(table())
