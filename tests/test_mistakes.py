"""Mistakes in Python get one sentence of ours, before anything is traced or run.

All of them are made in one process of their own, in which types are not checked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abs_dssp import (
    communication,
    delays,
    optimizers,
    policies,
    replay,
    simulate,
    tasks,
    whatif,
)
from scripts import ROOT

SCHEDULE = {
    "simulate.schedule(DELAYS, POLICY, 20)": "delays must be a Delays, such as",
    "simulate.schedule(policies.asp, DELAYS, 20)": "the function asp; call it first",
    "simulate.schedule(POLICY, [1, 2], 20)": "or the text 'constant([1.0, 2.7])'",
    "simulate.schedule(None, DELAYS, 20)": "policy must be a Policy, such as",
    "simulate.schedule('bspp', DELAYS, 20)": "unknown name 'bspp' (did you mean bsp?)",
    "simulate.schedule('bsp', 'constant(1)', 20)": "give one number per worker",
    "simulate.schedule(POLICY, DELAYS, 50.0)": "a whole number, got 50.0; write 50.",
    "simulate.schedule(POLICY, DELAYS, 50.5)": "must be a whole number, got 50.5.",
    "simulate.schedule(POLICY, DELAYS, '50')": "must be a whole number, got '50'.",
    "simulate.schedule(POLICY, DELAYS, True)": "must be a whole number, got True.",
    "simulate.schedule(POLICY, DELAYS, 0)": "num_pushes must be at least 1, got 0.",
    "simulate.schedule(POLICY, DELAYS, 9, seed='a')": "seed must be a whole number",
    "simulate.schedule(POLICY, DELAYS, 9, seed=-1)": "seed must be at least 0, got -1",
    "simulate.schedule(POLICY, DELAYS, 9, local_steps=0)": "local_steps must be at lea",
    "simulate.sweep(POLICY, DELAYS, 9, seeds=3)": "such as range(3), got 3.",
    "simulate.sweep(POLICY, DELAYS, 9, seeds=[])": "at least one seed",
    "simulate.schedule(policies.bsp(3), DELAYS, 9)": "bsp() is for 3 workers, the oth",
    "simulate.schedule(POLICY, DELAYS, 9, communication=1)": "must be a Communication",
    "simulate.schedule(POLICY, DELAYS, 9, communication='link(9)')": "'bandwidth'",
    "stuck()": "until_seconds is never reached; give some computation a time above 0",
}
DECISIONS = {
    "release=True": "release must be True or False, as an array of shape (4,)",
    "release=jnp.zeros(3, bool)": "got bool of shape (3,)",
    "release=jnp.zeros(4)": "got float32 of shape (4,)",
    "restart=None": "restart must be",
    "weight='1'": "weight must be one number",
    "weight=-1": "weight=-1.0 is negative",
    "answer=lambda s, c, d: d": "must return (state, Decision)",
    "answer=lambda s, c, d: (s, tuple(d))": "got a tuple instead of the Decision",
    "answer=lambda s, c, d: (s, d) if c.version > 3 else (s, d)": "take jnp.where",
    "answer=lambda s, c, d: (s + 1.5, d), state=0": "must give its state back",
}
TRAIN = {
    "simulate.train(POLICY, TASK, DELAYS, SGD, 9)": "policy must be a Policy, such",
    "simulate.train(tasks.digits, POLICY, DELAYS, SGD, 9)": "task must be a Task, suc",
    "simulate.train(TASK, POLICY, DELAYS, 0.1, 9)": "or the text 'sgd(0.1)', got 0.1.",
    "simulate.train(TASK, POLICY, DELAYS, optax.sgd, 9)": "the function sgd; call it",
    "simulate.train(TASK, POLICY, DELAYS, 'sdg(0.1)', 9)": "unknown name 'sdg'",
    "simulate.train(TASK, POLICY, DELAYS, SGD)": "the run would never end",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 50.0)": "got 50.0; write 50.",
    "simulate.train(TASK, POLICY, DELAYS, SGD, -1)": "num_pushes must be above 0",
    "simulate.train(TASK, POLICY, DELAYS, SGD, until_seconds='9')": "must be a number",
    "simulate.train(TASK, POLICY, delays.constant([1, 2]), SGD, 9)": (
        "the task has 4 workers, the delays 2; make them for one number."
    ),
    "simulate.train(TASK, policies.bsp(3), DELAYS, SGD, 9)": "is for 3 workers, the ot",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, target_accuracy=0.9, "
    "eval_every_commits=3)": (
        "cannot be reached on quadratic, which measures gradient_norm_squared, loss;"
    ),
    "simulate.train('digits', POLICY, DELAYS, SGD, 9, target_accuracy=0.9)": (
        "at evaluations; give eval_every_commits or eval_every_seconds too"
    ),
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, target_accuracy=95)": (
        "target_accuracy must be in 0..1, got 95; for 95 % write 0.95."
    ),
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, local_steps=2.0)": "write 2.",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, eval_every_seconds=-1)": "above 0",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, eval_every_commits=2.5)": "got 2.5",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, aggregate=None)": "must be one of",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, slots=-1)": "slots must be at least",
    "simulate.train(TASK, POLICY, DELAYS, SGD, 9, progress=1)": "must be a function of",
    "simulate.train(TASK, 'adasync(k0=1)', DELAYS, SGD, 9, loss_every=0)": "at least 1",
    "replay.replay(TRACE, 'digits()', SGD)": "trace must be a Trace, such as",
    "replay.replay(TASK, SGD, 'trace.npz')": "traces.Trace.load('trace.npz'), got",
    "replay.replay(TASK, SGD, TRACE, seed=1.5)": "seed must be a whole number",
    "replay.trajectory(tasks.quadratic(3), SGD, TRACE)": "has 4 workers, the task 3",
    "replay.sweep(TASK, SGD, [[0.1]], TRACE)": "such as optimizers.sgd, got",
    "replay.sweep(TASK, optimizers.sgd, [0.1], TRACE)": "as {'learning_rate': [0.1, 0",
    "replay.sweep(TASK, optimizers.sgd, {'lr': [0.1]}, TRACE)": "has no argument 'lr'",
    "replay.sweep(TASK, optimizers.sgd, {'momentum': [0.1]}, TRACE)": (
        "must hold 'learning_rate' too, which make has before 'momentum'"
    ),
    "replay.sweep(TASK, optimizers.sgd, [[0.1]], TRACE, seeds=2)": "seeds must be",
    "replay.sweep(TASK, optimizers.sgd, [[0.1]], TRACE, measures=['acc'])": (
        "unknown measure 'acc'; known: gradient_norm_squared, loss."
    ),
}
POLICIES = {
    "policies.ssp(4, k=3)": "missing a required argument: 's'; it takes num_workers, s",
    "policies.ssp('4', s=3)": "ssp: num_workers must be a whole number, got '4'.",
    "policies.ssp(0, s=3)": "ssp: num_workers must be at least 1, got 0.",
    "policies.abs(4, growth='x')": "unknown growth 'x'; known: loss, rounds",
    "policies.fedasync(4, alpha='x')": "fedasync: cannot be made with alpha='x'",
    "policies.weighted(policies.asp(4), policies.inverse())": "it takes num_worke",
    "policies.switch(4, policies.bsp(4), policies.asp(3), at=9)": (
        "then must be for num_workers=4, got asp() for 3."
    ),
    "policies.parse(POLICY, 4)": "expected text such as 'ssp(s=3)', got <Policy",
    "policies.parse('ssp(s=3)', 4.0)": "whole number, got 4.0; write 4.",
    "policies.rule('sspp')": "unknown name 'sspp'; known: abs,",
}
DELAYS = {
    "delays.constant('fast')": "must be a number or a list of numbers, got 'fast'.",
    "delays.constant(True, 4)": "must be a number or a list of numbers, got True.",
    "delays.constant([])": "must be a number or a list of numbers, got [].",
    "delays.constant([[1, 2], [3, 4]])": "of shape (2, 2); delays.recorded takes tab",
    "delays.constant(1.0, num_workers=0)": "num_workers must be at least 1, got 0.",
    "delays.constant(1.0, num_workers=2.0)": "got 2.0; write 2.",
    "delays.pareto(1, 'x', 4)": "pareto: shape must be a number",
    "delays.markov(1, 4, slows='x', num_workers=2)": "markov: slows must be a number",
    "delays.csv(3)": "path must be that of a CSV file, got 3.",
    "delays.abandoned('constant(1)', 2)": "model must be a Delays",
    "delays.per_step(DELAYS, 1.5)": "local_steps must be a whole number",
    "delays.table(DELAYS, -3)": "count must be at least 0, got -3.",
    "delays.parse(DELAYS, 4)": "expected text such as 'constant(",
}
COMMUNICATION = {
    "communication.link('x', 10)": "num_bytes must be a number, got 'x'.",
    "communication.link(10, 'x')": "bandwidth must be a number or a list",
    "communication.link(10, float('nan'))": "bandwidth must be above 0, got nan.",
    "communication.link(10, [[1, 2]])": "must be one number or one per worker",
    "communication.link(10, 10, shared='yes')": "shared must be True or False",
    "communication.parse('link(50)', 100)": "needs the argument 'bandwidth'",
    "communication.parse(None, 100)": "expected text such as 'link(",
    "communication.per_worker('none()', 2)": "must be a Communication",
}
OPTIMIZERS = {
    "optimizers.sgd('0.1')": "learning_rate must be a number, got '0.1'.",
    "optimizers.sgd(-0.1)": "learning_rate must be at least 0, got -0.1.",
    "optimizers.sgd(0.1, momentum='x')": "sgd: momentum must be a number",
    "optimizers.step_decay(0.1, at=5)": "at must be a list of times, got 5.",
    "optimizers.step_decay(0.1, at=['a'])": "at must be a number, got 'a'.",
    "optimizers.delayed_nesterov(0.1, every=2.5)": "every must be a whole number",
    "optimizers.parse(SGD)": "expected text such as 'sgd(0.1)'",
    "optimizers.parse('adam', learning_rate='x')": "learning_rate must be a number",
    "optimizers.adamm": "has no attribute 'adamm'; see its names().",
}
TASKS = {
    "tasks.digits('4')": "digits: num_workers must be a whole number, got '4'.",
    "tasks.digits(4, batch_size=2.5)": "batch_size must be a whole number, got 2.5.",
    "tasks.digits(4, model=3)": "model: expected text such as 'mlp'",
    "tasks.digits(4, partition=3)": "partition: expected text such as 'equal'",
    "tasks.digits(4, seed='x')": "seed must be a whole number, got 'x'.",
    "tasks.digits(4, limit_train=10.5)": "limit_train must be a whole number",
    "tasks.quadratic(4.0)": "num_workers must be a whole number, got 4.0; write 4.",
    "tasks.quadratic(4, dim='x')": "dim must be a whole number, got 'x'.",
    "tasks.logistic('4')": "logistic: num_workers must be a whole number",
    "tasks.tridiagonal(4, dim=1)": "dim must be at least 2, got 1.",
    "tasks.zero_chain('4')": "zero_chain: num_workers must be a whole number",
    "tasks.parse(TASK, 4)": "expected text such as 'digits'",
    "tasks.check('x')": "task must be a Task",
    "tasks.from_flax(nn.Dense(2), XY, XY, '4')": "num_workers must be a whole number",
    "tasks.from_functions('a', 'b', XY, XY, 4)": "init must be a function of a key",
    "tasks.from_flax(nn.Dense(2), XY, XY, 4, batchsize=8)": (
        "from_flax: unknown argument 'batchsize' (did you mean batch_size?); known: "
    ),
    "tasks.from_nnx('a', XY, XY, 4, lr=8)": "from_nnx: unknown argument 'lr'; known",
    "tasks.from_nnx('a', XY, XY, 4)": "make must be a function of nnx.Rngs",
}
LOOKING = {
    "HISTORY.last('acc')": "unknown measure 'acc'; known: push, version, sec",
    "HISTORY.column('acc')": "unknown measure 'acc'; known: push",
    "HISTORY.first_reaching(95)": "accuracy must be in 0..1, got 95; for 95 % write",
    "HISTORY.first_reaching(0.5)": "unknown measure 'accuracy'; known: push, version",
    "TRACE[5]": "expected a slice of rows such as trace[:100], got 5",
    "TRACE[2:5]": "a trace begins where its run does, got rows from 2 on; take rows of",
    "TRACE[::2]": "rows of a run follow each other, got step 2.",
    "TRACE.bytes_sent('x')": "parameter_bytes must be a whole number",
    "whatif.reschedule('trace.npz', POLICY)": "trace must be a Trace",
    "whatif.reschedule(TRACE, policies.asp(3))": "asp() is for 3 workers, the others",
    "whatif.reschedule(TRACE, POLICY, num_pushes=10.0)": "got 10.0; write 10.",
    "whatif.figures('x')": "trace must be a Trace",
}
PLOT = {
    "plot.curves([TRACE])": "results must be a History, such as result.history",
    "plot.curves(RESULT.variables)": "results must be a History, such as",
    "plot.curves(HISTORY, against='megabytes')": "needs results, whose traces know",
    "plot.curves(RESULT, limits=(1, 0))": "two numbers, the lower first",
    "plot.curves(RESULT, limits=0.5)": "two numbers, the lower first",
    "plot.curves(RESULT, measure='loss', limits=(0, 1))": "above 0 for a loss",
    "TRACE.plot(start=1e9)": "start must be below the length of the run",
    "plot.curves(TRACE)": "of results; plot.timeline and plot.staleness draw traces",
    "plot.timeline(HISTORY)": "with traces; plot.curves draws histories, got",
    "plot.timeline('trace.npz')": "expected runs or a list of runs, got 'trace.npz'.",
    "TRACE.plot(rounds=1.5)": "rounds must be a whole number, got 1.5.",
}
AREAS = [
    PLOT,
    SCHEDULE,
    TRAIN,
    POLICIES,
    DELAYS,
    COMMUNICATION,
    OPTIMIZERS,
    TASKS,
    LOOKING,
]
OWN = {
    f"simulate.schedule(rule({parts}), DELAYS, 9)": sentence
    for parts, sentence in DECISIONS.items()
}
MISTAKES = {k: v for area in [*AREAS, OWN] for k, v in area.items()}


@pytest.fixture(scope="module")
def answers():
    """What every mistake raised."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("mistakes.py")],
        input=json.dumps(list(MISTAKES)),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_of_ours(answers, mistake):
    kind, sentence, ours = answers[mistake]
    assert kind in ("ValueError", "TypeError", "TraceError", "AttributeError"), kind
    assert ours, sentence
    assert MISTAKES[mistake] in sentence
    assert "\n" not in sentence and "Tracer" not in sentence


TEXTS = {
    "communication": "link(bandwidth=2.0)",
    "local_optimizer": "sgd(0.05)",
}


def test_texts_give_what_the_objects_give():
    by_text = simulate.train(
        "quadratic(dim=3,noise=0.0)",
        "ssp(s=1)",
        "constant([1,2.5])",
        "sgd(0.1)",
        12,
        local_steps=2,
        **TEXTS,
    )
    task = tasks.quadratic(2, dim=3, noise=0.0)
    by_object = simulate.train(
        task,
        policies.ssp(2, s=1),
        delays.constant([1, 2.5]),
        optimizers.sgd(0.1),
        12,
        local_steps=2,
        communication=communication.link(2 * 3 * 4, 2.0),  # float32, there and back
        local_optimizer=optimizers.sgd(0.05),
    )
    np.testing.assert_array_equal(by_text.trace.time, by_object.trace.time)
    np.testing.assert_array_equal(by_text.variables.params, by_object.variables.params)
    again = replay.replay(
        "quadratic(dim=3,noise=0.0)", "sgd(0.1)", by_text.trace, local_steps=1
    )
    assert len(again.trace) == 12
    other = whatif.reschedule(by_text.trace, "asp()")
    assert other.policy == "asp()"


def test_pythons_numbers_in_a_decision_are_arrays_of_the_right_types():
    def plain(num_workers):
        def decide(state, clocks, worker, now):
            release = policies.only(worker, num_workers)
            return state, policies.Decision(1, True, release, [False] * num_workers)

        return policies.Policy(tuple, decide, decide)

    model = delays.exponential(1.0, num_workers=3)
    mine = simulate.schedule(plain(3), model, 50)
    asp = simulate.schedule(policies.asp(3), model, 50)
    weighted = policies.weighted(3, plain(3), policies.inverse())
    lighter = simulate.schedule(weighted, model, 50)
    np.testing.assert_array_equal(mine.time, asp.time)
    np.testing.assert_array_equal(mine.weight, asp.weight)
    expected = 1 / np.maximum(asp.staleness, 1)
    np.testing.assert_allclose(lighter.weight, expected, rtol=1e-6)


def test_what_texts_name_has_the_same_name_in_python():
    for name in policies.names():
        assert getattr(policies, name) is policies.rule(name)
    for module, known in ((optimizers, optimizers.names()), (tasks, tasks.names())):
        for name in known:
            assert callable(getattr(module, name)), name
    for name, model in delays.MODELS.items():
        assert getattr(delays, name) is model
    assert policies.parse("adaptive_bounded_staleness(k0=2)", 4) is policies.abs(4, 2)


@pytest.mark.parametrize(
    "text, made",
    [
        ("ssp(3)", policies.ssp(4, 3)),
        ("dssp(3, 15)", policies.dssp(4, 3, 15)),
        ("sync_switch(9, 'seconds')", policies.sync_switch(4, 9, "seconds")),
        ("weighted(asp(), polynomial(2.0))", None),
    ],
)
def test_arguments_by_position_mean_the_same_in_text_and_python(text, made):
    asp = policies.asp(4)
    made = made or policies.weighted(4, asp, policies.polynomial(2.0))
    assert policies.parse(text, 4) is made
    link = communication.parse("link(100, 50, 0.5)", num_bytes=1)
    assert float(link.seconds) == float(communication.link(100, 50, 0.5).seconds)


def test_no_time_passes_where_all_delays_are_zero():
    trace = simulate.schedule(policies.asp(2), delays.constant(0, 2), 6)
    assert trace.seconds == 0 and len(trace) == 6 and trace.commits == 6
