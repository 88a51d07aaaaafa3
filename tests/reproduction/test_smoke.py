"""All figures at the smallest scale, in a process of its own, as a user runs them."""

from pathlib import Path

import pytest

from scripts import start

SMALLER = Path(__file__).with_name("smaller.py")

FIGURES = {
    "dssp_fig4_table1": ("figure4", "fragility"),
    "dssp_fig3": ("figure3", "clocks", "rough"),
    "abs_fig1": ("figure1",),
    "abs_fig2": ("figure2",),
    "abs_fig3": ("figure3",),
    "abs_fig4": ("figure4a", "figure4b"),
}


def reproduce(out, *more):
    given = ("--scale=smoke", "--seeds=1", "--processes=2", f"--out={out}", *more)
    return start(SMALLER, *given, timeout=500)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction")
    code, printed, errors = reproduce(out)
    assert code == 0, errors[-2000:]
    return out, printed


def test_every_figure_is_there(made):
    out, printed = made
    assert "claims:" in printed
    page = (out / "smoke" / "report.html").read_text()
    report = (out / "smoke" / "report.md").read_text()
    for name, pictures in FIGURES.items():
        for picture in pictures:
            file = out / "smoke" / name / f"{picture}.png"
            assert file.stat().st_size > 5000
            assert f"{name}/{picture}.png" in report
    assert page.count("data:image/png;base64,") >= sum(map(len, FIGURES.values()))
    assert "http" not in page.replace("http://www.w3.org", "")  # self-contained
    assert "Every claim" in report and "## Setting" in report


def test_what_is_finished_is_kept(made):
    out, _ = made
    runs = sorted((out / "smoke" / "runs").glob("*.json"))
    before = [run.stat().st_mtime_ns for run in runs]
    assert len(runs) > 40
    code, _, errors = reproduce(out, "--only=abs_fig2")
    assert code == 0, errors[-2000:]
    after = sorted((out / "smoke" / "runs").glob("*.json"))
    assert after == runs and [run.stat().st_mtime_ns for run in after] == before


def test_an_unknown_figure_is_named():
    code, _, errors = reproduce("/nowhere", "--only=abs_fig9")
    assert code == 1
    assert "unknown 'abs_fig9'; known: dssp_fig4_table1" in errors
    assert "Traceback" not in errors
