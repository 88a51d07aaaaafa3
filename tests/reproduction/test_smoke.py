"""All figures at the smallest scale, in a process of its own, as a user runs them."""

import json
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
    given = ("--scale=smoke", "--seeds=1", f"--out={out}", *more)
    return start(SMALLER, *given, timeout=500)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction")
    # In one process, which compiles once what several would compile each.
    code, printed, errors = reproduce(out, "--processes=1")
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


def test_what_is_finished_is_kept_and_processes_make_what_is_missing(made):
    out, _ = made
    runs = sorted((out / "smoke" / "runs").glob("*.json"))
    assert len(runs) > 40
    read = {run: json.loads(run.read_text()) for run in runs}
    missing = [
        run
        for run, kept in read.items()
        if kept["run"]["policy"] == "local_sgd()" and kept["run"]["workers"] == 10
    ][:2]
    assert len(missing) == 2
    before = {run: run.stat().st_mtime_ns for run in runs if run not in missing}
    for run in missing:
        run.unlink()
    code, _, errors = reproduce(out, "--processes=2", "--only=abs_fig2")
    assert code == 0, errors[-2000:]
    assert sorted((out / "smoke" / "runs").glob("*.json")) == runs
    assert {run: run.stat().st_mtime_ns for run in before} == before
    for run in missing:
        again = json.loads(run.read_text())
        assert again["run"] == read[run]["run"]
        assert again["measures"] == read[run]["measures"]


def test_an_unknown_figure_is_named():
    code, _, errors = reproduce("/nowhere", "--only=abs_fig9")
    assert code == 1
    assert "unknown 'abs_fig9'; known: dssp_fig4_table1" in errors
    assert "Traceback" not in errors
