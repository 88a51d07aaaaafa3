"""Aggregators against slow loops in plain NumPy, in both engines."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
from abs_dssp.training import aggregators, flat, update
from abs_dssp.training.parameters import Parameters

N, DIM, RATE = 4, 6, 0.05
MODEL = delays.shifted_exponential([1, 1, 1, 2.7], 0.5)


@pytest.fixture(scope="module")
def task():
    return tasks.quadratic(N, dim=DIM, condition=10.0, noise=1.0, heterogeneity=0.5)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Gradients of one task are compiled once; the next module's are others."""
    yield
    gradient_of.cache_clear()


@functools.cache
def gradient_of(loss, batch, structure):
    """The gradient at a point of a task's one array of parameters."""

    @jax.jit
    def gradient(point, data, key, worker, index):
        params = jax.tree.unflatten(structure, [point])
        some = batch(data, key, worker, index)
        slope = jax.grad(lambda p: loss(tasks.Variables(p, {}), some, key)[0])
        return jax.tree.leaves(slope(params))[0]

    return gradient


def slow(task, trace, seed, server):
    """Every version kept; `server(row, gradient, versions)` gives a step or None."""
    key = jax.random.key(seed)
    leaves, structure = jax.tree.flatten(task.init(key).params)
    assert len(leaves) == 1
    versions = [np.asarray(leaves[0])]
    gradient = gradient_of(task.loss, task.batch, structure)

    for row in range(len(trace)):
        here = versions[trace.pulled[row]]
        worker, index = int(trace.worker[row]), int(trace.clock[row]) - 1
        found = gradient(here, task.data, key, np.int32(worker), np.int32(index))
        step = server(row, np.asarray(found), versions)
        assert (step is not None) == bool(trace.committed[row])
        if step is not None:
            versions.append((versions[-1] - RATE * step).astype(np.float32))
    return versions[-1]


def check(task, trace, aggregate, server):
    expected = slow(task, trace, 3, server)
    for loop in ("compiled", "host"):
        found = replay.replay(
            task, optax.sgd(RATE), trace, 3, aggregate=aggregate, loop=loop
        )
        (leaf,) = jax.tree.leaves(found.variables.params)
        np.testing.assert_allclose(leaf, expected, rtol=2e-4, atol=2e-5)


def test_malenia_averages_workers_and_not_pushes(task):
    trace = simulate.schedule(policies.malenia(N, batch_size=8), MODEL, 150)
    held = {}

    def server(row, gradient, versions):
        if trace.weight[row] > 0:
            assert trace.pulled[row] == trace.version[row]
            held.setdefault(int(trace.worker[row]), []).append(gradient)
        if not trace.committed[row]:
            return None
        counts = [len(held[i]) for i in range(N)]
        assert N / sum(1 / c for c in counts) >= 8 / N - 1e-9
        step = np.mean([np.mean(held[i], axis=0) for i in range(N)], axis=0)
        held.clear()
        return step

    check(task, trace, "workers", server)


@pytest.mark.parametrize("text", ["asp()", "k_async(k=2)"])
def test_weights_over_the_number_of_pushes(task, text):
    """Also where a push is alone in its commit: the mean would cancel its weight."""
    rule = policies.parse(f"weighted({text},inverse())", N)
    trace = simulate.schedule(rule, MODEL, 60)
    assert len(set(trace.weight[trace.accepted].tolist())) > 1
    held = []

    def server(row, gradient, versions):
        if trace.weight[row] > 0:
            held.append(trace.weight[row] * gradient)
        if not trace.committed[row]:
            return None
        step = np.sum(held, axis=0) / len(held)
        held.clear()
        return step

    check(task, trace, "count", server)


class TwoTables:
    """What `table` is to do, in plain Python."""

    def __init__(self):
        self.tables = [(0, {}), (0, {})]  # round, gradients by worker
        self.latest = 0

    def push(self, number, worker, gradient):
        rounds = [number for number, _ in self.tables]
        if number in rounds:
            self.latest = rounds.index(number)
        else:
            self.latest = rounds.index(min(rounds))
            self.tables[self.latest] = (number, {})
        self.tables[self.latest][1].setdefault(worker, []).append(gradient)

    def mean(self):
        table = self.tables[self.latest][1]
        return np.mean([np.mean(mine, axis=0) for mine in table.values()], axis=0)


def numbered(seed, pushes=200):
    """A trace whose weights are numbers of rounds: mostly one of two, at random."""
    trace = simulate.schedule(policies.k_async(N, k=2), MODEL, pushes)
    random = np.random.default_rng(seed)
    rounds = 1 + np.arange(pushes) // 12 + random.integers(0, 2, pushes)
    rounds[::17] += 3  # ahead of both tables
    rounds[::23] = 0  # discarded
    return dataclasses.replace(trace, weight=rounds.astype(np.float32))


@pytest.mark.parametrize("seed", range(2))
def test_a_table_holds_the_pushes_of_one_round(task, seed):
    trace, model = numbered(seed), TwoTables()

    def server(row, gradient, versions):
        if trace.weight[row] > 0:
            model.push(int(trace.weight[row]), int(trace.worker[row]), gradient)
        return model.mean() if trace.committed[row] else None

    check(task, trace, "table", server)


@pytest.mark.parametrize("seed", range(3))
def test_tables_follow_the_numbers_of_random_rounds(seed):
    random, model = np.random.default_rng(seed), TwoTables()
    aggregator = aggregators.parse("table")
    tables = aggregator.init(jnp.zeros(2), {}, N)

    @jax.jit
    def push(tables, gradient, number, worker):
        tables = aggregator.accumulate(tables, arrival(gradient, number, worker))
        return aggregator.finalize(tables, {})

    for _ in range(60):
        number, worker = int(random.integers(1, 7)), int(random.integers(N))
        gradient = random.normal(size=2).astype(np.float32)
        found, _, tables = push(tables, gradient, number, worker)
        model.push(number, worker, gradient)
        np.testing.assert_allclose(found, model.mean(), rtol=1e-5, atol=1e-6)


def arrival(gradient, weight, worker=0):
    return aggregators.Arrival(
        jnp.asarray(gradient), {}, jnp.float32(weight), jnp.int32(worker),
        jnp.bool_(False), jnp.zeros(2), jnp.zeros(2),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["mean", "sum"])
def test_mean_and_sum_are_aggregators_like_the_others(text):
    aggregator = aggregators.parse(text)
    assert aggregators.parse(f"{text}()") is not None
    pushes = [([1.0, 0.0], 2.0), ([1.0, 3.0], 1.0)]
    total = np.array([3.0, 3.0])  # 2 g_1 + g_2
    for count in (0, 1, 2):
        sums = aggregator.init(jnp.zeros(2), {}, N)
        for gradient, weight in pushes[:count]:
            sums = aggregator.accumulate(sums, arrival(gradient, weight))
        found, _, empty = aggregator.finalize(sums, {})
        wanted = [np.zeros(2), np.array([2.0, 0.0]), total][count]
        if text == "mean":
            wanted = wanted / [1, 2, 3][count]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert not any(leaf.any() for leaf in jax.tree.leaves(empty))


def counting():
    """Counts calls; a commit applies the number of them."""

    def accumulate(count, arrival):
        return count + 1

    def finalize(count, stats):
        return jnp.broadcast_to(count, (DIM,)), stats, count

    return aggregators.Aggregator(
        lambda params, stats, workers: jnp.float32(0), accumulate, finalize
    )


def test_a_discarded_push_never_reaches_an_aggregator(task, monkeypatch):
    known = aggregators.KNOWN | {"counting": counting}
    monkeypatch.setattr(aggregators, "KNOWN", known)
    trace = simulate.schedule(policies.ringmaster(N, threshold=2), MODEL, 80)
    assert 0 < (trace.weight == 0).sum() < 40
    start, calls = task.init(jax.random.key(0)).params, np.cumsum(trace.weight > 0)
    expected = start - RATE * calls[trace.committed].sum()
    for loop, width in (("compiled", 1), ("compiled", N), ("host", None)):
        found = replay.replay(
            task, optax.sgd(RATE), trace, aggregate="counting", loop=loop, width=width
        )
        np.testing.assert_allclose(found.variables.params, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "text", ["mean", "sum", "workers", "table", "compensated(adaptive=True)"]
)
def test_what_a_discarded_push_holds_changes_nothing(text, task):
    config = update.rule(optax.sgd(RATE), aggregate=text)
    functions = flat.Functions(task, config)
    random = np.random.default_rng(0)
    pushes = random.normal(size=(8, functions.layout.size)).astype(np.float32)

    def run(broken):
        server = Parameters(functions, functions.initial(jax.random.key(0)))
        for number, push in enumerate(pushes):
            bad = np.full_like(push, np.nan)
            for _ in range(broken):
                server.receive(bad, 0.0, number % N, False, bad)
            server.receive(push, 1.0, number % N, number % 2 == 1, pushes[0])
            server.keep()
            if number % 2:
                server.commit(0.0, number // 2)
        return np.asarray(server.vector)

    np.testing.assert_array_equal(run(0), run(2))
    assert np.isfinite(run(2)).all()


@pytest.mark.often(3)
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("text", ["asp()", "k_async(k=2)", "ringmaster(threshold=3)"])
def test_delay_compensation_sees_both_versions(task, text, adaptive):
    strength = 0.3
    trace = simulate.schedule(policies.parse(text, N), MODEL, 120)
    assert trace.staleness.max() > 0
    square, held = np.zeros(DIM), []

    def server(row, gradient, versions):
        nonlocal square
        if trace.weight[row] > 0:
            by = strength
            if adaptive:
                square = 0.95 * square + 0.05 * gradient**2
                by = strength / np.sqrt(square + 1e-7)
            late = versions[-1] - versions[trace.pulled[row]]
            held.append(gradient + by * gradient**2 * late)
        if not trace.committed[row]:
            return None
        step = np.mean(held, axis=0)
        held.clear()
        return step

    check(task, trace, f"compensated(strength={strength},adaptive={adaptive})", server)


def test_without_staleness_compensation_changes_nothing(task):
    trace = simulate.schedule(policies.bsp(N), MODEL, 80)
    plain = replay.replay(task, optax.sgd(RATE), trace)
    other = replay.replay(task, optax.sgd(RATE), trace, aggregate="compensated()")
    for a, b in zip(
        *(jax.tree.leaves(r.variables) for r in (plain, other)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loop", ["compiled", "host"])
def test_a_checkpoint_holds_the_tables(task, tmp_path, loop):
    trace, optimizer = numbered(2, 120), optax.sgd(RATE)

    class Interrupted(Exception):
        pass

    def run(folder, progress=None):
        return replay.replay(
            task, optimizer, trace, seed=2, aggregate="table", loop=loop,
            eval_every_commits=10, checkpoint_dir=folder, checkpoint_every=25,
            progress=progress,
        )  # fmt: skip

    def interrupt(done, total, record):
        if done > 70:
            raise Interrupted

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "broken", interrupt)
    resumed = run(tmp_path / "broken")
    assert resumed.history.records == whole.history.records


def test_rare_pushes_and_shares_make_rescaled_unbiased():
    """With different data ASP's limit leans to the fast worker; Rescaled's does not."""
    task = tasks.quadratic(2, dim=4, condition=1.0, noise=0.0, heterogeneity=3.0)
    speed = delays.constant([1.0, 4.0])

    def distance(text, aggregate):
        result = simulate.train(
            task, policies.parse(text, 2), speed, optimizers.sgd(0.002), 8000,
            aggregate=aggregate, eval_every_commits=8000,
        )  # fmt: skip
        return result.history.records[-1]["loss"]

    lean = distance("asp()", "sum")
    fair = distance("rescaled()", "sum")
    assert fair < 0.05 * lean


def test_delayed_nesterov_is_its_formula():
    generator = np.random.default_rng(0)
    every, beta, share, rate = 3, 0.9, 0.1, 0.2
    optimizer = optimizers.delayed_nesterov(
        rate, every=every, momentum=beta, share=share
    )
    state = optimizer.init(jnp.zeros(2))
    momentum, total = np.zeros(2), np.zeros(2)
    extra = {"epoch": jnp.float32(0), "server_updates": jnp.int32(0)}
    for number in range(1, 10):
        gradient = generator.normal(size=2)
        step, state = optimizer.update(
            jnp.asarray(gradient, jnp.float32), state, None, **extra
        )
        total = total + gradient
        part = share
        if number % every == 0:
            momentum, total = beta * momentum + total / every, np.zeros(2)
            part = 1 - share * every + share
        wanted = -rate * (part * beta * momentum + gradient / every)
        np.testing.assert_allclose(step, wanted, rtol=1e-5, atol=1e-7)
    refused = {"every": 0}, {"every": 3, "share": 0.5}, {"every": 3, "momentum": 5}
    for wrong in refused:
        with pytest.raises(ValueError, match="delayed_nesterov"):
            optimizers.delayed_nesterov(0.1, **wrong)


@pytest.mark.parametrize("text", ["median", "table(k=2)", "compensated(strength=-1)"])
def test_unknown_aggregates_are_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match="aggregate|strength|argument"):
        aggregators.parse(text)
