"""Aggregates against slow loops in plain NumPy, in both engines."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
from abs_dssp.training import aggregators

N, DIM, RATE = 4, 6, 0.05
MODEL = delays.shifted_exponential([1, 1, 1, 2.7], 0.5)


@pytest.fixture(scope="module")
def task():
    return tasks.quadratic(N, dim=DIM, condition=10.0, noise=1.0, heterogeneity=0.5)


def slow(task, trace, seed, server):
    """Every version kept; `server(row, gradient, versions)` gives a step or None."""
    key = jax.random.key(seed)
    leaves, structure = jax.tree.flatten(task.init(key).params)
    assert len(leaves) == 1
    versions = [np.asarray(leaves[0])]

    @jax.jit
    def gradient(point, worker, index):
        params = jax.tree.unflatten(structure, [point])
        batch = task.batch(task.data, key, worker, index)
        slope = jax.grad(lambda p: task.loss(tasks.Variables(p, {}), batch, key)[0])
        return jax.tree.leaves(slope(params))[0]

    for row in range(len(trace)):
        here = versions[trace.pulled[row]]
        worker, index = int(trace.worker[row]), int(trace.clock[row]) - 1
        found = gradient(jnp.asarray(here), jnp.int32(worker), jnp.int32(index))
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


def test_ringleader_keeps_two_tables(task):
    trace = simulate.schedule(policies.ringleader(N), MODEL, 200)
    now, coming, moved = {}, {}, set()

    def server(row, gradient, versions):
        nonlocal now, coming, moved
        worker = int(trace.worker[row])
        if worker in moved:
            coming.setdefault(worker, []).append(gradient)
            return None
        now.setdefault(worker, []).append(gradient)
        if not moved and len(now) < N:
            return None
        moved.add(worker)
        step = np.mean([np.mean(now[i], axis=0) for i in range(N)], axis=0)
        if len(moved) == N:
            now, coming, moved = coming, {}, set()
        return step

    check(task, trace, "table", server)


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


def test_a_checkpoint_holds_the_tables(task, tmp_path):
    policy, optimizer = policies.ringleader(N), optax.sgd(RATE)

    class Interrupted(Exception):
        pass

    def run(folder, progress=None):
        return simulate.train(
            task, policy, MODEL, optimizer, 120, seed=2, aggregate="table",
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
    for wrong in ({"every": 0}, {"every": 3, "share": 0.5}):
        with pytest.raises(ValueError, match="delayed_nesterov"):
            optimizers.delayed_nesterov(0.1, **wrong)


@pytest.mark.parametrize("text", ["median", "table(k=2)", "compensated(strength=-1)"])
def test_unknown_aggregates_are_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match="aggregate|strength|argument"):
        aggregators.parse(text)
