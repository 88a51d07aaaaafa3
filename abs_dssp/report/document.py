"""Reports of text, tables, pictures and claims, as Markdown and as one HTML file."""

import base64
import dataclasses
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abs_dssp import files

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


def save_markdown(title: str, sections: Sequence[Section], path: Path) -> Path:
    """Writes a report; pictures are referred to, relative to it."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for part in section.parts:
            lines += [_markdown(part, path.parent), ""]
        if section.claims:
            lines += [_markdown(claims_table([section]), path.parent), ""]
    return files.write(path, "\n".join(lines).rstrip() + "\n")


def save_html(title: str, sections: Sequence[Section], path: Path) -> Path:
    """Writes a report as one file that needs no other; pictures lie within it."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [_html(part) for part in section.parts]
        if section.claims:
            body.append(_html(claims_table([section])))
    return files.write(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n",
    )


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;"
    "padding:0 1rem;color:#111}table{border-collapse:collapse;margin:.6rem 0;"
    "font-size:13px}td,th{border-bottom:1px solid #ccc;padding:.25rem .6rem;"
    "text-align:right;vertical-align:top}td:first-child,th:first-child,"
    "table.text td,table.text th{text-align:left}caption,figcaption{text-align:left;"
    "font-size:13px;color:#444;padding:.3rem 0}figure{margin:1rem 0}"
    "img{max-width:100%;height:auto}td.differs{color:#a33c00}td.agrees{color:#00634a}"
)


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
        paragraphs = (html.escape(p) for p in part.split("\n\n"))
        return "".join(f"<p>{p}</p>" for p in paragraphs)
    if isinstance(part, Picture):
        data = base64.b64encode(part.path.read_bytes()).decode()
        caption = html.escape(part.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in part.header)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in part.rows)
    kind = ' class="text"' if _is_text(part) else ""
    return (
        f"<table{kind}><caption>{html.escape(part.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cell(text: str) -> str:
    mark = f' class="{text}"' if text in (AGREES, DIFFERS) else ""
    return f"<td{mark}>{html.escape(text)}</td>"


def _is_text(table: Table) -> bool:
    """Whether a table holds sentences, which read better aligned to the left."""
    return any(len(cell) > 40 for row in table.rows for cell in row[1:])
