"""Fragments of the parameters against a plain model, and against runs without them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import reference_fragments
from hypothesis import given, settings
from hypothesis import strategies as st

from abs_dssp import (
    communication,
    delays,
    optimizers,
    policies,
    replay,
    simulate,
    tasks,
    theory,
)
from abs_dssp.history import fragments, rederivation, traffic
from abs_dssp.history.trace_format import settings_of
from abs_dssp.report import timeline
from abs_dssp.simulation import fragment_schedule
from abs_dssp.tasks import fragmenting
from abs_dssp.traces import COLUMNS, Trace, TraceError
from abs_dssp.training import fragmented
from abs_dssp.training.config import UpdateConfig
from abs_dssp.training.fragment_engine import FragmentEngine

N, SEED = 3, 5
OUTER = optax.sgd(0.7, momentum=0.9, nesterov=True)
INNER = optax.sgd(0.1, momentum=0.5)
DILOCO = {"local_optimizer": INNER, "push": "displacement", "local_state": "kept"}
RULES = {
    "bsp()": reference.Bsp,
    "asp()": reference.Asp,
    "ssp(s=1)": lambda: reference.Ssp(1),
    'dssp(s_lower=1,s_upper=3,variant="bounded")': lambda: reference.Dssp(
        1, 3, "bounded"
    ),
    "k_async(k=2)": lambda: reference.k_async(2),
    "k_batch_async(k=2)": lambda: reference.k_batch_async(2),
}
SPEEDS = delays.exponential([1.0, 1.3, 3.1])


@pytest.fixture(autouse=True)
def promotion():
    """Optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def problem():
    """The oracle's quadratic, in three arrays of 2, 1 and 3 numbers."""
    curvature = jnp.array(reference_fragments.CURVATURE, jnp.float32)

    def vector(params):
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])

    def batch(data, key, worker, index):
        j = jnp.arange(6)
        turn = ((7 * index + 3 * j) % 5).astype(jnp.float32)
        return 0.5 * worker.astype(jnp.float32) - 0.1 * turn + 0.2 * j

    def loss(variables, target, key):
        off = vector(variables.params) - target
        return jnp.sum(curvature * off**2) / 2, {}

    def value(data, variables):
        return jnp.sum(vector(variables.params) ** 2)

    start = {"a": jnp.ones(2), "b": jnp.ones(()), "c": jnp.ones(3)}
    return tasks.Task(
        name="plain", num_workers=N, batch_size=1, samples_per_epoch=10, data={},
        init=lambda key: tasks.Variables(start, {}), batch=batch, loss=loss,
        evaluate=lambda data, variables: {"loss": value(data, variables)},
        objective=value,
    )  # fmt: skip


TASK = problem()
PARTS = {1: [[*range(6)]], 2: [[0, 1, 2], [3, 4, 5]], 3: [[0, 1], [2], [3, 4, 5]]}


def weights(variables):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)])


def train(policy="ssp(s=1)", pushes=30, count=3, speeds=SPEEDS, outer=OUTER, **changed):
    arguments = {"local_steps": 2, "fragments": count, **DILOCO, **changed}
    policy = policies.parse(policy, N)
    return simulate.train(TASK, policy, speeds, outer, pushes, SEED, **arguments)


@settings(max_examples=20)
@given(
    st.sampled_from(sorted(RULES)),
    st.sampled_from([1, 2, 3]),
    st.lists(
        st.lists(st.integers(1, 12), min_size=3, max_size=3), min_size=N, max_size=N
    ),
    st.sampled_from([0.0, 1.0, 40.0]),
    st.booleans(),
    st.integers(0, 2),
)
def test_rows_and_parameters_are_those_of_a_plain_model(
    text, count, table, rate, kept, overlap
):
    overlap = min(overlap, count - 1)
    durations = [[each / 7 + worker * 1e-3 for each in row]
                 for worker, row in enumerate(table)]  # fmt: skip
    seconds = [2 * 4 * len(part) / rate if rate else 0.0 for part in PARTS[count]]
    rows, expected = reference_fragments.run(
        RULES[text], PARTS[count], durations, 24, 2, seconds, kept, overlap
    )
    result = train(
        text, 24, count, delays.recorded(np.array(durations)),
        local_state="kept" if kept else "fresh",
        communication=f"link(bandwidth={rate})" if rate else "none()",
        overlap=overlap,
    )  # fmt: skip
    trace = result.trace
    assert trace.num_fragments == count
    for name in reference_fragments.Row._fields:
        if name == "fragment" and count == 1:
            continue
        wanted = np.array([getattr(row, name) for row in rows], float)
        found = getattr(trace, name).astype(float)
        np.testing.assert_allclose(found, wanted, atol=1e-9, err_msg=name)
    # Two dozen pushes of rounded numbers of the order of 1.
    np.testing.assert_allclose(weights(result.variables), expected, atol=2e-5)


@pytest.mark.parametrize("text", ["bsp()", "k_async(k=2)"])
def test_one_fragment_is_scheduled_as_by_the_compiled_loop(text):
    policy = policies.parse(text, N)
    named = settings_of(policy, N, 1, "")
    link = "link(num_bytes=10,bandwidth=100,shared=True,update=0.05)"
    for given_link in ("none()", link):
        expected = simulate.schedule(policy, SPEEDS, 90, 3, communication=given_link)
        found = fragment_schedule.schedule(
            policy, SPEEDS, [communication.parse(given_link)], 90, None, 3, named
        )
        for name in COLUMNS:
            np.testing.assert_array_equal(
                getattr(found, name), getattr(expected, name), err_msg=name
            )


def test_one_fragment_is_computed_with_the_bits_of_the_row_by_row_engine():
    config = UpdateConfig(OUTER, INNER, 2, push="displacement", local_state="kept")
    trace = simulate.schedule("ssp(s=1)", SPEEDS, 40, local_steps=2)
    expected = replay.replay(TASK, OUTER, trace, SEED, loop="host", **DILOCO)
    division = fragmented.division(TASK, config, 1)
    engine = FragmentEngine(TASK, config, SEED, division)
    before = fragments.rows_before(trace.worker, 1)
    taken = np.full(len(trace), -1, np.int32)
    taken[before[before >= 0]] = trace.pulled[before >= 0]
    engine.load(
        trace.columns | {"fragment": np.zeros(len(trace), np.int32), "taken": taken}
    )
    engine.run(0, len(trace))
    np.testing.assert_array_equal(
        weights(engine.variables()), weights(expected.variables)
    )
    np.testing.assert_array_equal(engine.losses(0, 40), expected.history.push_loss)
    assert not engine.kept  # no version outlives its last reader


@pytest.mark.parametrize("overlap", [0, 1])
def test_a_saved_trace_replays_to_the_same_bits_and_needs_no_flag(tmp_path, overlap):
    result = train(overlap=overlap)
    trace = Trace.load(result.trace.save(tmp_path / "trace.npz"))
    assert trace.header == result.trace.header and trace.names[1] == ("params.b",)
    # A reader that does not know of the overlap would compute something else.
    assert trace.header["format_version"] == 2 + (overlap > 0)
    again = replay.replay(TASK, OUTER, trace, SEED, **DILOCO)
    np.testing.assert_array_equal(weights(again.variables), weights(result.variables))


@pytest.mark.parametrize("overlap", [0, 2])
def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path, overlap):
    kept = {"checkpoint_dir": tmp_path, "checkpoint_every": 11, "overlap": overlap}
    expected = train(overlap=overlap)

    def interrupt(done, total, record):
        if done >= 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(**kept, progress=interrupt)
    seen = []
    found = train(**kept, progress=lambda done, *_: seen.append(done))
    assert min(seen) >= 22  # it did not begin anew
    np.testing.assert_array_equal(weights(found.variables), weights(expected.variables))
    np.testing.assert_array_equal(found.history.push_loss, expected.history.push_loss)


@pytest.mark.parametrize("text", ["k_async(k=2)", "ssp(s=1)"])
def test_every_order_that_keeps_the_fragments_and_the_workers_has_the_same_bits(text):
    """Decisions of different fragments never read each other, nor do their epochs."""
    falls = optimizers.sgd(lambda epoch: 0.7 / (1 + epoch), clock="epoch")
    result = train(text, 40, outer=falls)
    assert (weights(result.variables) != weights(train(text, 40).variables)).all()
    trace, random = result.trace, np.random.default_rng(0)
    lines = [np.flatnonzero(trace.fragment == f).tolist() for f in range(3)]
    before = fragments.rows_before(trace.worker, 1)
    done, order = set(), []
    while len(order) < len(trace):
        # The worker's row before, and the release that it waited for, must be there.
        ready = [
            line for line in lines
            if line and (before[line[0]] < 0 or released(trace, before[line[0]], order))
        ]  # fmt: skip
        line = ready[random.integers(len(ready))]
        order.append(line.pop(0))
        done.add(order[-1])
    assert order != sorted(order)
    columns = {name: column[order] for name, column in trace.columns.items()}
    columns["time"] = np.arange(len(trace), dtype=float)
    columns["wait"] = np.where(columns["taken"] < 0, np.nan, 0.0)
    other = dataclasses.replace(trace, **columns).validate()
    again = replay.replay(TASK, falls, other, SEED, **DILOCO)
    np.testing.assert_array_equal(weights(again.variables), weights(result.variables))


def released(trace, row, order):
    """Whether the version that a row's worker was given exists after these rows."""
    made = sum(
        bool(trace.committed[i]) for i in order
        if trace.fragment[i] == trace.fragment[row]
    )  # fmt: skip
    return row in order and made >= trace.taken[row]


@pytest.mark.parametrize("shared", [False, True])
def test_a_worker_that_goes_on_hides_the_way_of_its_pushes(shared):
    """A computation and a push take 1 s each: alone, a push every second, not two."""
    link = communication.link(num_bytes=1, bandwidth=1, shared=shared)
    found = {
        overlap: simulate.schedule(
            "asp()", "constant([1])", 20, communication=link, fragments=2,
            overlap=overlap,
        ) for overlap in (0, 1)
    }  # fmt: skip
    assert found[0].time.tolist() == [2.0 * (i + 1) for i in range(20)]
    assert found[1].time.tolist() == [2.0 + i for i in range(20)]
    # Each computation but the first two had what was pushed two before it.
    assert found[1].started.tolist() == [float(i) for i in range(20)]
    assert found[1].waiting_seconds == found[0].waiting_seconds == 0
    assert found[1].unfinished == {0: 20.0}
    kinds = {span.kind for span in timeline.spans(found[1])}
    assert kinds == {"computing", "unfinished"}
    for trace in found.values():  # of each fragment an ordinary run, none of it stale
        assert not trace.of_fragment(1).validate().staleness.any()


def test_who_goes_on_waits_for_what_it_needs_alone():
    """Under BSP the fast worker waits for the slow one's push before the latest."""
    trace = simulate.schedule(
        "bsp()", "constant([1, 3])", 20, fragments=2, overlap=1, local_steps=1
    )
    # Worker 1 computes all the time. Worker 0 begins number n with it from n = 2 on:
    # they have both pushed number n - 2 by the time at which worker 1 ends n - 2.
    slow = trace.worker == 1
    assert trace.time[slow].tolist() == [3.0 * i + 3 for i in range(slow.sum())]
    begun = [0.0, 1.0] + [3.0 * i for i in range(1, (~slow).sum() - 1)]
    assert trace.started[~slow].tolist() == begun
    waits = [span for span in timeline.spans(trace) if span.kind == "waiting"]
    assert {span.worker for span in waits} == {0}
    total = sum(span.end - span.start for span in waits)
    np.testing.assert_allclose(trace.waiting_seconds, total)
    with pytest.raises(TraceError, match="overlap=2 is not one of 0..F-1"):
        dataclasses.replace(trace, overlap=2).validate()


def test_what_was_done_meanwhile_stays_on_top():
    """One array that moves by -1 per step, pulled by a server that adds nothing."""
    params = {"a": jnp.zeros(1), "b": jnp.zeros(2)}
    task = TASK._replace(
        num_workers=1, init=lambda key: tasks.Variables(params, {}),
        loss=lambda v, batch, key: (sum(map(jnp.sum, jax.tree.leaves(v.params))), {}),
    )  # fmt: skip
    for overlap in (0, 1):
        result = simulate.train(
            task, "asp()", "constant([1.0])", optax.sgd(1.0), 7, local_steps=3,
            fragments=2, overlap=overlap, local_optimizer=optax.sgd(1.0),
            push="displacement",
        )  # fmt: skip
        # Every step of an array is pushed once: 7 pushes, the last of fragment 0.
        found = {name: leaf.tolist() for name, leaf in result.variables.params.items()}
        assert found == {"a": [-21.0], "b": [-18.0] * 2}


def test_statistics_travel_with_their_fragment():
    """Every local step adds 1 to what the worker has of them."""

    def loss(variables, batch, key):
        more = {name: leaf + 1 for name, leaf in variables.stats.items()}
        return jnp.sum(variables.params["a"] ** 2), more

    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    stats = {"mean": jnp.zeros(2), "square": 100 * jnp.ones(1)}
    task = TASK._replace(
        num_workers=1, loss=loss, init=lambda key: tasks.Variables(params, stats)
    )
    outer, inner = optax.sgd(1.0), optax.sgd(0.0)
    for pushes in (1, 2, 5):
        result = simulate.train(
            task, "asp()", delays.constant([1.0]), outer, pushes, local_steps=3,
            fragments=2, local_optimizer=inner, push="displacement",
        )  # fmt: skip
        # The last push of each fragment, counted from 1, had made 3 steps each.
        last = [pushes - (pushes - 1 - f) % 2 for f in range(2)]
        found = {name: leaf.tolist() for name, leaf in result.variables.stats.items()}
        assert found == {"mean": [3.0 * last[0]] * 2, "square": [100 + 3.0 * last[1]]}
        assert weights(result.variables.params).tolist() == [1.0] * 5
        assert result.trace.names[1] == ("params.b", "stats.square")


def test_each_fragment_is_a_run_of_its_rule():
    bounds = {"ssp(s=1)": (1, 2 * (N - 1)), "bsp()": (1, 0)}
    for text, (gap, stale) in bounds.items():
        trace = simulate.schedule(text, SPEEDS, 120, fragments=3)
        for number in range(3):
            mine = trace.of_fragment(number)
            assert len(mine) == (trace.fragment == number).sum() > 30
            again = rederivation.rederive(policies.parse(text, N), mine)
            assert rederivation.first_difference(mine, again) == ""
            assert mine.staleness.max() <= stale
            # At its release a worker leads by `gap` at most, so at a push by one more.
            assert mine.gaps.max() <= gap + 1


def test_what_travels_is_a_fragment_at_a_time():
    size, speeds = 4 * 6, delays.constant([1.0, 1.0, 1.5])
    traces = {f: train("bsp()", 35, f, speeds).trace for f in (1, 2, 3)}
    for count, trace in traces.items():
        own = [len(part) * 4 for part in PARTS[count]]
        fragment = trace.fragment if count > 1 else np.zeros(35, int)
        pushed = sum(own[f] for f in fragment)
        pulled = sum(own[f] for f, w in zip(fragment, trace.wait, strict=True)
                     if not np.isnan(w))  # fmt: skip
        assert trace.bytes_sent(size) == pushed + pulled + N * size
        seconds, sizes = traffic.moved(trace, size)
        windows = [sizes[(seconds >= t) & (seconds < t + 0.4)].sum() for t in seconds]
        peak = traffic.peak_bytes_per_second(trace, size, window=0.4)
        np.testing.assert_allclose(peak, max(windows) / 0.4)
        # The last push of a round and three pulls, of the largest fragment: a round
        # that the last push of all does not complete has none.
        np.testing.assert_allclose(peak, 4 * max(own) / 0.4)


@pytest.mark.parametrize(
    ("sizes", "count"), [([4, 1, 1, 1, 1], 2), ([3, 9, 2, 2, 7, 1, 5], 3), ([1] * 6, 4)]
)
def test_runs_are_as_equal_as_they_can_be(sizes, count):
    def cost(owners):
        totals = np.bincount(owners, sizes, count)
        return (totals**2).sum()

    cuts = itertools.combinations(range(1, len(sizes)), count - 1)
    every = [np.searchsorted(cut, np.arange(len(sizes)), side="right") for cut in cuts]
    found = fragmenting.runs(sizes, count)
    assert set(found) == set(range(count)) and found == sorted(found)
    assert cost(found) == min(map(cost, every))


@pytest.mark.parametrize(
    ("column", "row", "value", "complaint"),
    [
        ("taken", 0, 7, "was given version 7 of fragment 0"),
        ("fragment", 4, 3, "fragment=3 is not one of 0..F-1"),
        ("clock", 4, 9, "clock=9 does not count"),
        ("version", 5, 3, "fragment .: row .: version=3 does not rise"),
        ("time", 6, 0.0, "row .: time=0.0 is before the row above"),
    ],
)
def test_a_damaged_trace_is_refused(column, row, value, complaint):
    trace = simulate.schedule("asp()", SPEEDS, 30, fragments=3)
    changed = getattr(trace, column).copy()
    changed[row] = value
    with pytest.raises(TraceError, match=complaint):
        dataclasses.replace(trace, **{column: changed}).validate()


def test_times_that_fall_between_fragments_are_refused():
    trace = simulate.schedule("asp()", delays.constant([1.0]), 9, fragments=3)
    falls = np.array([1.0, 2, 3, 4, 5, 4.5, 7, 8, 9])  # in no fragment
    changed = dataclasses.replace(trace, time=falls)
    with pytest.raises(TraceError, match="^row 5: time=4.5 is before the row above"):
        changed.validate()
    dataclasses.replace(changed, recorded=True).validate()  # by several servers


def test_what_comes_a_window_later_is_not_counted_with_it():
    trace = simulate.schedule("asp()", delays.constant([1.0]), 5)
    assert traffic.peak_bytes_per_second(trace, 10, window=1.0) == 20.0
    assert traffic.peak_bytes_per_second(trace, 10, window=1.25) == 40 / 1.25


def test_fragments_out_of_turn_are_refused():
    trace = simulate.schedule("asp()", delays.constant([1.0]), 4, fragments=2)
    swapped = dataclasses.replace(trace, fragment=1 - trace.fragment)
    with pytest.raises(TraceError, match="row 0: fragment=1 is not in turn"):
        swapped.validate()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"policy": "k_sync(k=2)"}, "k_sync.k=2., which may cancel computations"),
        ({"policy": "quorum(k=2)"}, "quorum.k=2., which sets deadlines"),
        ({"policy": "adasync(k0=1)"}, "adasync.*, which reads the loss"),
        ({"push": "gradients"}, "need push='displacement'.*got 'gradients'"),
        ({"count": 4}, "at most 3 for plain.*got 4"),
        ({"count": 0}, "fragments must be at least 1, got 0"),
        ({"absences": "exponential(600, 30)"}, "fragments need workers that stay, got"),
        ({"overlap": 3}, "overlap must be below fragments=3, got 3"),
        ({"loop": "compiled"}, "row by row, with loop='host' and width 1"),
    ],
)
def test_what_fragments_cannot_be_is_refused_in_one_sentence(settings, complaint):
    if settings.get("push") == "gradients":
        settings |= {"local_state": "fresh"}
    with pytest.raises(ValueError, match=complaint):
        train(**settings)


def test_what_reads_one_history_refuses_several():
    trace = simulate.schedule("asp()", SPEEDS, 12, fragments=2)
    asked = [
        lambda: theory.columns(trace),
        lambda: theory.kappa_1(trace),
        lambda: rederivation.rederive(policies.asp(N), trace),
        lambda: replay.trajectory(TASK, OUTER, trace),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match="take one of them, trace.of_fragment"):
            ask()
    other = dataclasses.replace(trace, names=(("params.x",), ("params.y",)))
    with pytest.raises(ValueError, match="take the task of that run"):
        replay.replay(TASK, OUTER, other, SEED, **DILOCO)


def test_workers_that_wait_at_different_fragments_are_named():
    """Releases pushers of a fragment in threes, of which there are never enough."""

    def on_push(state, clocks, worker, now):
        # The pusher goes on twice, and then waits for one more than there is.
        goes_on = clocks.clock[worker] < 1 + worker % 2
        release = policies.only(worker, 2) & goes_on
        yes = jnp.bool_(True)
        return state, policies.Decision(jnp.float32(1), yes, release, ~release & ~yes)

    rule = policies.Policy(tuple, on_push, on_push, policies.base.EVERY_PUSH)
    with pytest.raises(simulate.DeadlockError, match="wait at fragments 0, 0"):
        simulate.schedule(rule, delays.constant([1.0, 1.0]), 9, fragments=2)


def test_clocks_count_the_pushes_of_a_worker():
    worker = np.array([2, 0, 2, 2, 1], np.int32)
    assert fragments.clocks(worker, 3).tolist() == [1, 1, 2, 3, 1]
