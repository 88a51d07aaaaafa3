"""Every figure and table of both papers, side by side with the papers' numbers.

    python experiments/reproduce.py --scale=smoke
    python experiments/reproduce.py --scale=laptop --data_dir=../shared/data

Writes report.md and report.html to --out/SCALE. Finished runs are kept: the same
command goes on where it was interrupted, and the report grows figure by figure.
"""

import time
from pathlib import Path

import abs_fig1
import abs_fig2
import abs_fig3
import abs_fig4
import dssp_fig3
import dssp_fig4_table1
import entry
import outputs
from absl import flags
from reproduction import study

from abs_dssp.report import document
from abs_dssp.report.document import AGREES, DIFFERS, UNTESTED, Section

_ONLY = flags.DEFINE_list("only", None, "Names of figures, e.g. abs_fig1; all of them.")
_PUBLISH = flags.DEFINE_string(
    "publish", None, "Also write the report to this Markdown file, pictures beside it."
)
flags.adopt_module_key_flags(study)  # --help lists them too

TITLE = "DSSP and ABS, reproduced"
FIGURES = {
    figure.NAME: figure.build
    for figure in (
        dssp_fig4_table1, dssp_fig3, abs_fig1, abs_fig2, abs_fig3, abs_fig4
    )
}  # fmt: skip


def main(argv):
    del argv
    begun = time.monotonic()
    names = _ONLY.value or list(FIGURES)
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"--only: unknown {name!r}; known: {', '.join(FIGURES)}.")
    here = study.context()
    sections: list[Section] = []
    took: dict[str, float] = {}
    with here.runner:
        for name in names:
            start = time.monotonic()
            sections.append(FIGURES[name](here))
            took[name] = time.monotonic() - start
            report = [_overview(sections), *sections,
                      study.setting(here, time.monotonic() - begun, took)]  # fmt: skip
            study.save(TITLE, report, here.out)
    if _PUBLISH.value is not None:
        outputs.publish(TITLE, report, Path(_PUBLISH.value))
    claims = [claim for section in sections for claim in section.claims]
    counts = ", ".join(
        f"{sum(c.verdict == word for c in claims)} {word}"
        for word in (AGREES, DIFFERS, UNTESTED)
    )
    print(
        f"\n{len(claims)} claims: {counts}. {time.monotonic() - begun:.0f} s.\n"
        f"Written to {here.out}: report.md, report.html"
    )


def _overview(sections: list[Section]) -> Section:
    return Section(
        "Every claim",
        [
            "Verdicts are computed by fixed rules: `agrees` and `differs` as the "
            "sections say, `not tested` where the paper gives nothing to compare with. "
            "A spread is one sample standard deviation over seeds.",
            document.claims_table(sections),
        ],
    )


if __name__ == "__main__":
    entry.run(main)
