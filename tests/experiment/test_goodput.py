"""Goodput: that every second is counted once, and what is kept."""

import json

import pytest

from abs_dssp import delays, policies, simulate
from abs_dssp.experiment import goodput
from abs_dssp.history import attendance
from scripts import run

HARSH = goodput.Failures(mean_up=20.0, mean_down=6.0, detection=1.5)


@pytest.mark.parametrize("text", ["asp()", "bsp()", "k_sync(k=2)"])
def test_every_second_of_a_worker_is_counted_once(text):
    model = delays.exponential(1.0, num_workers=4)
    trace = simulate.schedule(text, model, 200, seed=5, absences=HARSH.text)
    left = sum(event.kind == "leave" for event in trace.events)
    assert left > 5
    useful = trace.duration[trace.accepted].sum()
    open_ended = {
        worker: trace.seconds - begun for worker, begun in trace.unfinished.items()
    }
    still = sum(s for w, s in open_ended.items() if not trace.open_restarts[w])
    parts = [useful, still, trace.waiting_seconds, trace.cancelled_seconds]
    parts += [attendance.lost_seconds(trace), attendance.away_seconds(trace)]
    parts += [trace.duration[~trace.accepted].sum()]
    assert sum(parts) == pytest.approx(4 * trace.seconds, rel=1e-9)


def test_what_waits_for_its_commit_at_the_end_does_not_count():
    trace = simulate.schedule("k_async(k=3)", "constant([1, 1, 1])", 8)
    assert trace.accepted.sum() == 8 and goodput.used(trace) == 6


def test_the_rules_are_for_any_number_of_workers():
    for count in (2, 3, 8, 100):
        for text in goodput.rules(count):
            assert policies.parse(text, count)


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    path = tmp_path / "goodput.jsonl"
    given = ("asp()", 2, HARSH, 60.0, [0])
    found = goodput.Kept(path).measured(*given)
    assert 0.95 < found.free < 1.05 and found.waiting == found.thrown == 0
    # Alive 20 of 26 seconds, and the last computation is lost.
    assert 0.4 < found.relative < 0.95 and found.lost > 0 and found.away > 0
    monkeypatch.setattr(goodput, "measure", None)
    assert goodput.Kept(path).measured(*given) == found
    with pytest.raises(TypeError):
        goodput.Kept(path).measured("asp()", 2, HARSH, 61.0, [0])


@pytest.mark.slow
def test_the_command_writes_a_report_with_a_real_run(tmp_path):
    one = {"accepted_per_second": 2.0, "faults": [], "mean_seconds_away": 0.0}
    one |= {"away_share": 0.0, "replay_equal": True}
    settings = {"policy": "asp()", "processes": 3, "seconds": 9.0, "every": 3.0}
    settings |= {"delays": "constant(1)", "task": "quadratic"}
    fire = one | {"faults": [{"process": 0, "seconds": 3.0}]}
    result = {"settings": settings, "calm": one, "fire": fire, "ratio": 0.97}
    (tmp_path / "result.json").write_text(json.dumps(result))
    code, _, errors = run(
        "goodput.py", "--num_workers=2,3", "--pushes=300", "--only=asp", "--only=bsp",
        "--failures=20,6,1", f"--real={tmp_path / 'result.json'}",
        f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert code == 0, errors
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("| `asp()` |") == 2 and "97.0 % of the rate" in report
    assert (tmp_path / "out" / "failures0.png").stat().st_size > 5000
    lines = (tmp_path / "out" / "goodput.jsonl").read_text().splitlines()
    assert len(lines) == 4
