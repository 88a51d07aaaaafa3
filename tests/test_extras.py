"""What works without optional libraries, and what is said where it does not."""

import io
import json
import logging
import re
import sys
import tomllib

import pytest

from abs_dssp import extras
from abs_dssp.report import live, metrics, scalars
from scripts import ROOT, start_many

WITHOUT = ROOT / "tests" / "without.py"
ALL = ",".join(extras.LIBRARIES)
TINY = ["--task=quadratic", "--epochs=2", "--evaluations=2"]


def test_the_extras_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        extra: {re.split("[>; ]", each)[0] for each in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
    for library in extras.LIBRARIES.values():
        assert library.distribution in named[library.extra], library
    ours = named["cluster"] | named["plot"] | named["examples"]
    # array_record is for TFDS alone, which says so itself.
    assert ours - {"array_record"} == {
        x.distribution for x in extras.LIBRARIES.values()
    }
    assert project["optional-dependencies"]["all"] == [
        "abs_dssp[cluster,examples,plot]"
    ]
    assert "abs_dssp[all]" in project["optional-dependencies"]["test"]
    core = {re.split("[>; ]", each)[0] for each in project["dependencies"]}
    assert not core & ours


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What commands answer without all optional libraries, or some."""
    out = tmp_path_factory.mktemp("without")
    asp, slow = "--policy=asp()", "constant(seconds=[1,1,2])"
    lines = {
        "compare": [ALL, "compare", *TINY, asp, "--seeds=1", f"--out={out / 'c'}"],
        "train": [ALL, "train", *TINY, asp, f"--out={out / 'run'}"],
        "whatif": [ALL, "whatif", out / "run", "--policy=bsp()"],
        "advise": [ALL, "advise", slow, "--pushes=100"],
        "verify": [ALL, "verify", asp, "--num_workers=2", "--depth=6"],
        "digits": ["sklearn", "compare", f"--out={out / 'digits'}"],
        "reproduce": ["matplotlib", "reproduce", f"--out={out / 'figures'}"],
        "optimality": ["matplotlib", "optimality", f"--out={out / 'optimality'}"],
        "cluster": [
            "cryptography",
            "train",
            "--cluster=local",
            f"--out={out / 'real'}",
        ],
        "simulate": ["greenlet", "simulate-cluster", "--seed=1"],
    }
    commands = [[WITHOUT, *line] for line in lines.values()]
    return out, dict(zip(lines, start_many(commands), strict=True))


@pytest.mark.parametrize("name", ["compare", "train", "whatif", "advise", "verify"])
def test_virtual_time_needs_no_optional_library(answers, name):
    _, of = answers
    code, printed, errors = of[name]
    assert code == 0, errors
    assert "Traceback" not in errors and printed


def test_what_has_no_pictures_is_otherwise_complete(answers):
    out, of = answers
    for name in ("compare", "train", "whatif"):
        assert 'needs matplotlib: pip install "abs_dssp[plot]"' in of[name][2], name
    (entry,) = json.loads((out / "c" / "summary.json").read_text())
    assert entry["policy"] == "asp()" and entry["pushes_per_second"] > 0
    assert (out / "c" / "history.csv").exists() and (out / "run/run.json").exists()
    assert (out / "run/whatif/whatif.json").exists()
    assert not list(out.rglob("*.png"))


@pytest.mark.parametrize(
    "name, extra, distribution",
    [
        ("digits", "examples", "scikit-learn"),
        ("reproduce", "plot", "matplotlib"),
        ("optimality", "plot", "matplotlib"),
        ("cluster", "cluster", "cryptography"),
        ("simulate", "cluster", "greenlet"),
    ],
)
def test_what_needs_a_library_says_which_extra_has_it(
    answers, name, extra, distribution
):
    code, printed, errors = answers[1][name]
    assert code == 1, (printed, errors)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line.endswith(f'needs {distribution}: pip install "abs_dssp[{extra}]"')
    assert "Traceback" not in errors


def test_tensorboard_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    for name in [each for each in sys.modules if each.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with caplog.at_level(logging.WARNING):
        scalars.Scalars(tmp_path / "tensorboard").close()
    assert 'pip install "abs_dssp[cluster]"' in caplog.text


def test_metrics_are_refused_in_a_sentence(monkeypatch):
    for name in [each for each in sys.modules if each.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(extras.MissingExtraError, match="/metrics needs prometheus-c"):
        metrics.MetricsServer(0)


def test_the_live_table_becomes_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in [each for each in sys.modules if each.startswith("rich")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    stream = Terminal()
    shown = live.Live(stream)
    shown.say("hello")
    shown.close()
    assert stream.getvalue().splitlines() == [
        'lines instead of a table: the live table needs rich: pip install "abs_dssp'
        '[cluster]"',
        "hello",
    ]


def test_another_missing_library_is_no_matter_of_extras():
    with pytest.raises(ModuleNotFoundError, match="no_such_library") as caught:
        with extras.needed("nothing"):
            import no_such_library  # noqa: F401
    assert not isinstance(caught.value, extras.MissingExtraError)
