"""Every rule on the same twelve cases, scored by performance profiles.

    abs-dssp leaderboard --processes=2
    abs-dssp leaderboard --smoke

A rule takes part by its file in `abs_dssp/policies`. What was measured is kept in
--out: the same command goes on where it was interrupted. Writes report.md, report.html,
pictures and rows.jsonl.xz, the same bytes for the same versions of the packages on one
machine.
"""

from pathlib import Path

from absl import flags

from abs_dssp.experiment import entry, outputs
from abs_dssp.experiment.leaderboard import board, report
from abs_dssp.experiment.leaderboard.cases import CASES

_OUT = flags.DEFINE_string("out", "out/leaderboard", "Output folder.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Two cases, a few methods, two seeds.")
_SEEDS = flags.DEFINE_integer("seeds", None, "Runs that count; 5.", lower_bound=1)
# Names have commas in them.
_CASES = flags.DEFINE_multi_string(
    "case", None, "Cases whose name contains this, or one of several."
)
_ONLY = flags.DEFINE_multi_string(
    "only", None, "Methods whose label contains this, or one of several."
)
_PROCESSES = flags.DEFINE_integer("processes", 2, "At a time.", lower_bound=1)
_PUBLISH = flags.DEFINE_string(
    "publish", None, "Also write the report to this Markdown file, rows beside it."
)

_SMOKE_CASES = ("quadratic, equal", "logistic, straggler")
_SMOKE_METHODS = ("BSP", "ASP", "DSSP printed", "ABS, K0 = N", "abs_dssp")


def main(argv):
    del argv
    smoke = _SMOKE.value
    parts = _CASES.value or (_SMOKE_CASES if smoke else [""])
    chosen = [case for case in CASES if any(part in case.name for part in parts)]
    if not chosen:
        known = "; ".join(case.name for case in CASES)
        asked = " or ".join(parts)
        raise ValueError(f"--case: none is called {asked}; known: {known}.")
    seeds = _SEEDS.value or (2 if smoke else 5)
    only = _ONLY.value or (_SMOKE_METHODS if smoke else ())
    out = outputs.folder(_OUT.value)
    kept = board.Board(out / "rows.jsonl", seeds)
    rows = kept.rows(chosen, only, _PROCESSES.value)
    board.save(rows, out / "rows.jsonl.xz")
    sections = report.sections(rows, seeds, out)
    outputs.save_report(report.TITLE, sections, out, _PUBLISH.value)
    if _PUBLISH.value is not None:
        folder = Path(_PUBLISH.value).with_suffix("")
        board.save(rows, folder / "rows.jsonl.xz")
    print(f"Written to {out}: report.md, report.html, rows.jsonl.xz and PNGs")


def run() -> None:
    """Runs the command."""
    entry.run(main)
