"""The parts of a report as HTML: text with Markdown's marks, tables, pictures."""

import base64
import html
import re
from pathlib import Path

from abs_dssp import markup

# What a text may hold: code, bold, italics and links, of which code goes first.
_CODE = re.compile(r"`([^`]+)`")
_MARKS = (
    (re.compile(r"\*\*(\S(?:.*?\S)?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w*])\*(\S(?:[^*]*?\S)?)\*(?![\w*])"), r"<em>\1</em>"),
    (re.compile(r"!?\[([^\]]+)\]\((https?://[^\s)]+)\)"), r'<a href="\2">\1</a>'),
    (re.compile(r"!?\[([^\]]+)\]\([^\s)]+\)"), r"\1"),  # files that are not within
)
_ITEM = re.compile(r"(?:[-*]|\d+\.)\s+")


def inline(text: str) -> str:
    """Text on one line as HTML; everything that is no mark is escaped.

    Example:
      >>> inline("**`a < b` holds** <script>")
      '<strong><code>a &lt; b</code> holds</strong> &lt;script&gt;'
    """
    parts = _CODE.split(text.replace("\0", ""))  # text and code in turn
    shown = html.escape("\0".join(parts[::2]))  # code may lie within other marks
    for pattern, made in _MARKS:
        shown = pattern.sub(made, shown)
    for code in parts[1::2]:
        shown = shown.replace("\0", f"<code>{html.escape(code)}</code>", 1)
    return shown


def paragraphs(text: str) -> str:
    """Paragraphs and lists, apart by empty lines.

    Example:
      >>> paragraphs("Two:\\n\\n- one\\n- other")
      '<p>Two:</p><ul><li>one</li><li>other</li></ul>'
    """
    made = []
    for block in text.strip().split("\n\n"):
        lines = [line.strip() for line in block.splitlines()]
        if lines and _ITEM.match(lines[0]):
            items: list[str] = []
            for line in lines:
                if found := _ITEM.match(line):
                    items.append(line[found.end() :])
                else:  # goes on
                    items[-1] += f" {line}"
            kind = "ol" if lines[0][0].isdigit() else "ul"
            inner = "".join(f"<li>{inline(item)}</li>" for item in items)
            made.append(f"<{kind}>{inner}</{kind}>")
        elif lines:
            made.append(f"<p>{inline(' '.join(lines).lstrip('#').strip())}</p>")
    return "".join(made)


def table(
    header: list[str], rows: list[list[str]], caption: str, words: bool, marked
) -> str:
    """A table that scrolls by itself where a screen is narrow.

    Args:
      header: names of the columns.
      rows: of text, with marks.
      caption: above it.
      words: whether its cells are sentences, which are aligned to the left.
      marked: names of the class that a cell has whose text is one of them.
    """
    plain = markup.table(
        header,
        rows,
        caption,
        "text" if words else "",
        lambda text: text if text in marked else "",
        show=inline,
    )
    return f'<div class="scroll" tabindex="0">{plain}</div>'


def picture(path: Path, caption: str) -> str:
    """A PNG within the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    plain = html.escape(re.sub(r"[`*]", "", caption))
    return (
        f'<figure><img alt="{plain}" src="data:image/png;base64,{data}">'
        f"<figcaption>{inline(caption)}</figcaption></figure>"
    )


def page(title: str, body: str) -> str:
    """A whole page, which needs no other file."""
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{name}</h1>\n{body}\n</body></html>\n"
    )


_STYLE = """
:root{--ink:#1a1a1a;--soft:#555;--line:#ccc;--back:#fff;--box:#fff4d6;--edge:#d9a400;
--bad:#a33c00;--good:#00634a;--link:#0b57a4}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--soft:#aaa;--line:#444;
--back:#161616;--box:#3a2f10;--edge:#b98b00;--bad:#ff9a66;--good:#5fd3ae;--link:#8ab8f0}}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;
padding:1rem;color:var(--ink);background:var(--back);overflow-wrap:break-word}
h1{line-height:1.2}h2{margin-top:2.2rem;border-bottom:1px solid var(--line)}
a{color:var(--link)}code{font-size:.92em}
.notice{background:var(--box);border-left:.3rem solid var(--edge);padding:.1rem 1rem}
.counts{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.4rem 1.4rem}
.counts b{font-size:1.25em}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.85rem}
td,th{border-bottom:1px solid var(--line);padding:.25rem .6rem;text-align:right;
vertical-align:top;overflow-wrap:normal}
td:first-child,th:first-child,table.text td,table.text th{text-align:left}
table.text{min-width:46rem}
caption,figcaption{text-align:left;font-size:.85rem;color:var(--soft);padding:.3rem 0}
figure{margin:1rem 0}img{max-width:100%;height:auto;background:#fff}
.differs{color:var(--bad)}.agrees{color:var(--good)}
"""
