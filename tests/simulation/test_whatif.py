"""Recorded times, scheduled again: the run's own policy gives the run back."""

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
import reference
import support
from hypothesis import strategies as st

from abs_dssp import communication, delays, policies, simulate, traces, whatif
from abs_dssp.history import loss_estimate, rederivation
from abs_dssp.simulation import recording

WORKERS, PUSHES = 4, 25
BY_CASE = pytest.mark.parametrize("case", support.sparse(support.CASES))
# The others look at no time but the order of arrivals.
_TIMED = ("dssp", "adasync", "zipline", "mindflayer", "rescaled", "quorum", "deadline")
BY_ORDER = pytest.mark.parametrize(
    "case",
    support.sparse(
        (c for c in support.CASES if not any(name in c.text for name in _TIMED)),
        "often_by_order",
    ),
)


@st.composite
def tables(draw, value=None):
    """Durations: random, whole (exact ties), or tenths (ties but for rounding)."""
    kinds = [
        st.floats(0.05, 20.0),
        st.integers(1, 4).map(float),
        st.integers(0, 9).map(lambda tenths: tenths / 10),
    ]
    if value is None:
        value = draw(st.sampled_from(kinds))
    row = st.lists(value, min_size=5, max_size=5)
    table = draw(st.lists(row, min_size=WORKERS, max_size=WORKERS))
    hypothesis.assume(all(sum(row) > 0 for row in table))
    return table


def check(*strategies, examples=25):
    """Runs a property, without shrinking: a smaller table is no easier to read."""

    def decorate(function):
        settings = hypothesis.settings(
            max_examples=examples, phases=(hypothesis.Phase.generate,)
        )
        settings(hypothesis.given(*strategies)(function))()

    return decorate


def run(case, table, pushes=PUSHES, **transfers):
    """A trace by the oracle, which knows nothing of JAX or of this module."""
    rule, events = case.oracle(len(table)), []
    rows = reference.run(rule, table, pushes, events=events, **transfers)
    return support.trace_of(rows, len(table), events, policy=case.text)


def again(trace, text=None, **settings):
    policy = policies.parse(text or trace.policy, trace.num_workers)
    return whatif.reschedule(trace, policy, **settings)


def assert_same_rows(found, expected):
    for name in ("worker", "clock", "pulled", "version", "committed", "restarts"):
        np.testing.assert_array_equal(
            getattr(found, name), getattr(expected, name), err_msg=name
        )
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)


@pytest.mark.often(7)
@BY_CASE
def test_the_runs_own_policy_gives_the_run_back(case):
    @check(tables())
    def _(table):
        trace = run(case, table)
        found = again(trace, replayable=True)
        assert_same_rows(found, trace)
        np.testing.assert_array_equal(found.time, trace.time)  # in every bit
        np.testing.assert_array_equal(found.wait, trace.wait)
        np.testing.assert_allclose(found.duration, trace.duration, atol=1e-12)


@pytest.mark.parametrize(
    "case",
    # Of a trial that was given up without a commit it is not seen when the next began.
    support.sparse(c for c in support.CASES if "mindflayer" not in c.text),
)
def test_pushes_that_travel_come_back_too(case):
    """Ties of rounded sums apart, which a time on the way may make or break."""
    seconds = st.sampled_from([0.25, 1.0, 3.0])

    @check(tables(st.floats(0.05, 20.0)), seconds, st.booleans(), examples=16)
    def _(table, seconds, shared):
        trace = run(case, table, seconds=seconds, shared=shared)
        found = again(trace, replayable=True)
        assert_same_rows(found, trace)
        np.testing.assert_allclose(found.time, trace.time, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.duration, trace.duration, atol=1e-9)
        if not shared:
            on_the_way = np.concatenate(whatif.recorded_times(trace).communication)
            np.testing.assert_allclose(on_the_way, seconds, atol=1e-9)


@BY_ORDER
def test_arrivals_of_a_real_clock_keep_their_order(case):
    """Times that are not the float64 sum of a start and a duration."""

    @check(tables(), st.floats(0.01, 2.0), st.booleans(), examples=16)
    def _(table, stretch, late):
        trace = run(case, table)
        released = trace.time + trace.wait
        order = np.unique(np.concatenate([trace.time, released, [0.0]]))
        order = order[~np.isnan(order)]
        hypothesis.assume(np.all(np.diff(order) > 1e-6))  # else the map is no order
        moved = order * stretch + (1 / 3 if late else 0) * (order > 0)
        time = moved[np.searchsorted(order, trace.time)]
        end = moved[np.searchsorted(order, np.nan_to_num(released))]
        wait = np.where(np.isnan(trace.wait), np.nan, end - time)
        real = dataclasses.replace(
            trace, time=time, wait=wait, duration=trace.duration * stretch * 0.3
        ).validate()
        found = again(real, replayable=True)
        assert_same_rows(found, real)
        np.testing.assert_allclose(found.time, real.time, rtol=1e-15)


def asynchronous(time, worker, num_workers):
    """A trace in which every push was committed and answered at once."""
    rows = len(time)
    order = np.zeros(rows, np.int32)
    pulled = np.zeros(rows, np.int32)
    for mine in traces.rows_of_workers(np.array(worker), num_workers):
        order[mine] = np.arange(1, len(mine) + 1)
        pulled[mine[1:]] = mine[:-1] + 1
    return traces.Trace(
        time=np.array(time),
        worker=np.array(worker, np.int32),
        clock=order,
        pulled=pulled,
        version=np.arange(rows, dtype=np.int32),
        weight=np.ones(rows, np.float32),
        committed=np.ones(rows, bool),
        wait=np.zeros(rows),
        duration=np.full(rows, 0.25),
        restarts=np.zeros(rows, np.int32),
        num_workers=num_workers,
        policy="asp()",
        recorded=True,
    ).validate()


def test_an_arrival_that_no_sum_gives_keeps_its_place():
    """Start 0.75 and an odd last bit above 1.5: no float64 takes one to the other."""
    bit = np.spacing(1.5)
    start = 0.75 + bit / 2
    target = 1.75 + bit
    assert all(start + x != target for x in near(target - start))
    times = [start, 1.75, target, 1.75 + 2 * bit]
    trace = asynchronous(times, [0, 2, 0, 1], num_workers=3)
    found = again(trace, replayable=True)
    assert_same_rows(found, trace)
    assert np.abs(found.time - trace.time).max() <= bit


@hypothesis.given(
    st.lists(st.permutations(range(WORKERS)), min_size=6, max_size=6),
    st.lists(st.integers(0, 2), min_size=6 * WORKERS, max_size=6 * WORKERS),
    st.floats(0.3, 3.0),
)
def test_arrivals_a_bit_apart_or_together_keep_their_order(orders, bits, apart):
    """All workers arrive at nearly the same time, lower indices not always first."""
    times = []
    for turn in range(6):
        time = (turn + 1) * apart
        for number in range(WORKERS):
            time += bits[turn * WORKERS + number] * np.spacing(time)
            times.append(time)
    trace = asynchronous(times, np.concatenate(orders), WORKERS)
    found = again(trace, replayable=True)
    assert_same_rows(found, trace)
    # Each of the others may push one further by a bit, and so may their rounding.
    bit = np.spacing(trace.time)
    assert (np.abs(found.time - trace.time) <= 2 * WORKERS * bit).all()


def test_a_wait_that_fits_two_releases_is_told_by_the_pulled_version():
    """From 0.75 and half a bit, arrivals 2 and 3 bits above 1.75 are equally far.

    ssp(s=0): the first worker waits for the third, whose push makes version 3.
    """
    bit = np.spacing(1.5)
    start, second, third = 0.75 + bit / 2, 1.75 + 2 * bit, 1.75 + 3 * bit
    assert second - start == third - start and second < third
    trace = closed("ssp(s=0)", ((start,), (second,), (third,)), pushes=4)
    assert (trace.worker[3], trace.pulled[3]) == (0, 3)
    assert recording.starts_of(trace).released[3] == third


def near(x):
    for _ in range(8):
        x = math.nextafter(x, 0)
    for _ in range(16):
        yield x
        x = math.nextafter(x, math.inf)


@hypothesis.given(st.floats(0, 1e4), st.floats(0, 1e3), st.integers(-2, 2))
def test_an_addend_gives_the_arrival(start, length, bits):
    target = start + length
    for _ in range(abs(bits)):
        target = max(start, math.nextafter(target, math.copysign(math.inf, bits)))
    x = recording._addend(start, target, 0.0)
    assert x >= 0
    if target == start + length:
        assert start + x == target  # it can be reached, so it is
    assert abs(start + x - target) <= np.spacing(target)
    later = recording._addend(start, target, math.nextafter(target, math.inf))
    assert start + later > target


@BY_CASE
def test_nothing_but_cancelled_computations_is_made_up(case):
    """Without them the model is exact by default as well."""

    @check(tables(), examples=10)
    def _(table):
        trace = run(case, table)
        found = again(trace)
        finished = dataclasses.replace(found, open_restarts=())
        if not case.properties(WORKERS).restarts:
            assert_same_rows(finished, trace)
            np.testing.assert_array_equal(found.time, trace.time)
        assert len(found) == PUSHES


@pytest.mark.parametrize("text", ["k_sync(k=2)", "k_batch_sync(k=3)"])
def test_cancellations_at_every_commit_are_known_by_default(text):
    """Sync rules cancel whoever computes at a commit, so the trace tells each time."""
    model = delays.parse("lognormal(median=[1,1,1.3,2.7],sigma=0.5)", 4)
    trace = simulate.schedule(policies.parse(text, 4), model, 400)
    assert trace.restarts.sum() > 300
    found = again(trace)
    assert rederivation.first_difference(trace, found) == ""
    assert found.open_restarts == trace.open_restarts


def test_a_loss_driven_policy_comes_back_with_its_losses():
    case = next(c for c in support.CASES if c.text == 'abs(k0=1,a=0.5,growth="loss")')
    table = [[1.0, 1.2, 0.9], [1.1], [1.5, 1.4], [2.7, 2.9]]
    losses = np.linspace(2.0, 0.1, 200)
    estimate = loss_estimate.LossEstimate(4, 2.3)
    seen = []
    for loss in losses:
        seen.append(estimate.value)
        estimate.add(float(loss))
    trace = run(case, table, 200, losses=lambda push: float(np.float32(seen[push])))
    found = again(trace, losses=losses, first=2.3, replayable=True)
    assert_same_rows(found, trace)
    without = again(trace, replayable=True)
    assert not np.array_equal(without.version, trace.version)


def closed(text, table=((1.0,), (2.7,)), pushes=270, **more):
    model = delays.recorded(table)
    return simulate.schedule(policies.parse(text, len(table)), model, pushes, **more)


def test_lockstep_rescheduled_without_waiting():
    """1 s and 2.7 s: two pushes every 2.7 s in lockstep, else 1 + 1/2.7 a second.

    The slower one is stale by what the faster one did in between, and the version it
    pulled is its own, 2.7 s old; the other's is 1 s old. Pushes stand 27 to 10.
    """
    trace = closed("bsp()")
    assert trace.pushes_per_second == pytest.approx(2 / 2.7)
    own = whatif.figures(trace)
    assert own["waiting_share"] == pytest.approx(1.7 / 2.7 / 2)
    assert own["mean_staleness_seconds"] == pytest.approx((1 + 2.7) / 2)
    found = again(trace, "asp()", num_pushes=370)
    assert found.seconds == pytest.approx(270)
    figures = whatif.figures(found)
    assert figures["pushes_per_second"] == pytest.approx(1 + 1 / 2.7)
    assert figures["waiting_share"] == 0
    assert figures["max_staleness_seconds"] == pytest.approx(2.7)
    assert figures["mean_staleness_seconds"] == pytest.approx(
        (270 * 1 + 100 * 2.7) / 370
    )


def test_versions_are_as_old_as_the_commits_that_made_them():
    """bsp: pushes at 1, 2.7, 3.7 and 5.4 of versions 0, 0, 1, 1; 1 is made at 2.7."""
    trace = closed("bsp()", pushes=4)
    np.testing.assert_allclose(whatif.version_times(trace), [0, 2.7, 5.4])
    np.testing.assert_allclose(whatif.staleness_seconds(trace), [1, 2.7, 1, 2.7])


def test_local_steps_scale_computations_and_not_transfers():
    """8 steps for 2: four times 1 s and 2.7 s, and 0.5 s on the way as before."""
    transfers = communication.Communication(0.5)
    trace = closed("bsp()", communication=transfers, local_steps=2)
    found = again(trace, local_steps=8)
    assert found.local_steps == 8
    assert len(found) == round(270 * 2 / 8)
    rounds = np.diff(found.time[found.committed])
    np.testing.assert_allclose(rounds, 4 * 2.7 + 0.5)
    assert whatif.figures(found)["steps_per_second"] == pytest.approx(
        8 * found.pushes_per_second
    )
    alone = again(trace, local_steps=8, communication=False)
    np.testing.assert_allclose(np.diff(alone.time[alone.committed]), 4 * 2.7)


def test_cancelled_computations_are_timed_by_the_commits():
    """k_sync(k=1), 1 s and 2.7 s: the slow one is cancelled at 1, 2, ... s.

    With 0.4 s it then comes first: released at its own push, no restart before it.
    """
    trace = closed("k_sync(k=1)", ((1.0,), (2.7, 2.7, 2.7, 0.4)), pushes=4)
    np.testing.assert_allclose(trace.time, [1, 2, 3, 3.4])
    assert trace.restarts.tolist() == [0, 0, 0, 3]
    starts = recording.starts_of(trace)
    assert (starts.released[3], starts.started[3]) == (0, 3)
    np.testing.assert_allclose(recording.cancelled(trace, starts, 3), [1, 1, 1])
    times = whatif.recorded_times(trace)
    np.testing.assert_allclose(times.computation[1], [0.4])
    np.testing.assert_allclose(times.communication[1], [0], atol=1e-12)
    # By default each lasts as long as it was seen to, or as is usual for the worker;
    # the computation cut off by the end of the run does not.
    rows = whatif.delays_of(trace).parameters
    count = rows["lengths"][1]
    np.testing.assert_allclose(rows["durations"][1, :count], [1, 1, 1, 0.4])
    # Under another policy these four may end in a push; nothing travelled here.
    found = again(trace, "asp()", num_pushes=9)
    np.testing.assert_allclose(found.duration[found.worker == 1][:4], [1, 1, 1, 0.4])
    rows = whatif.delays_of(trace, replayable=True).parameters
    assert (rows["durations"][1, :3] > trace.seconds).all()


def lived(trace, *events):
    return dataclasses.replace(
        trace, events=tuple(traces.Event(*e) for e in events), recorded=True
    )


def test_who_left_and_came_back_starts_when_it_joined():
    trace = closed("asp()", ((1.0,), (2.7,)), pushes=6)  # worker 1 at 2.7 and 5.4
    assert trace.worker.tolist() == [0, 0, 1, 0, 0, 0]
    away = lived(closed("asp()", pushes=7), (2, 2.2, "leave", 1), (4, 4.5, "join", 1))
    starts = recording.starts_of(away)
    assert away.worker.tolist() == [0, 0, 1, 0, 0, 0, 1]
    np.testing.assert_allclose(starts.started[[2, 6]], [0, 4.5])
    (note,) = whatif.caveats(away)
    assert "worker 1 left or joined" in note
    model = whatif.delays_of(away).parameters
    np.testing.assert_allclose(
        model["durations"][1, : model["lengths"][1]], [2.7, 5.4 - 4.5]
    )


def test_a_computation_cut_off_by_the_end_counts_from_the_join():
    """asp, pushes at 1, 2, 2.7, 3, 4 and 5; back at 3.5, then restarted at 4 and 5."""
    trace = dataclasses.replace(closed("asp()", pushes=6), open_restarts=(0, 2))
    back = lived(trace, (4, 3.2, "leave", 1), (4, 3.5, "join", 1))
    np.testing.assert_allclose(recording.unfinished(back, 1, False), [0.5, 1, 0])
    gone = lived(trace, (4, 3.2, "leave", 1))
    assert recording.unfinished(gone, 1, True) == []


def test_a_refused_push_is_a_cancelled_computation():
    trace = closed("asp()", pushes=7)
    restarts = np.array([0, 0, 0, 0, 0, 0, 1], np.int32)
    refused = lived(
        dataclasses.replace(trace, restarts=restarts, duration=trace.duration / 3),
        (5, 4.4, "refuse", 1),
    )
    starts = recording.starts_of(refused)
    assert starts.released[6] == pytest.approx(2.7)
    assert starts.started[6] == pytest.approx(4.4)
    np.testing.assert_allclose(recording.cancelled(refused, starts, 6), [1.7])
    assert "1 refused pushes" in whatif.caveats(refused)[0]


def test_a_silent_worker_gets_the_mean_of_the_others():
    """1 s and 3 s; the third never came, and is gone or was seen to take 9 s."""
    trace = closed("asp()", ((1.0,), (3.0,), (50.0,)), pushes=12)
    assert set(trace.worker) == {0, 1} and trace.seconds == 9
    gone = lived(trace, (0, 0.0, "leave", 2))
    rows = whatif.delays_of(gone).parameters
    assert rows["durations"][2, : rows["lengths"][2]].tolist() == [2.0]
    rows = whatif.delays_of(trace).parameters
    np.testing.assert_allclose(rows["durations"][2, : rows["lengths"][2]], [9.0])
    assert "no push of worker 2 is recorded" in whatif.caveats(trace)[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: again(t[:0]), "whatif: the trace has no pushes"),
        (lambda t: whatif.figures(t[:0]), "whatif: the trace has no pushes"),
        (lambda t: again(t, local_steps=0), "local_steps must be at least 1, got 0"),
        (lambda t: again(t, num_pushes=0), "num_pushes must be at least 1, got 0"),
        (
            lambda t: again(t, num_pushes=0, losses=np.ones(len(t))),
            "num_pushes must be at least 1, got 0",
        ),
        (lambda t: again(t, losses=np.ones(3)), "one per push (12), got 3"),
        (
            lambda t: whatif.reschedule(t, policies.ssp(3, s=1)),
            "the policy ssp(s=1) is for 3 workers, the others for 2",
        ),
        (
            lambda t: again(dataclasses.replace(t, wait=np.full(len(t), np.nan))),
            "row 1: worker 0 pushes again without having been released",
        ),
    ],
)
def test_a_mistake_gets_one_sentence(make, message):
    with pytest.raises(ValueError) as raised:
        make(closed("asp()", pushes=12))
    assert message in str(raised.value)


def test_figures_are_finite_or_none_and_the_table_shows_them():
    trace = closed("asp()", ((0.0,), (0.0,)), pushes=4)
    entry = whatif.figures(trace)
    assert entry["pushes_per_second"] is None and tuple(entry) == whatif.FIELDS
    whole = whatif.figures(closed("bsp()"))
    lines = whatif.table([entry, whole]).splitlines()
    assert lines[0].split()[:3] == ["policy", "pushes/s", "steps/s"]
    assert lines[2].split()[:2] == ["asp()", "-"]
    assert lines[3].split()[1] == "0.7407"  # 2 / 2.7
    assert len({len(line) for line in lines}) == 1
