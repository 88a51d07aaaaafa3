"""Reports as Markdown and as one HTML file."""

import html.parser
import re

import pytest

from abs_dssp.report import document
from abs_dssp.report.document import Claim, Picture, Section, Table

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63000100000500010d0a2db40000000049454e44ae426082"
)


@pytest.fixture
def sections(tmp_path):
    picture = tmp_path / "figures" / "one.png"
    picture.parent.mkdir()
    picture.write_bytes(PNG)
    claims = [
        Claim("a < b", "1 | 2", "3", document.AGREES),
        Claim("c", "4", "5", document.DIFFERS, "because & so"),
    ]
    table = Table("Caption.", ["method", "x"], [["one", "1.0"], ["two", "<2>"]])
    return [Section("Title & more", ["Text.", table, Picture(picture, "What")], claims)]


def test_markdown_tables_have_as_many_cells_as_headers(sections, tmp_path):
    path = document.save_markdown("Report", sections, tmp_path / "report.md")
    text = path.read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [len(re.split(r"(?<!\\)\|", row)) - 2 for row in rows]
    assert cells == [2, 2, 2, 2, 6, 6, 6, 6]
    assert "1 \\| 2" in text
    assert "![What](figures/one.png)" in text
    assert text.startswith("# Report\n")


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_needs_no_other_file_and_escapes(sections, tmp_path):
    path = document.save_html("Report", sections, tmp_path / "report.html")
    reader = _Reader()
    reader.feed(path.read_text())
    assert not reader.open
    assert reader.sources and all(s.startswith("data:") for s in reader.sources)
    shown = "".join(reader.text)
    for text in ("Title & more", "a < b", "<2>", "because & so", "differs"):
        assert text in shown


def test_all_claims_in_one_table(sections):
    table = document.claims_table([*sections, *sections])
    assert len(table.rows) == 4
    assert [row[4] for row in table.rows][:2] == ["agrees", "differs"]
