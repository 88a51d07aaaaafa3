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


def run_all(out, names):
    # In one process, which compiles once what several would compile each.
    only = f"--only={','.join(names)}"
    code, printed, errors = reproduce(out, "--processes=1", only)
    assert code == 0, errors[-2000:]
    return printed


SOME = ("abs_fig2",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The figure with the fewest runs."""
    out = tmp_path_factory.mktemp("reproduction")
    return out, run_all(out, SOME)


def test_a_figure_is_there(made):
    check(*made, SOME)


@pytest.mark.slow
def test_every_figure_is_there(tmp_path):
    check(tmp_path, run_all(tmp_path, FIGURES), FIGURES)


def check(out, printed, names):
    """The report has the pictures of these figures."""
    assert "claims:" in printed
    page = (out / "smoke" / "report.html").read_text()
    report = (out / "smoke" / "report.md").read_text()
    for name in names:
        for picture in FIGURES[name]:
            file = out / "smoke" / name / f"{picture}.png"
            assert file.stat().st_size > 5000
            assert f"{name}/{picture}.png" in report
    assert page.count("data:image/png;base64,") >= sum(
        len(FIGURES[name]) for name in names
    )
    assert "http" not in page.replace("http://www.w3.org", "")  # self-contained
    assert "Every claim" in report and "## Setting" in report


@pytest.mark.slow
def test_what_is_finished_is_kept_and_processes_make_what_is_missing(made):
    out, _ = made
    runs = sorted((out / "smoke" / "runs").glob("*.json"))
    assert len(runs) > 10
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
