"""Timelines, pictures, summaries and tables."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import delays, policies, simulate, tasks
from abs_dssp.replay import Result
from abs_dssp.report import curves, summary, timeline
from abs_dssp.training.evaluation import History


@pytest.fixture(scope="module")
def trace():
    policy = policies.parse("abs(k0=1,a=10,tau_max=2)", 4)
    return simulate.schedule(policy, delays.constant([1.0, 1.1, 1.2, 2.7]), 60)


def size(path):
    """Width and height of a PNG, from its header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_spans_fill_every_workers_time_without_overlap(trace):
    for worker in range(4):
        mine = sorted(s for s in timeline.spans(trace) if s.worker == worker)
        ends = [0.0] + [s.end for s in mine]
        starts = [s.start for s in mine] + [trace.seconds]
        np.testing.assert_allclose(ends, starts, atol=1e-9)
    kinds = {span.kind for span in timeline.spans(trace)}
    assert kinds <= set(timeline.KINDS) and "cancelled" in kinds
    lost = sum(s.end - s.start for s in timeline.spans(trace) if s.kind == "cancelled")
    np.testing.assert_allclose(lost, trace.cancelled_seconds)


def test_transfers_are_shown_as_sending():
    from abs_dssp import communication

    trace = simulate.schedule(
        policies.asp(2),
        delays.constant([1.0, 2.0]),
        12,
        communication=communication.link(1, bandwidth=2),
    )
    sent = [s for s in timeline.spans(trace) if s.kind == "sending"]
    np.testing.assert_allclose([s.end - s.start for s in sent], 0.5)
    assert len(sent) == 12


def test_the_chrome_file_has_a_lane_per_worker_and_the_commits(trace, tmp_path):
    path = timeline.save_chrome(trace, tmp_path / "timeline.json")
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {i: f"worker {i}" for i in range(4)} | {4: "server"}
    spans = [e for e in events if e["ph"] == "X"]
    assert all(e["dur"] >= 0 for e in spans)
    computing = [e for e in spans if e["name"] == "computing"]
    assert len(computing) == len(trace)
    total = sum(e["dur"] for e in computing)  # microseconds
    np.testing.assert_allclose(total, trace.duration.sum() * 1e6)
    assert sum(e["ph"] == "i" for e in events) == trace.commits


def test_pictures_are_written_whole_and_reproducibly(trace, tmp_path):
    record = {"push": 0, "version": 0, "seconds": 0.0, "epoch": 0.0}
    histories = [
        History(
            tuple(
                record | {"seconds": float(t), "version": t + 1, "accuracy": t / 10}
                for t in range(10)
            ),
            np.empty(0),
        )
        for _ in range(2)
    ]
    runs = {"asp()": histories, "bsp()": histories}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        timeline.save_picture([trace, trace], tmp_path / folder / "timeline.png")
        curves.save_curves(runs, tmp_path / folder / "time.png", target=0.5)
        curves.save_curves(runs, tmp_path / folder / "rounds.png", "version")
        curves.save_staleness({"x": trace}, tmp_path / folder / "staleness.png")
    first = sorted((tmp_path / "a").iterdir())
    assert [p.name for p in first] == [
        "rounds.png",
        "staleness.png",
        "time.png",
        "timeline.png",
    ]
    for path in first:
        width, height = size(path)
        assert width >= 1000 and height >= 200  # 200 dots per inch
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def result(accuracies):
    trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 3.0]), 8)
    records = tuple(
        {
            "push": 2 * i,
            "version": i,
            "seconds": 3.0 * i,
            "epoch": 0.1 * i,
            "accuracy": a,
            "loss": 1 - a,
        }
        for i, a in enumerate(accuracies)
    )
    variables = tasks.Variables({"w": jnp.zeros(25)}, {})  # 100 bytes
    return Result(trace, variables, History(records, np.empty(0)))


def test_a_summary_holds_what_a_schedule_worked_out_by_hand_gives():
    found = summary.summarise(result([0.1, 0.4, 0.6, 0.5, 0.7]), 0.5)
    assert found == {
        "seconds_to_target": 6.0,
        "pushes_to_target": 4,
        "commits_to_target": 2,
        "final_accuracy": 0.7,
        "final_loss": pytest.approx(0.3),
        "pushes_per_second": 8 / 12,
        "commits": 4,
        "mean_staleness": 0.0,
        "p95_staleness": 0.0,
        "max_staleness": 0,
        "waiting_share": pytest.approx(2 / 6),  # the fast one waits 2 of 3 seconds
        "cancelled_share": 0.0,
        "discarded_share": 0.0,
        "bytes_sent": 100 * (8 + 2 + 8),  # pushes, first pulls, releases
        "peak_bytes_per_second": 300.0,  # the slow push, and both releases
    }
    assert tuple(found) == summary.FIELDS
    json.dumps(found, allow_nan=False)


def test_several_seeds_give_mean_and_spread_and_null_where_never_reached():
    runs = [summary.summarise(result(a), 0.5) for a in ([0.1, 0.6], [0.1, 0.2, 0.8])]
    entry = summary.over_seeds("bsp()", runs)
    assert entry["seconds_to_target"] == 4.5
    np.testing.assert_allclose(entry["spread"]["seconds_to_target"], 3 / 2**0.5)
    never = summary.over_seeds("bsp()", [summary.summarise(result([0.1]), 0.9)])
    assert never["seconds_to_target"] is None and never["commits_to_target"] is None
    text = summary.table([entry, never])
    lines = text.splitlines()
    assert "4.5 ±2.1" in lines[2] and lines[3].split()[1] == "-"
    # Of a regression there is no accuracy, and so no target.
    none = dict.fromkeys(("seconds_to_target", "commits_to_target", "final_accuracy"))
    bare = summary.table([each | none for each in (entry, never)]).splitlines()[0]
    assert "accuracy" not in bare and "target" not in bare and "loss" in bare
