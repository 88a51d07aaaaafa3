"""Deaths and returns in virtual time: at random against the oracle, and by hand."""

import math

import hypothesis
import jax
import numpy as np
import pytest
import reference
import support
from hypothesis import strategies as st

from abs_dssp import (
    absences,
    communication,
    delays,
    optimizers,
    policies,
    replay,
    simulate,
    tasks,
    traces,
    whatif,
)
from abs_dssp.history import attendance, rederivation
from abs_dssp.simulation import event_loop, running
from abs_dssp.training import config, identity

PUSHES, N, MOST = 40, 4, 2
NAMED = ("bsp()", "k_sync(k=2)", "mindflayer(trials=2,seconds=4.0)")
CASES = [
    pytest.param(
        case, id=case.text, marks=[] if case.text in NAMED else pytest.mark.slow
    )
    for case in support.CASES
    if case.least <= N
]


@st.composite
def moments(draw, parts=2):
    """Absences of all workers, at half seconds, so that much comes together."""
    found = []
    times_of = st.integers(0, 30 * parts).map(lambda number: number / parts)
    for worker in range(N):
        # Worker 0 has the most, so that one size is compiled.
        count = draw(st.integers(0, MOST)) if worker else MOST
        times = sorted(draw(st.lists(times_of, min_size=2 * count, max_size=2 * count)))
        for dies, returns in zip(times[::2], times[1::2], strict=True):
            found.append((worker, dies, returns))
    for_ever = draw(st.integers(0, 5))  # whose last absence does not end
    mine = [number for number, (worker, _, _) in enumerate(found) if worker == for_ever]
    for number in mine[-1:]:
        found[number] = (for_ever, found[number][1], math.inf)
    return found


WHOLE = st.integers(1, 4).map(float)
TABLES = st.lists(st.lists(WHOLE, min_size=5, max_size=5), min_size=N, max_size=N)


def agree(case, table, away, detection, transfers):
    """Asserts that the compiled loop does what the oracle does; gives the trace."""
    model = absences.given(
        [(w, d, r if r < math.inf else None) for w, d, r in away],
        detection=detection,
        num_workers=N,
    )
    link = communication.Communication(
        transfers.get("seconds", 0.0),
        transfers.get("shared", False),
        transfers.get("update"),
    )
    given = (policies.parse(case.text, N), delays.recorded(table), PUSHES)
    events = []
    try:
        rows = reference.run(
            case.oracle(N), table, PUSHES,
            absences=away, detection=detection, events=events, **transfers,
        )  # fmt: skip
    except reference.Deadlock as error:
        with pytest.raises(simulate.DeadlockError, match=f"at push {error}[:;]"):
            simulate.schedule(*given, communication=link, absences=model)
        return None
    expected = support.trace_of(rows, N, events)
    found = simulate.schedule(*given, communication=link, absences=model)
    for name in traces.COLUMNS:
        if name != "weight":
            np.testing.assert_array_equal(
                getattr(found, name), getattr(expected, name), err_msg=name
            )
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-6)
    assert found.events == expected.events
    return found


@pytest.mark.parametrize("case", CASES)
def test_deaths_at_random_agree_with_the_oracle(case):
    left = []

    @hypothesis.settings(max_examples=25, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(TABLES, moments(), st.sampled_from([0.0, 1.0, 2.5]))
    def check(table, away, detection):
        trace = agree(case, table, away, detection, {})
        if trace is not None:
            left.append(sum(event.kind == "leave" for event in trace.events))

    check()
    assert sum(count > 1 for count in left) > 10


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("update", [None, 0.5])
def test_deaths_of_senders_agree_with_the_oracle(shared, update):
    case = next(case for case in support.CASES if case.text == "quorum(k=2)")
    transfers = {"seconds": 0.5, "shared": shared, "update": update or 0.0}

    @hypothesis.settings(max_examples=25, phases=(hypothesis.Phase.generate,))
    # Also in the middle of the half second for which a push is on its way.
    @hypothesis.given(TABLES, moments(parts=4), st.sampled_from([0.0, 1.0]))
    def check(table, away, detection):
        agree(case, table, away, detection, transfers)

    check()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.text, marks=[] if "k_sync" in case.text else pytest.mark.slow
        )
        for case in support.CASES
        if case.least <= N
    ],
)
def test_recorded_times_and_absences_give_the_run_back(case):
    policy = policies.parse(case.text, N)
    left = []

    @hypothesis.settings(max_examples=15, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(TABLES, moments(), st.sampled_from([0.0, 1.0]))
    def check(table, away, detection):
        model = absences.given(
            [(w, d, r if r < math.inf else None) for w, d, r in away],
            detection=detection,
            num_workers=N,
        )
        try:
            trace = simulate.schedule(
                policy, delays.recorded(table), PUSHES, absences=model
            )
        except simulate.DeadlockError:
            return
        again = whatif.reschedule(
            trace, policy, replayable=True, absences=absences.recorded(trace)
        )
        for name in traces.COLUMNS:
            np.testing.assert_array_equal(
                getattr(again, name), getattr(trace, name), err_msg=name
            )
        assert again.events == trace.events
        left.append(len(trace.events))

    check()
    assert sum(count > 2 for count in left) > 3


def test_the_times_of_deaths_are_each_workers_own():
    few = absences.exponential(20.0, 5.0, num_workers=3)
    many = absences.exponential(20.0, 5.0, num_workers=5)
    assert absences.table(few, 6, seed=1) == absences.table(many, 6, seed=1)[: 3 * 6]
    assert absences.table(few, 6, seed=1) != absences.table(few, 6, seed=2)
    # Durations change nothing: the same deaths under a slow and under a fast model.
    told = [
        [
            (event.kind, event.worker, event.seconds)
            for event in simulate.schedule("asp()", model, 60, absences=few).events
            if event.seconds < 15
        ]
        for model in ("constant([1, 1, 1])", "exponential([0.5, 2, 1])")
    ]
    assert told[0] == told[1] and len(told[0]) > 2


def test_exponential_absences_have_their_means():
    found = np.array(
        absences.table(absences.exponential(20.0, 5.0, num_workers=4), 500)
    ).reshape(4, 500, 3)
    dies, returns = found[:, :, 1], found[:, :, 2]
    down = returns - dies
    up = dies - np.pad(returns[:, :-1], ((0, 0), (1, 0)))
    for times, mean in ((up, 20.0), (down, 5.0)):
        assert abs(times.mean() - mean) < 4 * mean / 2000**0.5  # standard errors
        assert abs(times.std() - mean) < 4 * mean * (2 / 2000) ** 0.5 * 2


def test_a_table_of_a_model_sweeps_and_files_give_its_schedule(tmp_path):
    model = absences.exponential(20.0, 5.0, detection=1.0, num_workers=4)
    delay, policy = delays.exponential(1.0, num_workers=4), policies.quorum(4, k=2)
    trace = simulate.schedule(policy, delay, 300, seed=3, absences=model)
    listed = absences.given(absences.table(model, 40, seed=3), 1.0, num_workers=4)
    same = simulate.schedule(policy, delay, 300, seed=3, absences=listed)
    (_, swept) = simulate.sweep(policy, delay, 300, seeds=[0, 3], absences=model)
    loaded = traces.Trace.load(trace.save(tmp_path / "trace.npz"))
    digest = traces.fingerprint(trace)
    for other in (swept, loaded):
        assert traces.fingerprint(other) == digest
    # The last bit of a logarithm depends on how many are taken together.
    np.testing.assert_allclose(same.time, trace.time, rtol=1e-12)
    assert [e[0::2] for e in same.events] == [e[0::2] for e in trace.events]
    again = rederivation.rederive(policy, trace)
    assert not rederivation.first_difference(trace, again)
    assert again.events == trace.events
    assert sum(event.kind == "join" for event in trace.events) > 10


def test_training_with_deaths_replays_and_may_be_cut_into_segments():
    task, step = tasks.quadratic(4, dim=3), optimizers.sgd(0.05)
    policy, gone = policies.k_async(4, k=3), "exponential(10, 4, detection=1)"
    delay = delays.exponential(1.0, num_workers=4)
    whole = simulate.train(task, policy, delay, step, 120, seed=1, absences=gone)
    assert sum(event.kind == "leave" for event in whole.trace.events) > 5
    again = replay.replay(task, step, whole.trace, seed=1)
    jax.tree.map(np.testing.assert_array_equal, again.variables, whole.variables)
    told = policy._replace(properties=policy.properties._replace(reads_loss=True))
    parts = simulate.train(
        task, told, delay, step, 120, seed=1, absences=gone, loss_every=3
    )
    assert parts.trace.events == whole.trace.events
    for name in traces.COLUMNS:
        mine, others = getattr(parts.trace, name), getattr(whole.trace, name)
        np.testing.assert_array_equal(mine, others, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, parts.variables, whole.variables)


def test_a_run_that_time_ends_knows_no_departure_after_it():
    # Worker 1 waits for worker 0 from 1 on, which dies at 2.5 and is missed at 3.5:
    # that ends the round. A run that ends at 3 does not know it.
    gone = "given([(0, 2.5, 6.0)], detection=1.0)"
    model, task = "constant([4, 1])", tasks.quadratic(2, dim=2)
    step = optimizers.sgd(0.1)
    for until, commits, told in ((3.0, 0, []), (5.0, 2, [("leave", 3.5)])):
        run = simulate.train(
            task, "bsp()", model, step, until_seconds=until, absences=gone
        )
        assert run.trace.commits == commits
        assert [(e.kind, e.seconds) for e in run.trace.events] == told


def test_time_goes_on_while_nobody_is_there():
    # Both are away from 2 to 7: worker 1 returns and pushes at 9, worker 0 at 10.
    gone = "given([(0, 1.5, 9.0), (1, 2.0, 7.0)])"
    trace = simulate.schedule("bsp()", "constant([1, 2])", 3, absences=gone)
    np.testing.assert_array_equal(trace.time, [1, 2, 9])
    np.testing.assert_array_equal(trace.worker, [0, 1, 1])
    # At 2 worker 0 was gone, so that the push of worker 1 ended the round.
    np.testing.assert_array_equal(trace.pulled, [0, 0, 1])
    assert attendance.away_seconds(trace) == (9 - 1.5) + (7 - 2)
    # Worker 0 waited from 1 to 1.5, worker 1 did not live to compute from 2 on.
    assert trace.waiting_seconds == 0.5
    assert attendance.lost_seconds(trace) == 0.0


def test_what_departures_cost_is_counted():
    # Worker 0 computes from 2 to its death at 2.75, missed at 4; returns at 6.
    gone = "given([(0, 2.75, 6.0)], detection=1.25)"
    trace = simulate.schedule("asp()", "constant([1, 5])", 6, absences=gone)
    np.testing.assert_array_equal(trace.time, [1, 2, 5, 7, 8, 9])
    assert attendance.lost_seconds(trace) == 2.0
    assert attendance.away_seconds(trace) == 2.0
    assert trace.unfinished == {1: 5.0}
    cut = trace[:2]  # the death is not known yet
    assert cut.unfinished == {1: 0.0}
    # Until 5 it has not returned; until 7 its computation is one since 6.
    assert trace[:3].unfinished == {}
    late = simulate.schedule("asp()", "constant([1.5, 3.5])", 3, absences=gone)
    np.testing.assert_array_equal(late.time, [1.5, 3.5, 7.0])
    assert late.unfinished == {0: 6.0}


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("given([(0, 0.5, None), (1, 3, None)])", "every worker has died and none ret"),
        ("exponential(1e-4, 1e-4)", "departures and returns in a row and no push"),
    ],
)
def test_runs_that_cannot_go_on_are_named(gone, sentence):
    with pytest.raises(simulate.DeadlockError, match=sentence):
        simulate.schedule("bsp()", "constant([1, 2])", 9, absences=gone)


@pytest.mark.parametrize(
    ("intervals", "sentence"),
    [
        ([(2, 1.0, 2.0)], "worker must be one of 0..1, got 2"),
        ([(0, 3.0, 2.0)], "must not return before it dies at 3 s, got 2 s"),
        ([(0, 1.0, 5.0), (0, 4.0, 6.0)], "dies at 4 s while it is away until 5 s"),
        ([(0, -1.0, 5.0)], "dies must be at least 0, got -1.0"),
        ([[0, 1.0]], "an absence is .worker, dies, returns., got .0, 1.0."),
    ],
)
def test_absences_that_make_no_sense_are_refused(intervals, sentence):
    with pytest.raises(ValueError, match=sentence):
        absences.given(intervals, num_workers=2)


def test_where_nobody_dies_nothing_is_compiled():
    given = (policies.bsp(2), delays.constant([1.0, 2.0]), 5)
    plain = simulate.schedule(*given)
    compiled = running.jitted(event_loop.advance, 0, 5)._cache_size()
    same = simulate.schedule(*given, absences="none()")
    assert running.jitted(event_loop.advance, 0, 5)._cache_size() == compiled
    assert traces.fingerprint(same) == traces.fingerprint(plain)


def test_a_checkpoint_of_other_deaths_is_another_runs():
    task, rate = tasks.quadratic(2, dim=2), optimizers.sgd(0.1)
    update = config.UpdateConfig(rate, rate)
    one, other = (absences.exponential(mean, 5.0, num_workers=2) for mean in (20, 30))
    found = [identity.of_run(task, update, 0, absences=a) for a in (None, one, other)]
    assert len(set(found)) == 3
    assert found[0] == identity.of_run(task, update, 0)
