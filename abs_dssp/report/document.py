"""Reports of text, tables, pictures and claims, as Markdown and as one HTML file."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abs_dssp import files
from abs_dssp.report import web

AGREES, DIFFERS, INCONCLUSIVE = "agrees", "differs", "inconclusive"
BY_CONSTRUCTION, UNTESTED = "by construction", "not tested"
VERDICTS = (AGREES, DIFFERS, INCONCLUSIVE, BY_CONSTRUCTION, UNTESTED)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first column is left-aligned."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG with what it shows in words."""

    path: Path
    caption: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper says, beside what was found."""

    claim: str
    paper: str  # the paper's number
    ours: str  # ours, with its spread
    verdict: str  # one of VERDICTS; empty until evidence has been judged
    reason: str = ""
    effect: str = ""  # what decides, with its interval
    evidence: Any = None  # what the verdict is to follow from

    def __post_init__(self):
        judged = self.evidence is None or self.verdict
        if judged and self.verdict not in VERDICTS:
            raise ValueError(f"claim: unknown verdict {self.verdict!r}.")


Part = str | Table | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """One figure or table of a paper."""

    title: str
    parts: Sequence[Part]
    claims: Sequence[Claim] = ()


def claims_table(sections: Sequence[Section]) -> Table:
    """All claims of a report, one row each."""
    claims = [claim for section in sections for claim in section.claims]
    rows = [(c.claim, c.paper, c.ours, c.effect, c.verdict, c.reason) for c in claims]
    header = ("claim", "paper", "ours", "effect [95 %]", "verdict", "why")
    return Table("Every claim that was looked at.", header, rows)


def counts(sections: Sequence[Section]) -> dict[str, int]:
    """How many claims have each verdict, in the order of `VERDICTS`."""
    found = [claim.verdict for section in sections for claim in section.claims]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def save_markdown(
    title: str, sections: Sequence[Section], path: Path, notice: str = ""
) -> Path:
    """Writes a report; pictures are referred to, relative to it.

    Args:
      title: of the report.
      sections: of the report.
      path: of the file.
      notice: what must be known first, such as how small the runs were.
    """
    lines = [f"# {title}", ""]
    if notice:
        lines += [f"> {notice}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            lines += [_markdown(part, path.parent), ""]
        if section.claims:
            lines += [_markdown(claims_table([section]), path.parent), ""]
    return files.write(path, "\n".join(lines).rstrip() + "\n")


def save_html(
    title: str, sections: Sequence[Section], path: Path, notice: str = ""
) -> Path:
    """Writes a report as one file that needs no other; pictures lie within it.

    Verdicts are counted and sections listed at the top, below the notice.

    Args:
      title: of the report.
      sections: of the report.
      path: of the file.
      notice: what must be known first, such as how small the runs were.
    """
    body = [f'<div class="notice">{web.paragraphs(notice)}</div>'] if notice else []
    found = counts(sections)
    if any(found.values()):
        items = "".join(
            f'<li class="{"" if " " in verdict else verdict}"><b>{count}</b> '
            f"{verdict}</li>"
            for verdict, count in found.items()
        )
        body.append(f'<ul class="counts">{items}</ul>')
    if len(sections) > 1:
        links = "".join(
            f'<li><a href="#s{number}">{web.inline(section.title)}</a></li>'
            for number, section in enumerate(sections)
        )
        body.append(f"<nav><ul>{links}</ul></nav>")
    for number, section in enumerate(sections):
        body.append(f'<h2 id="s{number}">{web.inline(section.title)}</h2>')
        body += [_html(part) for part in section.parts]
        if section.claims:
            body.append(_html(claims_table([section])))
    return files.write(path, web.page(title, "\n".join(body)))


def _markdown(part: Part, folder: Path) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Picture):
        link = Path(os.path.relpath(part.path, folder)).as_posix()
        return f"![{part.caption}]({link})\n\n*{part.caption}*"
    words = _is_text(part)
    marks = ["---"] + ["---" if words else "---:"] * (len(part.header) - 1)
    rows = [part.header, marks, *part.rows]
    cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    table = "\n".join(f"| {row} |" for row in cells)
    return f"{part.caption}\n\n{table}" if part.caption else table


def _html(part: Part) -> str:
    if isinstance(part, str):
        return web.paragraphs(part)
    if isinstance(part, Picture):
        return web.picture(part.path, part.caption)
    rows = [list(row) for row in part.rows]
    words, marked = _is_text(part), (AGREES, DIFFERS)
    return web.table(list(part.header), rows, part.caption, words, marked)


def _is_text(table: Table) -> bool:
    """Whether a table holds sentences, which read better aligned to the left."""
    return any(len(cell) > 40 for row in table.rows for cell in row[1:])
