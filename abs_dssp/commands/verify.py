"""Checks rules in every order of events: `abs-dssp verify --help`.

    abs-dssp verify
    abs-dssp verify --policy="ssp(s=3)" --policy="my_rules:mine(lead=2)"
    abs-dssp verify --policy="my_rules:mine()" --max_gap=3 --out=broken.npz

Prints of each policy whether its properties hold where they were tried, and what that
was: each search with its states and depth, the intervals and losses it chose from, the
reductions it made and how often they were tried, whether it is complete or how many
states its frontier has, and from how many states progress was shown; and the schedules
that were followed without reductions. Exit status 0 if nothing is broken, 1 if a
property is, 2 for a mistake in the flags.
"""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags, logging

from abs_dssp import extras, policies, verify

_POLICY = flags.DEFINE_multi_string(
    "policy", [], "Rule to check; may be given several times. All by default."
)
_WORKERS = flags.DEFINE_integer("num_workers", 3, "Workers N.")
_DEPTH = flags.DEFINE_integer("depth", 40, "Most events in a row.")
_DEATHS = flags.DEFINE_integer("deaths", 1, "Workers that may die.")
_JOINS = flags.DEFINE_integer("joins", 1, "Dead workers that may join again.")
_STATES = flags.DEFINE_integer("max_states", 50_000, "States at which a search stops.")
_SCHEDULE = flags.DEFINE_integer(
    "schedule_depth", 40, "Events in each of the schedules without reductions."
)
_PROBED = flags.DEFINE_integer(
    "probed", 512, "States that are compared with themselves under every small shift."
)
_OUT = flags.DEFINE_string(
    "out", None, "File for the first counterexample: a trace, and a picture beside it."
)
_STATED = {
    "max_staleness": "versions; an accepted push is at most so stale",
    "max_computing": "versions; no computation goes on that is older",
    "max_gap": "clocks; no worker is released at a larger gap",
    "commit_size": "accepted pushes in a commit",
    "min_commit": "accepted pushes in a commit, unless nobody else computes",
    "max_commit": "accepted pushes in a commit",
}
for _name, _help in _STATED.items():
    flags.DEFINE_integer(_name, None, f"A property of the rules given: {_help}.")


def main(argv: Sequence[str]) -> None:
    """Checks, prints, and exits with the status."""
    logging.set_verbosity(logging.WARNING)  # libraries' notes are not for users
    if len(argv) > 1:
        _refuse(f"unexpected arguments: {' '.join(argv[1:])}")
    stated = {name: flags.FLAGS[name].value for name in _STATED}
    given = {name: value for name, value in stated.items() if value is not None}
    if given and not _POLICY.value:
        _refuse(f"--{next(iter(given))} needs --policy: it is a property of one rule.")
    sys.path.insert(0, os.getcwd())
    began = time.perf_counter()
    texts = _POLICY.value or verify.examples()
    reports = []
    try:
        for text in texts:  # mistakes are told before anything is searched
            policies.parse(text, _WORKERS.value)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for report in pool.map(lambda text: _check(text, given), texts):
                print(report.text, flush=True)
                reports.append(report)
    except (ValueError, TypeError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted.")
    states = sum(report.states for report in reports)
    moves = sum(report.transitions for report in reports)
    seconds = time.perf_counter() - began
    broken = [report for report in reports if report.violation is not None]
    rules = f"{len(reports)} rule{'s' * (len(reports) != 1)}"
    print(
        f"{rules}, {states} states and {moves} transitions in "
        f"{seconds:.1f} s ({states / seconds:.0f} states/s, compilation included); "
        f"{len(broken) or 'no'} broken"
    )
    for report in broken:
        assert report.violation is not None
        print(f"\n{report.policy}: {report.violation.property} Broken by:\n")
        print(report.violation.table)
    if broken and _OUT.value:
        _save(broken[0], Path(_OUT.value))
    sys.exit(1 if broken else 0)


def _check(text: str, given: dict[str, int]) -> verify.Report:
    policy = policies.parse(text, _WORKERS.value)
    joins = _JOINS.value if _DEATHS.value else 0
    known = verify.properties(policy, _WORKERS.value, joins=joins)
    return verify.check(
        policy,
        _WORKERS.value,
        depth=_DEPTH.value,
        deaths=_DEATHS.value,
        joins=_JOINS.value,
        max_states=_STATES.value,
        schedule_depth=_SCHEDULE.value,
        probed=_PROBED.value,
        properties=verify.stated(known, given),
    )


def _save(report: verify.Report, path: Path) -> None:
    from abs_dssp.report import timeline

    assert report.violation is not None
    trace = report.violation.trace
    try:
        saved = trace.save(path)
        print(f"\nwrote {saved}")
        if len(trace) and extras.available("matplotlib", "a picture of it"):
            picture = timeline.save_picture([trace], path.with_suffix(".png"))
            print(f"wrote {picture}")
    except OSError as error:
        _refuse(f"cannot write {path}: {error}.")


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def run() -> None:
    """Runs the command."""
    from abs_dssp import interrupts  # in here, since it acts when it is imported

    interrupts.raise_again()
    app.run(main)
