"""Every figure and table of both papers, side by side with the papers' numbers.

    abs-dssp reproduce --scale=smoke
    abs-dssp reproduce --scale=laptop --data_dir=../shared/data

Writes report.md and report.html to --out/SCALE. Finished runs are kept: the same
command goes on where it was interrupted, and the report grows figure by figure.
"""

import time
from pathlib import Path

from absl import flags

from abs_dssp.experiment import entry, outputs, verdicts
from abs_dssp.experiment.reproduction import archive, scales, study_flags
from abs_dssp.experiment.reproduction.figures import FIGURES
from abs_dssp.report import document
from abs_dssp.report.document import VERDICTS, Section

_ONLY = flags.DEFINE_list("only", None, "Names of figures, e.g. abs_fig1; all of them.")
_PUBLISH = flags.DEFINE_string(
    "publish",
    None,
    "Also write the report to this Markdown file, with pictures and finished runs.",
)
_KEPT = flags.DEFINE_string(
    "kept", None, "Runs to begin with: the file that --publish wrote."
)
flags.adopt_module_key_flags(study_flags)  # --help lists them too

TITLE = "DSSP and ABS, reproduced"


def main(argv):
    del argv
    begun = time.monotonic()
    names = _ONLY.value or list(FIGURES)
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"--only: unknown {name!r}; known: {', '.join(FIGURES)}.")
    here = study_flags.context()
    notice = scales.notice(here.scale)
    if _ONLY.value:
        notice += f" Of all figures these alone: {', '.join(names)}."
    if _KEPT.value is not None:
        count = archive.unpack(Path(_KEPT.value), here.runner.folder)
        print(f"{count} runs from {_KEPT.value}")
    sections: list[Section] = []
    took: dict[str, float] = {}
    with here.runner:
        for name in names:
            start = time.monotonic()
            sections.append(FIGURES[name](here))
            took[name] = time.monotonic() - start
            setting = study_flags.setting(here, time.monotonic() - begun, took)
            judged = verdicts.judged(sections, here.scale.level)
            report = [_overview(judged, here.scale.level), *judged, setting]
            outputs.save_report(TITLE, report, here.out, notice=notice)
    outputs.save_report(TITLE, report, here.out, _PUBLISH.value, notice)
    if _PUBLISH.value is not None:
        kept = Path(_PUBLISH.value).with_suffix("") / f"{here.scale.name}.jsonl.xz"
        archive.pack(here.runner.folder, kept)
    claims = [claim for section in judged for claim in section.claims]
    counts = ", ".join(
        f"{sum(c.verdict == word for c in claims)} {word}" for word in VERDICTS
    )
    print(
        f"\n{len(claims)} claims: {counts}. {time.monotonic() - begun:.0f} s.\n"
        f"Written to {here.out}: report.md, report.html"
    )


def _overview(sections: list[Section], level: float) -> Section:
    return Section(
        "Every claim",
        [
            "Verdicts follow from rules that were fixed beforehand. Seeds are paired. "
            "For `agrees` the contrary of a claim must be rejected, for `differs` the "
            f"claim itself, both at {100 * level:g} % after Holm's correction over all "
            "rows; where neither is, a row is `inconclusive`. `by construction` marks "
            "numbers that were put in, and runs of one and the same schedule; `not "
            "tested` what the paper gives no number for. Effects have 95 % intervals, "
            "which are not corrected; a spread is one sample standard deviation over "
            "seeds.",
            document.claims_table(sections),
        ],
    )


def run() -> None:
    """Runs the command."""
    entry.run(main)
