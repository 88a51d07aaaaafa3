"""The record, its rules, its file."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
import reference
import support
from hypothesis import strategies as st

from abs_dssp import delays, policies, simulate, traces


@pytest.fixture(scope="module")
def trace():
    policy = policies.parse("abs(k0=1,a=20,tau_max=2)", 4)
    model = delays.shifted_exponential([1, 1, 1, 2.7], 0.5)
    return simulate.schedule(policy, model, 300, seed=3, task="toy", local_steps=2)


def test_a_saved_trace_comes_back(trace, tmp_path):
    again = traces.Trace.load(trace.save(tmp_path / "trace.npz"))
    for name, dtype in traces.COLUMNS.items():
        assert getattr(again, name).dtype == dtype
        np.testing.assert_array_equal(getattr(again, name), getattr(trace, name))
    assert again.header == trace.header
    assert traces.fingerprint(again) == traces.fingerprint(trace)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]


BROKEN = [
    ("time", 5, lambda v: -1.0, "time=-1.0 is not a time since the start"),
    ("time", 5, lambda v: np.nan, "time=nan is not a time"),
    ("time", 5, lambda v: 1e-9, "is before the row above"),
    ("worker", 5, lambda v: 4, "worker=4 is not one of 0..N-1"),
    ("clock", 5, lambda v: v + 1, "does not count the pushes of worker"),
    ("pulled", 5, lambda v: 99, "pulled=99 exceeds version="),
    ("pulled", 5, lambda v: -1, "pulled=-1 is negative"),
    ("version", 5, lambda v: v + 1, "does not rise by one after each committed row"),
    ("committed", 5, lambda v: not v, "does not rise by one after each committed row"),
    ("weight", 5, lambda v: -1, "weight=-1.0 is negative or NaN"),
    ("wait", 5, lambda v: -1, "wait=-1.0 is negative"),
    ("duration", 5, lambda v: np.nan, "duration=nan is negative or NaN"),
    ("restarts", 5, lambda v: -1, "restarts=-1 is negative"),
]


@pytest.mark.parametrize(("name", "row", "change", "message"), BROKEN)
def test_every_rule_is_checked(trace, name, row, change, message):
    column = getattr(trace, name).copy()
    column[row] = change(column[row])
    with pytest.raises(traces.TraceError) as error:
        dataclasses.replace(trace, **{name: column}).validate()
    assert message in str(error.value)
    first = row + 1 if name == "committed" else row
    assert f"row {first}:" in str(error.value)


def test_a_damaged_file_is_refused_in_one_sentence(trace, tmp_path):
    whole = trace.save(tmp_path / "trace.npz").read_bytes()
    path = tmp_path / "damaged.npz"

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def flip(place, change):
        broken = bytearray(whole)
        broken[place] ^= change
        path.write_bytes(broken)
        try:
            again = traces.Trace.load(path)
        except traces.TraceError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # a byte that holds nothing of ours, such as a date
            assert traces.fingerprint(again) == traces.fingerprint(trace)

    flip()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(traces.TraceError, match="damaged"):
            traces.Trace.load(path)


def test_foreign_and_future_files_are_named(trace, tmp_path):
    with pytest.raises(traces.TraceError, match="does not exist"):
        traces.Trace.load(tmp_path / "none.npz")
    np.savez(tmp_path / "foreign.npz", x=np.ones(3))
    with pytest.raises(traces.TraceError, match="is not a trace"):
        traces.Trace.load(tmp_path / "foreign.npz")
    header = json.dumps(trace.header | {"format_version": 99}).encode()
    columns = {name: getattr(trace, name) for name in traces.COLUMNS}
    np.savez(tmp_path / "new.npz", header=np.frombuffer(header, np.uint8), **columns)
    with pytest.raises(traces.TraceError, match="has trace format 99"):
        traces.Trace.load(tmp_path / "new.npz")


def test_derived_quantities_of_a_schedule_worked_out_by_hand():
    # Times 1 and 4 under ssp(s=1): 0 pushes at 1 and at 2 (gap 2: waits), 1 at 4, which
    # frees 0; 0 pushes at 5 (gap 2 again: waits until the end).
    rows = reference.run(reference.Ssp(1), [[1.0], [4.0]], 4)
    trace = support.trace_of(rows, 2)
    np.testing.assert_array_equal(trace.time, [1, 2, 4, 5])
    np.testing.assert_array_equal(trace.staleness, [0, 0, 2, 0])
    np.testing.assert_array_equal(trace.gaps, [1, 2, 0, 2])
    np.testing.assert_array_equal(trace.wait, [0, 2, 0, np.nan])
    assert trace.commits == 4
    assert trace.pushes_per_second == 4 / 5
    assert trace.waiting_seconds == 2
    assert trace.waiting_share == 2 / (2 * 5)
    assert trace.pulls == 2 + 3


def test_waiting_and_cancelled_seconds_add_up_with_computing(trace):
    # Every worker second is computing, waiting or cancelled, but for what is under way
    # at the end.
    for worker in range(trace.num_workers):
        mine = trace.worker == worker
        one = trace.duration[mine].sum() + np.nansum(trace.wait[mine])
        lost = (trace.time - trace.duration - trace.started)[mine].sum()
        end = trace.time[mine][-1] + (trace.wait[mine][-1])
        if np.isfinite(end):
            np.testing.assert_allclose(one + lost, end, rtol=1e-12)
    assert 0 < trace.cancelled_share < 1 and 0 <= trace.waiting_share < 1
    discarded = sum(weight == 0 for weight in trace.weight.tolist())
    assert trace.discarded_share == discarded / len(trace)


def test_cancelled_work_of_a_worker_that_never_pushes_is_counted():
    # K-sync with k = 2 of times 1, 1, 5: worker 2 is cancelled at every commit.
    trace = simulate.schedule(
        policies.k_sync(3, k=2), delays.constant([1.0, 1.0, 5.0]), 20
    )
    assert set(trace.worker) == {0, 1}
    assert trace.open_restarts == (0, 0, 10)
    np.testing.assert_allclose(trace.cancelled_share, 1 / 3)
    # Three first pulls, a release after each push, a restart at each commit.
    assert trace.pulls == 3 + 20 + 10
    assert trace.bytes_sent(100) == (20 + 33) * 100
    assert trace[:8].open_restarts == (0, 0, 10)


def test_bsp_waits_what_the_closed_form_says():
    # Times 1 and 2.7: the fast worker waits 1.7 of every 2.7 seconds.
    trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.7]), 200)
    np.testing.assert_allclose(trace.waiting_share, 1.7 / 2.7 / 2, rtol=1e-9)
    np.testing.assert_allclose(trace.pushes_per_second, 2 / 2.7, rtol=1e-9)


def test_a_folder_is_no_trace(tmp_path):
    with pytest.raises(traces.TraceError, match="is a folder; give the file in it"):
        traces.Trace.load(tmp_path)


def test_leads_are_those_that_the_rule_sees_after_a_return():
    """Who comes back has few pushes, and the clock of the slowest."""
    gone = "given([(2, 50.0, 80.0)])"
    trace = simulate.schedule("ssp(s=3)", "constant([1,1,1,2.7])", 400, absences=gone)
    pushes = [trace.clock[trace.worker == worker].max() for worker in range(4)]
    assert max(pushes) - min(pushes) > 4
    # A worker that leads by 3 goes on, and leads by one more at its next push.
    assert trace.gaps.max() == 4
    # While worker 2 is away nobody waits for it, though its clock stands still.
    away = (trace.time > 65) & (trace.time < 80)
    gone = trace.clock[(trace.worker == 2) & (trace.time < 50)].max()
    assert (trace.clock[away] > gone + 4).any() and trace.gaps[away].max() == 4
