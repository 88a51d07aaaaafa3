"""experiments/whatif.py as a user runs it: in a process of its own."""

import csv
import dataclasses
import json

import pytest

from abs_dssp import delays, policies, simulate, traces, whatif
from abs_dssp.report import summary
from scripts import ROOT, run, start_many


def recorded(place, pushes=40, **changed):
    """A run of two workers, 1 s and 2.7 s, two local steps a push."""
    trace = simulate.schedule(
        policies.parse("asp()", 2),
        delays.recorded([[1.0], [2.7]]),
        pushes,
        local_steps=2,
        task="logistic",
    )
    trace = dataclasses.replace(trace, **changed)
    trace.save(place / "trace.npz")
    return trace


def test_other_policies_beside_the_recorded_run(tmp_path):
    trace = recorded(tmp_path)
    texts = ["bsp()", "bsp(); local_steps=4", "adasync(k0=1)"]
    given = [f"--policy={text}" for text in texts]
    code, printed, errors = run("whatif.py", tmp_path, *given)
    assert code == 0, errors
    document = json.loads((tmp_path / "whatif" / "whatif.json").read_text())
    found = document["recorded"]
    assert found == whatif.figures(trace) | {"policy": "recorded: asp()"}
    entries = document["policies"]
    assert [e["policy"] for e in entries] == texts
    # Lockstep: two pushes every 2.7 s, of as many steps as recorded unless told.
    assert entries[0]["pushes_per_second"] == pytest.approx(2 / 2.7)
    assert entries[0]["steps_per_second"] == pytest.approx(4 / 2.7)
    assert entries[1]["pushes_per_second"] == pytest.approx(1 / 2.7)
    assert [e["pushes"] for e in entries] == [40, 20, 40]
    assert "recorded decisions, row by row" in document["check"]
    (note,) = document["notes"]
    assert note.startswith("adasync(k0=1) goes by the training loss")
    assert (tmp_path / "whatif" / "timeline.png").stat().st_size > 5000
    for word in ("recorded: asp()", "0.7407", "staleness (s)", document["check"], note):
        assert word in printed
    assert not list(tmp_path.rglob("*.partial"))


def test_training_takes_the_settings_of_the_run(tmp_path):
    trace = recorded(tmp_path)
    saved = {
        "task": "logistic",
        "batch_size": 4,
        "workers": 2,
        "local_steps": 2,
        "learning_rate": 0.5,
        "evaluations": 5,
    }
    (tmp_path / "settings.json").write_text(json.dumps(saved))
    values = dict.fromkeys(summary.FIELDS, 0.25)
    records = [{"push": 0, "version": 0, "seconds": 0.0, "epoch": 0.0, "accuracy": 0.5}]
    kept = {"summary": values, "records": records}
    (tmp_path / "run.json").write_text(json.dumps(kept))
    out = tmp_path / "out"
    code, printed, errors = run(
        "whatif.py",
        tmp_path,
        "--train",
        "--policy=bsp()",
        "--policy=adasync(k0=1,interval=1)",
        "--learning_rate=0.2",
        f"--out={out}",
    )
    assert code == 0, errors
    document = json.loads((out / "whatif.json").read_text())
    assert document["notes"] == []  # adasync had a loss to go by
    trained = document["trained"]
    assert [e["policy"] for e in trained] == [
        "recorded: asp()",
        "bsp()",
        "adasync(k0=1,interval=1)",
    ]
    assert trained[0]["final_accuracy"] == 0.25
    assert trained[0]["seconds_to_target"] is None
    assert trained[1]["pushes_per_second"] == pytest.approx(2 / 2.7)
    assert trained[1]["final_accuracy"] > 0.6
    with open(out / "history.csv") as file:
        rows = list(csv.DictReader(file))
    last = [r for r in rows if r["policy"] == "bsp()"][-1]
    assert float(last["push"]) == len(trace)
    # 40 pushes, 2 steps each of 4 samples, over the task's 1000 samples.
    assert float(last["epoch"]) == pytest.approx(0.32)
    assert (out / "accuracy.png").stat().st_size > 5000
    assert "trained:" in printed and "s to target" in printed


def wrong_format(place):
    recorded(place)
    (place / "trace.npz").write_bytes(b"PK not a trace")


def wrong_settings(place):
    recorded(place)
    (place / "settings.json").write_text("[1")


WRONG = {  # what is made of the folder, further arguments, what is said
    "no-such-run": (None, [], "trace.npz does not exist"),
    "another-format": (wrong_format, [], "damaged"),
    "settings": (wrong_settings, [], "settings.json is damaged"),
    "no-pushes": (
        lambda place: traces.Trace.save(recorded(place)[:0], place / "trace.npz"),
        [],
        "the trace has no pushes",
    ),
    "policy": (
        recorded,
        ["--policy=bps()"],
        "unknown name 'bps' (did you mean bsp?); known: abs",
    ),
    "workers": (recorded, ["--workers=3"], "the run has 2 workers, got 3"),
    "surplus": (recorded, ["more"], "Expected one argument, RUN_DIR"),
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Answers to all wrong command lines, and where each was given."""
    places = [tmp_path_factory.mktemp("mistake") for _ in WRONG]
    for place, (make, _, _) in zip(places, WRONG.values(), strict=True):
        if make is not None:
            make(place)
    script = ROOT / "experiments" / "whatif.py"
    commands = [
        [script, place, *arguments]
        for place, (_, arguments, _) in zip(places, WRONG.values(), strict=True)
    ]
    answers = zip(places, start_many(commands), strict=True)
    return dict(zip(WRONG, answers, strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_a_users_mistake_gets_one_sentence_and_status_1(mistakes, name):
    place, (code, printed, errors) = mistakes[name]
    assert code == 1
    assert WRONG[name][2] in errors + printed
    assert "Traceback" not in errors
    assert not (place / "whatif").exists()
