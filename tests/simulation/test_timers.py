"""Deadlines of policies: at random against the oracle, and by hand."""

import dataclasses
import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import support
from hypothesis import strategies as st

from abs_dssp import (
    communication,
    delays,
    optimizers,
    policies,
    simulate,
    tasks,
    whatif,
)
from abs_dssp.history import builder, rederivation, traces
from abs_dssp.history.events import Event
from abs_dssp.history.machine import Machine
from abs_dssp.simulation import event_loop, event_rows
from abs_dssp.training import evaluation
from abs_dssp.training.config import EvaluationConfig

LENGTH, PUSHES, N = 7, 40, 3
NAN, INF = math.nan, math.inf


@st.composite
def scripts(draw):
    """What a rule answers at its n-th event: seconds to the deadline, and three flags.

    Half seconds, so that deadlines and pushes often come together.
    """
    seconds = st.sampled_from([NAN, NAN, INF, -1.0, 0.0, 0.5, 1.0, 2.5])
    answer = st.tuples(seconds, st.booleans(), st.booleans(), st.booleans())
    script = draw(st.lists(answer, min_size=LENGTH, max_size=LENGTH))
    hypothesis.assume(any(release for _, _, release, _ in script))
    return script


class Scripted:
    """The oracle's version."""

    def __init__(self, script):
        self.script, self.asked = script, 0

    def push(self, world, p, now):
        return self.answer(world.waiting | {p}, world.computing, now)

    def time(self, world, now):
        return self.answer(world.waiting, world.computing, now)

    def answer(self, arrived, computing, now):
        seconds, commit, release, restart = self.script[self.asked % LENGTH]
        self.asked += 1
        wake = None if math.isnan(seconds) else now + seconds
        released = set(arrived) if release else set()
        again = set(computing) if restart else set()
        return reference.Decision(1.0, commit, released, again, wake)


def packed(script):
    """The script as the state of `SCRIPTED`, with the number of events so far."""
    seconds = jnp.asarray([each[0] for each in script], jnp.float64)
    return jnp.int32(0), seconds, jnp.asarray([each[1:] for each in script])


def answer(state, clocks, arrived, now):
    asked, seconds, flags = state
    commit, release, restart = flags[asked % LENGTH]
    masks = arrived & release, clocks.alive & ~arrived & restart
    wake = now + seconds[asked % LENGTH]
    decision = policies.Decision(jnp.float32(1), commit, *masks, wake)
    return (asked + 1, seconds, flags), decision


def scripted():
    """A policy that does what the script in its state says."""

    def on_push(state, clocks, worker, now):
        arrived = clocks.waiting | policies.only(worker, N)
        return answer(state, clocks, arrived, now)

    def on_leave(state, clocks, worker, now):
        return answer(state, clocks, clocks.waiting, now)

    def on_time(state, clocks, now):
        return answer(state, clocks, clocks.waiting, now)

    nothing = [(NAN, False, False, False)] * LENGTH
    init = functools.partial(packed, nothing)
    properties = policies.Properties(reads_loss=False)
    return policies.Policy(init, on_push, on_leave, properties, on_time)


SCRIPTED = scripted()
RUN = jax.jit(event_loop.advance_events, static_argnums=(0, 5))


def follow(script, table, link):
    """Rows and deadlines of the compiled loop."""
    with jax.enable_x64(True):
        model = (SCRIPTED, delays.recorded(table), link)
        begun = event_loop.start(*model, 0)
        begun = begun._replace(server=begun.server._replace(policy=packed(script)))
        rows: list[np.ndarray] = []
        left = PUSHES
        while left:  # a capacity that cuts the events anywhere
            begun, made, count, pushes = RUN(*model, begun, left, 64, False)
            rows.append(np.asarray(made)[: int(count)])
            left -= int(pushes)
    settings = {"num_workers": N, "policy": "scripted"}
    last = builder.ending(begun.server)
    return event_rows.to_trace(np.concatenate(rows), last, settings)


WHOLE = st.integers(1, 8).map(lambda halves: halves / 2)
TABLES = st.lists(st.lists(WHOLE, min_size=3, max_size=3), min_size=N, max_size=N)


@pytest.mark.often(1)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("update", [0.5, None])
def test_deadlines_at_random_agree_with_the_oracle(shared, update):
    seconds = 0.5 if shared else 0.0
    link = communication.Communication(seconds, shared, update)
    timed = []

    @hypothesis.settings(max_examples=60, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(scripts(), TABLES)
    def check(script, table):
        events = []
        transfers = {"seconds": seconds, "shared": shared, "update": update or 0.0}
        try:
            rows = reference.run(
                Scripted(script), table, PUSHES, events=events, **transfers
            )
        except reference.Deadlock as error:
            with pytest.raises(simulate.DeadlockError, match=f"at push {error}:"):
                follow(script, table, link)
            return
        expected = support.trace_of(rows, N, events)
        found = follow(script, table, link)
        for name in traces.COLUMNS:
            np.testing.assert_array_equal(
                getattr(found, name), getattr(expected, name), err_msg=name
            )
        assert found.events == expected.events
        timed.append(len(events))

    check()
    assert sum(count > 10 for count in timed) > 5  # deadlines in plenty


def test_a_push_at_the_deadline_comes_before_it():
    # Of the quorum's push at 2 the grace ends at 3, when worker 1 pushes; the round
    # after it began at 3: its quorum is at 5, its grace would end at 6.
    policy = policies.quorum(3, k=1, grace=0.5)
    trace = simulate.schedule(policy, "constant([2, 3, 9])", 4)
    assert [(e.rows, e.seconds, e.commit) for e in trace.events] == [
        (0, 0.0, False), (2, 3.0, True),
    ]  # fmt: skip
    np.testing.assert_array_equal(trace.time, [2, 3, 5, 6])
    np.testing.assert_array_equal(trace.pulled, [0, 0, 1, 1])


def test_a_deadline_in_the_past_is_at_once_and_one_of_a_deadline_never():
    script = [(-1.0, False, False, False), (0.0, True, True, False)]
    script += [(NAN, False, True, False)] * (LENGTH - 2)
    # The first answer is given at time 0, to the deadline there: it has none then.
    trace = follow(script, [[1.0]] * N, communication.none())
    # The second one at the push at 1: the deadline is there, after all three pushes.
    first, second, *_ = trace.events
    assert (first.rows, first.seconds) == (0, 0.0)
    assert (second.rows, second.seconds) == (3, 1.0)


@pytest.mark.often(1)
@pytest.mark.parametrize("text", ["quorum(k=2)", "deadline(k=2.0,floor=0.0625)"])
def test_a_trace_with_deadlines_is_derived_again_saved_and_loaded(text, tmp_path):
    policy, model = policies.parse(text, 5), delays.lognormal(1.0, 0.6, num_workers=5)
    trace = simulate.schedule(policy, model, 300, seed=3)
    assert sum(event.commit for event in trace.events) > 20
    again = rederivation.rederive(policy, trace)
    assert not rederivation.first_difference(trace, again)
    assert again.events == trace.events
    loaded = traces.Trace.load(trace.save(tmp_path / "trace.npz"))
    assert loaded.events == trace.events
    assert traces.fingerprint(loaded) == traces.fingerprint(trace)
    other = rederivation.rederive(policies.asp(5), trace)  # it is not asked at them
    assert other.commits == 300 and not other.events


def test_sweeps_and_segments_give_the_schedule():
    policy, model = policies.quorum(4, k=2), delays.exponential(1.0, num_workers=4)
    alone = simulate.schedule(policy, model, 200, seed=1)
    _, swept = simulate.sweep(policy, model, 200, seeds=[0, 1])
    assert traces.fingerprint(swept) == traces.fingerprint(alone)
    task = tasks.quadratic(4, dim=3)
    step = optimizers.sgd(0.05)
    whole = simulate.train(task, policy, model, step, 200, seed=1)
    # A rule that might read the loss is scheduled in segments of a few pushes, between
    # which a deadline may commit a push that has been replayed.
    told = policy.properties._replace(reads_loss=True)
    told = policy._replace(properties=told)
    parts = simulate.train(task, told, model, step, 200, seed=1, loss_every=3)
    for name in traces.COLUMNS:
        mine, others = getattr(parts.trace, name), getattr(whole.trace, name)
        np.testing.assert_array_equal(mine, others, err_msg=name)
    assert parts.trace.events == whole.trace.events
    jax.tree.map(np.testing.assert_array_equal, parts.variables, whole.variables)


def test_a_run_that_time_ends_knows_no_deadline_after_it():
    # Commits at 3 (see above) and at 6; until 5.5 there is one.
    policy = policies.quorum(3, k=1, grace=0.5)
    model, task = delays.constant([2.0, 3.0, 9.0]), tasks.quadratic(3, dim=2)
    step = optimizers.sgd(0.1)
    ended = simulate.train(task, policy, model, step, until_seconds=5.5).trace
    np.testing.assert_array_equal(ended.time, [2, 3, 5])
    np.testing.assert_array_equal(ended.committed, [False, True, False])
    assert [event.seconds for event in ended.events] == [0.0, 3.0]


def test_the_host_follows_what_the_compiled_loop_did():
    """Decisions one by one, and the same history without asking the policy."""
    policy, model = policies.quorum(4, k=2), delays.exponential(1.0, num_workers=4)
    trace = simulate.schedule(policy, model, 100)
    machine, entries, deadlines = Machine(policy, 4), [], [0.0]
    for event in rederivation.events_of(trace):
        if event.kind == "timer":
            assert event.time == deadlines[-1] == machine.wake
        done = machine.apply(event)
        entries.append(done.entry(event))
        deadlines.append(done.wake)
    made, state = builder.follow(entries, 4)
    again = made.trace(builder.ending(state))
    for name in traces.COLUMNS:
        np.testing.assert_array_equal(
            getattr(again, name), getattr(trace, name), err_msg=name
        )
    assert again.events == trace.events
    other = Machine(policy, 4)
    other.restore(machine.leaves())  # a checkpoint keeps the deadline
    assert other.wake == machine.wake == deadlines[-1]


def test_joins_and_refusals_leave_the_deadline():
    machine = Machine(policies.quorum(3, k=1, grace=0.5), 3)
    for event in (Event("timer", -1, 0.0), Event("push", 0, 4.0)):
        machine.apply(event)
    for event in (
        Event("leave", 1, 4.5), Event("join", 1, 5.0), Event("refuse", 2, 5.5),
    ):  # fmt: skip
        assert machine.apply(event).wake == 6.0
    done = machine.apply(Event("timer", -1, 6.0))
    assert (done.commit, done.release, done.wake) == (True, (0,), INF)


@pytest.mark.often(3)
@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("quorum(k=3)", "weighted(quorum(k=3), constant())"),
        ("quorum(k=3)", "switch(quorum(k=3), asp(), at=1000000)"),
        ("quorum(k=3)", "switch(asp(), quorum(k=3), at=0)"),
        ("quorum(k=4)", "growing(quorum(k=4), first=4)"),
        ("quorum(k=4)", "bsp()"),
        ("quorum(k=2,grace=0)", "k_async(k=2)"),
        ("deadline(k=1000000)", "bsp()"),
    ],
)
def test_special_cases_and_combinations_coincide(text, same):
    model = delays.exponential(1.0, num_workers=4)
    one, other = (simulate.schedule(each, model, 200, seed=2) for each in (text, same))
    for name in traces.COLUMNS:  # but for the end, after which there is no deadline
        np.testing.assert_array_equal(
            getattr(one, name)[:196], getattr(other, name)[:196], err_msg=name
        )


def test_a_deadline_of_the_first_rule_is_not_the_next_ones():
    # Worker 0 at 2: the quorum's deadline is 3. From 2.5 on, at which worker 1 pushes,
    # everybody is released at once; nothing happens at 3.
    text = 'switch(quorum(k=1), asp(), at=2.5, unit="seconds")'
    trace = simulate.schedule(text, "constant([2, 2.5, 9])", 4)
    np.testing.assert_array_equal(trace.time, [2, 2.5, 4.5, 5])
    np.testing.assert_array_equal(trace.wait, [0.5, 0, 0, 0])
    assert [event.seconds for event in trace.events] == [0.0]


def test_giving_up_by_a_deadline_is_what_computations_that_end_themselves_do():
    """MindFlayer's trials, cut short by the rule or by a model of worker speed."""
    policy = policies.mindflayer(4, trials=[1, 2, 1, 3], seconds=[1.5, 1.0, 4.0, 0.5])
    times = delays.table(delays.exponential(1.0, num_workers=4), 999)
    raw = delays.recorded(np.ceil(64 * times) / 64)  # which nothing rounds
    short = delays.abandoned(raw, seconds=[1.5, 1.0, 4.0, 0.5])
    by_rule, by_model = (simulate.schedule(policy, m, 400) for m in (raw, short))
    rounds = min(by_rule.commits, by_model.commits)
    assert rounds > 30 and by_rule.restarts.sum() > 50
    for trace in (by_rule, by_model):
        assert trace.staleness.max() == 0
    np.testing.assert_allclose(
        by_rule.commit_times[:rounds], by_model.commit_times[:rounds], rtol=1e-12
    )
    successes = [
        list(zip(t.worker[t.accepted], t.version[t.accepted], strict=True))
        for t in (by_rule, by_model)
    ]
    within = [[each for each in mine if each[1] < rounds] for mine in successes]
    assert within[0] == within[1]


def test_deadlines_without_end_and_without_a_function_are_named():
    inner = policies.bsp(2)

    def wake(state, clocks, now):
        nobody = jnp.zeros(2, bool)
        return state, policies.Decision(0.0, False, nobody, nobody, now + 1)

    def keep(state, clocks, worker, now):
        return wake(state, clocks, now)

    endless = policies.Policy(inner.init, keep, keep, inner.properties, wake)
    with pytest.raises(simulate.DeadlockError, match="deadlines in a row and no push"):
        simulate.schedule(endless, delays.constant([1.0, 2.0]), 4)
    deaf = endless._replace(on_time=None)
    with pytest.raises(ValueError, match="on_push sets a deadline, and the policy has"):
        simulate.schedule(deaf, delays.constant([1.0, 2.0]), 4)


def test_files_of_traces_without_deadlines_are_as_before():
    trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.0]), 4)
    left = traces.Event(2, 1.5, "leave", 1)
    header = dataclasses.replace(trace, events=(left,)).header
    assert header["events"] == [[2, 1.5, "leave", 1]]


def test_parameters_are_measured_when_the_deadline_has_made_them():
    # The grace of the push at 2 ends at 4, that of the one at 6 at 8.
    policy = policies.quorum(3, k=1, grace=1.0)
    trace = simulate.schedule(policy, "constant([2, 2.5, 9])", 5)
    np.testing.assert_array_equal(trace.time, [2, 2.5, 6, 6.5, 9])
    np.testing.assert_array_equal(trace.commit_times, [4, 8])
    every_commit = evaluation.points(trace, EvaluationConfig(every_commits=1))
    assert every_commit == [(0, 0.0), (2, 4.0), (4, 8.0), (5, 9.0)]
    # At 3 two pushes are there, which are committed at 4.
    timely = evaluation.points(trace, EvaluationConfig(every_seconds=3.0))
    assert timely == [(0, 0.0), (1, 3.0), (3, 6.0), (5, 9.0)]
    assert whatif.version_times(trace).tolist() == [0.0, 4.0, 8.0]
