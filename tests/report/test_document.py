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
        self.ids, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        given = dict(attributes)
        self.sources += [given[k] for k in ("src", "href") if k in given]
        self.ids += [given["id"]] if "id" in given else []
        self.tags.append((tag, given, self.open[-2] if len(self.open) > 1 else ""))

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


def read(path):
    reader = _Reader()
    reader.feed(path.read_text())
    assert not reader.open
    return reader


def test_the_top_of_a_page_warns_counts_and_leads_to_its_sections(sections, tmp_path):
    notice = "**Scale `smoke`.** No result."
    several = [*sections, Section("Other", ["Text."])]
    reader = read(document.save_html("R", several, tmp_path / "r.html", notice))
    shown = " ".join("".join(reader.text).split())
    top = shown.partition("Text.")[0]
    for words in ("Scale smoke. No result.", "1 agrees", "1 differs", "0 not tested"):
        assert words in top
    links = [source[1:] for source in reader.sources if source.startswith("#")]
    assert links == reader.ids and len(links) == 2
    assert document.counts(several)[document.AGREES] == 1
    text = document.save_markdown("R", several, tmp_path / "r.md", notice).read_text()
    assert text.splitlines()[2] == f"> {notice}"


def test_marks_of_markdown_are_shown_as_what_they_mean(tmp_path):
    text = "One *word*, **two** and `a_b * c`:\n\n- first\n- [site](https://x.y/z)"
    table = Table("`k` of *n*", ["`x`"], [["**bold** <i>"], ["a ** b"]])
    evil = "<script>alert(1)</script> [x](javascript:alert(1))"
    section = Section("`T`", [text, table, evil])
    path = document.save_html("R", [section], tmp_path / "r.html")
    reader = read(path)
    shown = "".join(reader.text)
    assert "`" not in shown and "**two**" not in shown and "- first" not in shown
    assert "a_b * c" in shown and "a ** b" in shown and "<i>" in shown
    tags = [tag for tag, _, _ in reader.tags]
    assert {"em", "strong", "code", "li", "a"} <= set(tags)
    assert "script" not in tags and "i" not in tags
    assert not any("javascript" in source for source in reader.sources)


def test_a_page_is_readable_on_a_phone(sections, tmp_path):
    path = document.save_html("R", sections, tmp_path / "r.html")
    reader = read(path)
    named = {given.get("name") for tag, given, _ in reader.tags if tag == "meta"}
    assert {"viewport", "color-scheme"} <= named
    above = [parent for tag, _, parent in reader.tags if tag == "table"]
    assert above and set(above) == {"div"}  # in which it scrolls
    css = path.read_text()
    assert "overflow-x:auto" in css and "max-width:100%" in css
    assert "prefers-color-scheme:dark" in css


def test_all_claims_in_one_table(sections):
    table = document.claims_table([*sections, *sections])
    assert len(table.rows) == 4
    assert [row[4] for row in table.rows][:2] == ["agrees", "differs"]
