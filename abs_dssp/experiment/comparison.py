"""What `compare.py` leaves in its folder, and whose comparison a folder holds."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abs_dssp import files, literals, policies
from abs_dssp.experiment import outputs
from abs_dssp.experiment.run import Run
from abs_dssp.report import summary

_NEVER_SWEPT = ("policy", "seed")  # columns of their own
_TAKEN = {
    "rule",
    *_NEVER_SWEPT,
    *summary.FIELDS,
    *(f.name for f in dataclasses.fields(Run)),
}


def require_same(
    out: Path, settings: Mapping[str, Any], texts: Sequence[str], seeds: int
) -> None:
    """Refuses a folder in which another comparison's results would be overwritten.

    The settings must be the same. Policies and seeds may be more than before, and the
    target another one: results are computed again from the runs that are kept.

    Args:
      out: the folder.
      settings: values of the flags that decide results.
      texts: of the policies.
      seeds: runs of each.

    Raises:
      ValueError: naming what differs.

    Example:
      >>> require_same(Path("no/such/folder"), {"epochs": 1.0}, ["bsp()"], seeds=3)
    """
    before = outputs.load_json(out / "settings.json")
    if before is None:
        return
    names = sorted({*before, *settings})
    differing = [
        f"{name}={before.get(name)!r} there, {settings.get(name)!r} here"
        for name in names
        if _plain(before.get(name)) != _plain(settings.get(name))
    ]
    if differing:
        raise ValueError(
            f"--out: {out} holds a comparison of other settings "
            f"({'; '.join(differing)}); give another folder."
        )
    entries = outputs.load_list(out / "summary.json")
    missing = [e["policy"] for e in entries if e["policy"] not in texts]
    if missing:
        raise ValueError(
            f"--out: {out} holds a comparison that has other policies too "
            f"({', '.join(missing)}); add them with --policy, or give another folder."
        )
    most = max((entry["seeds"] for entry in entries), default=0)
    if seeds < most:
        raise ValueError(
            f"--out: {out} holds a comparison of {most} seeds, got --seeds={seeds}; "
            "give as many, or another folder."
        )


def save_results(
    path: Path,
    runs: Mapping[tuple[str, int], Run],
    measures: Mapping[tuple[str, int], Mapping[str, Any]],
) -> Path:
    """Writes one row per policy and seed, as CSV.

    Columns: `policy` (its text), `rule` (without its settings), `seed`, what was swept,
    and the measures of `summary.json`. Swept are settings of a run that are not the
    same in all of them, and arguments of a rule that was given with several values of
    them. Times are virtual seconds, `pushes_to_target` and `commits_to_target` counts,
    shares lie in 0..1, staleness counts versions, and sizes are bytes. A cell is empty
    where there is no value, and where an argument was left at its default.

    Args:
      path: of the file.
      runs: by policy and seed.
      measures: of the same runs, as `summary.summarise` gives them.
    """
    swept = _swept(runs)
    names = list(dict.fromkeys(name for values in swept.values() for name in values))
    with files.whole(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "rule", "seed", *names, *summary.FIELDS])
        for (policy, seed), values in swept.items():
            row = [values.get(name) for name in names]
            row += [measures[policy, seed].get(name) for name in summary.FIELDS]
            writer.writerow([policy, runs[policy, seed].policy, seed, *row])
    return path


def _swept(
    runs: Mapping[tuple[str, int], Run],
) -> dict[tuple[str, int], dict[str, Any]]:
    """The values of what was swept, by name, of every run."""
    found: dict[tuple[str, int], dict[str, Any]] = {key: {} for key in runs}
    settings = {key: run.settings for key, run in runs.items()}
    for name in dict.fromkeys(n for each in settings.values() for n in each):
        values = {key: each.get(name) for key, each in settings.items()}
        if name not in _NEVER_SWEPT and len(set(map(repr, values.values()))) > 1:
            for key, value in values.items():
                found[key][name] = value
    calls = {key: _named(run) for key, run in runs.items()}
    for rule in dict.fromkeys(call.name for call in calls.values()):
        own = {key: call for key, call in calls.items() if call.name == rule}
        for name in dict.fromkeys(n for call in own.values() for n in call.kwargs):
            given = {key: call.kwargs.get(name) for key, call in own.items()}
            if len(set(map(repr, given.values()))) > 1:
                column = f"{rule}.{name}" if name in _TAKEN else name
                for key, value in given.items():
                    found[key][column] = value
    return found


def _named(run: Run) -> literals.Call:
    """The rule with its arguments by name; those with their defaults are left out."""
    return literals.parse_call(policies.describe(run.make_policy()), "policy")


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value
