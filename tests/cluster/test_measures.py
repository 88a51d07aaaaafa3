"""What is measured of a run, and how it is seen from outside."""

import datetime
import io
import json
import re
from pathlib import Path

import harness
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, exposition, parser

from abs_dssp.cluster import lines
from abs_dssp.cluster.measures import HISTOGRAMS, PARTS, Histogram, Measures
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.status import Status
from abs_dssp.report import live, metrics, spent

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
WORKERS, PUSHES = 2, 150


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its trace, and the last status."""
    seen: list[Status] = []
    result = harness.train(
        tmp_path_factory.mktemp("run"),
        "ssp(s=2)",
        num_workers=WORKERS,
        pushes=PUSHES,
        watch=seen.append,
    )
    return result.trace, seen[-1]


@pytest.fixture(scope="module")
def page(run):
    """What Prometheus' own parser reads of the run's /metrics."""

    class Collector(metrics.MetricsServer):
        def __init__(self):  # without a socket
            self._status = run[1]

    registry = CollectorRegistry()
    registry.register(Collector())
    text = exposition.generate_latest(registry).decode()
    return list(parser.text_string_to_metric_families(text))


VALUES = st.lists(st.floats(0, 1e3) | st.sampled_from([0.0, 1e-3, 2e-3, 100.0]))


@hypothesis.given(VALUES, VALUES, st.floats(0.001, 1))
def test_a_histogram_is_what_numpy_says(first, second, share):
    bounds = Measures(1, lambda: 0.0).histograms()["log_seconds"].bounds
    ours = Histogram(bounds)
    for part in (first, second):
        ours.add(np.array(part))
    values = np.array(first + second)
    assert ours.count == len(values) and ours.total == pytest.approx(values.sum())
    for bound, below in zip(bounds, ours.counts.cumsum()[:-1], strict=True):
        assert below == np.sum(values <= bound)
    if not len(values):
        assert ours.mean == ours.quantile(share) == 0
        return
    assert ours.mean == pytest.approx(values.mean())
    # The bucket of the exact value, but for the rounding of its rank.
    ranks = np.ceil(share * len(values) + np.array([-1e-9, 1e-9])).astype(int) - 1
    exact = np.sort(values)[ranks.clip(0, len(values) - 1)]
    low, high = np.searchsorted(bounds, exact).clip(max=len(bounds) - 1)
    slack = 1 + 1e-9
    assert ours.quantile(share) * slack >= (0.0, *bounds)[low]
    assert ours.quantile(share) <= bounds[high] * slack


def test_memory_is_bounded_and_a_snapshot_stays_as_it_is():
    measures = Measures(2, lambda: 0.0)
    for _ in range(1000):
        measures.push(1.0, 1.5, [0.25] * 5, 1, 0.5, 0.375, 3)
    taken = measures.histograms()
    assert not measures._latest
    measures.push(1.0, 1.5, [0.25] * 5, 1, 0.5, 0.375, 3)
    assert {one.count for one in taken.values()} == {1000}
    assert {one.count for one in measures.histograms().values()} == {1001}
    means = {name: one.mean for name, one in taken.items()}
    assert means == {f"{part}_seconds": 0.25 for part in PARTS} | {
        "decision_seconds": 0.5,
        "round_trip_seconds": 0.125,
        "staleness_versions": 3.0,
        "staleness_seconds": 0.5,
    }


def test_a_grant_that_is_sent_again_keeps_its_time():
    now = iter([1.0, 2.0])
    measures = Measures(1, lambda: next(now))
    for number in (1, 1, 2, 2):
        measures.granted(Message(Kind.GRANT, 0, grant_id=number))
    assert measures.sent == [2.0]


def test_every_push_is_measured_once(run):
    trace, status = run
    assert set(status.histograms) == set(HISTOGRAMS)
    assert {one.count for one in status.histograms.values()} == {PUSHES}
    stale = status.histograms["staleness_versions"]
    assert stale.total == trace.staleness.sum()
    assert stale.counts[0] == np.sum(trace.staleness == 0)
    # All that a worker does between grant and push, within the run.
    assert 0 < status.histograms["staleness_seconds"].total < WORKERS * status.seconds


def test_a_push_that_is_sent_twice_counts_once(tmp_path):
    with harness.two(tmp_path) as (serving, (one, _), (grant, _)):
        for _ in range(2):
            one.push(grant)
            one.expect(Kind.GRANT)
    counts = serving.server.status().histograms
    assert {histogram.count for histogram in counts.values()} == {1}


def test_the_page_is_what_the_run_was(run, page):
    _, status = run
    families = {family.name: family for family in page}
    for name, histogram in status.histograms.items():
        family = families[f"abs_dssp_{name}"]
        assert family.type == "histogram" and family.documentation == HISTOGRAMS[name]
        values = {s.name.removeprefix(family.name): s.value for s in family.samples}
        assert values["_count"] == PUSHES == status.pushes
        assert values["_sum"] == histogram.total
        buckets = [s for s in family.samples if s.name.endswith("_bucket")]
        bounds = [float(s.labels["le"]) for s in buckets]
        assert bounds == [*histogram.bounds, np.inf] == sorted(bounds)
        counts = [s.value for s in buckets]
        assert counts == histogram.counts.cumsum().tolist()
    on = {s.labels["on"]: s.value for s in families["abs_dssp_spent_seconds"].samples}
    assert on == dict(status.spent)


def test_the_dashboard_shows_what_is_served(page):
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] > 30 and dashboard["uid"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    asked = " ".join(t["expr"] for panel in panels for t in panel["targets"])
    shown = set(re.findall(r"abs_dssp_\w+", asked))
    samples = {(f.type, s.name) for f in page for s in f.samples}
    served = {name for _, name in samples if not name.endswith("_created")}
    assert shown <= served
    histograms = {name for kind, name in samples if kind == "histogram"}
    unseen = served - shown
    assert not unseen - histograms  # these need no more than one of their series each
    for name in HISTOGRAMS:
        assert any(s.startswith(f"abs_dssp_{name}_") for s in shown)


def test_where_the_time_went_adds_up(run):
    _, status = run
    summary = json.loads(json.dumps(spent.summarise(status)))  # plain numbers
    assert summary["pushes"] == PUSHES
    for part in ("server", "workers"):
        whole, parts = summary[part]["seconds"], summary[part]["parts"]
        seconds = [p["seconds"] if part == "server" else p for p in parts.values()]
        assert min(seconds) >= 0
        assert sum(seconds) == pytest.approx(whole)  # the rest included
    assert summary["server"]["parts"]["decision"]["mean"] > 0
    assert summary["beside"]["evaluations"] > 0 < summary["beside"]["checkpoints"]
    text = spent.table(summary)
    for name in (*PARTS, "idle", "evaluations", "computing", "waiting"):
        assert f": {name} " in text


def test_a_run_without_pushes_has_a_table_too():
    measures = Measures(1, lambda: 0.0)
    beside = dict.fromkeys(("serving", "idle", "evaluations", "checkpoints"), 0.0)
    empty = Status(
        "asp()", 0.0, 0, None, 0, 0.0, 0.0, (),
        histograms=measures.histograms(), spent=beside,
    )  # fmt: skip
    assert "server: idle" in spent.table(spent.summarise(empty))


@hypothesis.given(st.text(), st.none() | st.floats(0, 1e9))
def test_lines_of_json_hold_what_was_said(line, seconds):
    made = lines.as_json(line, 3, 1.5e9, seconds)
    assert "\n" not in made
    read = json.loads(made)
    assert list(read) == ["time", "process", "run_seconds", "level", "message"]
    assert read["message"] == line and read["process"] == 3
    time = datetime.datetime.fromisoformat(read["time"])
    assert time == datetime.datetime.fromtimestamp(1.5e9, datetime.UTC)
    assert lines.as_json(made, 4, 0.0) == made  # as a launcher passes it on


def test_a_view_in_json_has_one_object_a_line(run):
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    shown = live.Live(stream, every=0.0, log_format="json")
    shown.say("error: it is over")
    shown.say(lines.Warned("worker 1 is gone"))
    shown.show(run[1])
    shown.close()
    first, warned, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["run_seconds"]) == ("error", None)
    assert (warned["level"], warned["message"]) == ("warning", "worker 1 is gone")
    assert second["run_seconds"] == pytest.approx(run[1].seconds, abs=1e-3)
    assert second["message"] == live.plain_line(run[1])
