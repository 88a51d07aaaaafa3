"""Tables as HTML, with all text escaped: for notebooks and for reports."""

import html
import math
from collections.abc import Callable, Sequence
from typing import Any


def table(
    header: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    caption: str = "",
    kind: str = "",
    mark: Callable[[str], str] = lambda text: "",
    show: Callable[[str], str] = html.escape,
) -> str:
    """A table, whose cells are text and never markup.

    Args:
      header: names of the columns; empty for none.
      rows: of the table.
      caption: above it.
      kind: class of the table, of the caller's own choice.
      mark: class of a cell, by its text.
      show: makes HTML of a text; must escape what it does not know.

    Example:
      >>> table(["name"], [["a < b"]])
      '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>a &lt; b</td></tr>\
</tbody></table>'
    """

    def cell(value: Any) -> str:
        text = str(value)
        name = mark(text)
        given = f' class="{html.escape(name)}"' if name else ""
        return f"<td{given}>{show(text)}</td>"

    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    given = f' class="{html.escape(kind)}"' if kind else ""
    above = f"<caption>{show(caption)}</caption>" if caption else ""
    names = "".join(f"<th>{show(str(name))}</th>" for name in header)
    head = f"<thead><tr>{names}</tr></thead>" if header else ""
    return f"<table{given}>{above}{head}<tbody>{lines}</tbody></table>"


def number(value: Any) -> str:
    """A number in a cell: whole ones in full, others to four digits.

    Example:
      >>> number(12000.0), number(0.123456), number("end")
      ('12000', '0.1235', 'end')
    """
    if not isinstance(value, (int, float)):
        return str(value)
    whole = math.isfinite(value) and value == round(value)
    return f"{value:.0f}" if whole else f"{value:.4g}"
