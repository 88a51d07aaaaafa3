"""Trace to parameters: against a slow loop with N copies, and against plain optax."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
from abs_dssp.training import compiled, update, wavefronts

N = 4
MODEL = delays.shifted_exponential([1, 1, 1, 2.7], 0.5)
PUSHES = 120


@pytest.fixture(scope="module")
def quadratic():
    return tasks.quadratic(N, dim=6, condition=10.0, noise=1.0, heterogeneity=0.3)


@pytest.fixture(scope="module")
def digits():
    return tasks.digits(N, model="mlp(hidden=16)", batch_size=16)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Gradients of one task are compiled once for the tests of this module."""
    yield
    _slope.cache_clear()


@functools.cache
def _slope(loss, batch):
    @jax.jit
    def slope_at(params, data, key, worker, index):
        some = batch(data, key, worker, index)
        return jax.grad(lambda p: loss(tasks.Variables(p, {}), some, key)[0])(params)

    return slope_at


def gradient_of(task):
    """The gradient of one batch: `(params, key, worker, index) -> params`."""
    slope_at = _slope(task.loss, task.batch)
    return lambda params, key, worker, index: slope_at(
        params, task.data, key, jnp.int32(worker), jnp.int32(index)
    )


def slow_replay(task, optimizer, trace, seed, *, local_steps=1, rate=0.0, aggregate):
    """Every version kept, every gradient taken with `jax.grad`, in plain Python."""
    key = jax.random.key(seed)
    start = task.init(key)
    slope_at = gradient_of(task)
    versions, state = [start], optimizer.init(start.params)
    sums, weights = None, 0.0
    for row in range(len(trace)):
        here = versions[trace.pulled[row]].params
        total = None
        for step in range(local_steps):
            index = (int(trace.clock[row]) - 1) * local_steps + step
            slope = slope_at(here, key, int(trace.worker[row]), index)
            total = slope if total is None else jax.tree.map(jnp.add, total, slope)
            here = jax.tree.map(lambda w, g: w - rate * g, here, slope)
        weight = float(trace.weight[row])
        total = jax.tree.map(lambda g, w=weight: w * g, total)
        sums = total if sums is None else jax.tree.map(jnp.add, sums, total)
        weights += weight
        if trace.committed[row]:
            share = 1 / weights if aggregate == "mean" else 1.0
            gradient = jax.tree.map(lambda g, s=share: s * g, sums)
            change, state = optimizer.update(gradient, state, versions[-1].params)
            versions.append(
                tasks.Variables(optax.apply_updates(versions[-1].params, change), {})
            )
            sums, weights = None, 0.0
    return versions[-1]


def close(a, b, tolerance=2e-5):
    """Equal up to float32 rounding, which differs with the order of operations."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance),
        a.params,
        b.params,
    )


@pytest.mark.often(3)
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize(
    "text",
    ["asp()", "abs(k0=1,a=20,tau_max=2)",
        "weighted(k_async(k=3), inverse())", "bsp()", "k_async(k=2)",
        "weighted(asp(), inverse())"],
)  # fmt: skip
def test_replay_agrees_with_a_slow_loop(quadratic, text, aggregate):
    trace = simulate.schedule(policies.parse(text, N), MODEL, PUSHES)
    optimizer = optax.sgd(0.05, momentum=0.5)
    slots = None if text == "asp()" else 32  # the others share their programs
    found = replay.replay(
        quadratic, optimizer, trace, seed=3, aggregate=aggregate, slots=slots
    )
    expected = slow_replay(quadratic, optimizer, trace, 3, aggregate=aggregate)
    close(found.variables, expected)


@pytest.mark.parametrize("text", ["asp()", "bsp()"])
def test_local_steps_agree_with_a_slow_loop(quadratic, text):
    trace = simulate.schedule(policies.parse(text, N), MODEL, 40, local_steps=5)
    found = replay.replay(quadratic, optax.sgd(0.02), trace, seed=1)
    expected = slow_replay(
        quadratic, optax.sgd(0.02), trace, 1, local_steps=5, rate=0.02, aggregate="mean"
    )
    close(found.variables, expected)


@functools.cache
def _alone():
    """A task of one worker and its optimizer, the same ones: compiled once."""
    return tasks.quadratic(1, dim=4), optax.adam(0.1)


@pytest.mark.often(3)
@pytest.mark.parametrize("text", ["bsp()", "dssp()", "abs()",
    "ssp(s=2)", "k_sync(k=1)", "k_async(k=1)", "local_sgd()"])  # fmt: skip
@jax.numpy_dtype_promotion("standard")  # optax.adam relies on it
def test_one_worker_under_any_policy_is_plain_training(text):
    task, optimizer = _alone()
    found = simulate.train(
        task, policies.parse(text, 1), delays.constant([1.0]), optimizer, 30
    )
    key = jax.random.key(0)
    params, state = task.init(key).params, optimizer.init(task.init(key).params)
    slope_at = gradient_of(task)
    for index in range(30):
        slope = slope_at(params, key, 0, index)
        change, state = optimizer.update(slope, state, params)
        params = optax.apply_updates(params, change)
    np.testing.assert_allclose(found.variables.params, params, rtol=2e-5)


@pytest.mark.often(1)
@pytest.mark.parametrize("text", ["ssp(s=3)", "k_async(k=2)", "bsp()"])
def test_wavefronts_agree_with_the_sequential_order(digits, text):
    trace = simulate.schedule(policies.parse(text, N), MODEL, 1000)
    results = [
        replay.replay(digits, optimizers.sgd(0.02), trace, width=width, slots=32)
        for width in (1, N)
    ]
    one, wide = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(r.variables.params)])
        for r in results
    )
    assert np.linalg.norm(one - wide) <= 1e-5 * np.linalg.norm(one)
    # A wavefront really is one: fewer runs than rows.
    first, count = wavefronts.wavefronts(trace.pulled, trace.version, 0, len(trace), N)
    assert count.sum() == len(trace) and len(first) < 0.9 * len(trace)


def test_a_wavefront_holds_no_push_computed_from_one_of_its_own_commits():
    trace = simulate.schedule(policies.asp(N), MODEL, 300)
    first, count = wavefronts.wavefronts(trace.pulled, trace.version, 10, 200, N)
    assert first[0] == 10 and first[-1] + count[-1] == 200
    for begin, length in zip(first, count, strict=True):
        assert trace.pulled[begin : begin + length].max() <= trace.version[begin]


def test_equal_inputs_give_equal_bytes_also_through_a_file(digits, tmp_path):
    policy = policies.dssp(N)
    runs = [
        simulate.train(digits, policy, MODEL, optimizers.sgd(0.1), 200, seed=5)
        for _ in range(2)
    ]
    again = type(runs[0].trace).load(runs[0].trace.save(tmp_path / "trace.npz"))
    runs.append(replay.replay(digits, optimizers.sgd(0.1), again, seed=5))
    for other in runs[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
            runs[0].variables,
            other.variables,
        )
    different = replay.replay(digits, optimizers.sgd(0.1), again, seed=6)
    assert not np.array_equal(
        jax.tree.leaves(different.variables)[0], jax.tree.leaves(runs[0].variables)[0]
    )


class Normalised(nn.Module):
    """The smallest network with statistics."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(3)(x)


def test_batchnorm_statistics_travel_with_the_push_and_are_averaged():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (64, 8, 8, 1), np.uint8)
    labels = generator.integers(0, 3, 64)
    data = (images, labels)
    task = tasks.from_flax(Normalised(), data, data, num_workers=2, batch_size=8)
    trace = simulate.schedule(policies.bsp(2), delays.constant([1, 2]), 2)
    result = replay.replay(task, optimizers.sgd(0.0), trace)
    key = jax.random.key(0)
    start = task.init(key)
    rule = update.rule(optimizers.sgd(0.0))

    def context(worker):
        numbers = jnp.array([worker, 1, 0], jnp.int32)  # worker, clock, version
        return update.PushContext(*numbers, jnp.float32(0))

    @jax.jit
    def statistics(context):
        return update.compute_push(rule, task, task.data, key, start, context).stats

    pushes = [statistics(context(worker)) for worker in range(2)]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *pushes)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        result.variables.stats,
        expected,
    )
    assert jax.tree.leaves(expected), "the model has no statistics"


@pytest.mark.parametrize("clock", ["epoch", "server_updates"])
def test_schedules_follow_their_clock(clock):
    # Noiseless, curvature 1, step 1 from the drop on: w becomes 0 at that commit.
    # 10 samples per epoch, 1 per push: under bsp of 2 workers version v is made at
    # epoch v * 2 / 10. A rise at epoch 0.6 is version 3; at server update 3 too.
    task = tasks.quadratic(2, dim=1, noise=0.0, samples_per_epoch=10)
    at = 0.6 if clock == "epoch" else 3.0
    rate = optimizers.drops(1e-3, [at], factor=1000.0)
    for pushes, expected in ((6, (1 - 1e-3) ** 3), (8, 0.0)):
        result = simulate.train(
            task, policies.bsp(2), delays.constant([1, 1]),
            optimizers.sgd(rate, clock=clock), pushes,
        )  # fmt: skip
        np.testing.assert_allclose(result.variables.params, expected, atol=1e-6)
    # asp makes two versions where bsp makes one: the clocks come apart.
    result = simulate.train(
        task, policies.asp(2), delays.constant([1, 1]),
        optimizers.sgd(rate, clock=clock), 4,
    )  # fmt: skip
    fell = abs(float(result.variables.params[0])) < 0.5
    assert fell == (clock == "server_updates")


def test_evaluations_come_at_their_commits_and_times(quadratic):
    result = simulate.train(
        quadratic, policies.k_async(N, k=2), MODEL, optax.sgd(0.05), 60,
        eval_every_commits=10, eval_every_seconds=5.0,
    )  # fmt: skip
    trace, records = result.trace, result.history.records
    for record in records:
        rows = record["push"]
        assert record["version"] == trace.committed[:rows].sum()
        assert (trace.time[:rows] <= record["seconds"]).all()
        assert (trace.time[rows:] >= record["seconds"]).all()
    versions = [r["version"] for r in records if r["seconds"] % 5]
    assert {10, 20, 30} <= set(versions)
    grid = [r["seconds"] for r in records if r["seconds"] % 5 == 0]
    assert grid == list(np.arange(0, trace.seconds, 5.0))
    # A record is what a run stopped there would end with.
    some = records[len(records) // 2]
    short = replay.replay(quadratic, optax.sgd(0.05), trace[: int(some["push"])])
    loss = quadratic.evaluate(quadratic.data, short.variables)["loss"]
    np.testing.assert_allclose(loss, some["loss"], rtol=1e-6)


def test_evaluations_come_after_the_commits_that_are_named(quadratic):
    result = simulate.train(
        quadratic, policies.k_async(N, k=2), MODEL, optax.sgd(0.05), 60,
        eval_every_commits=(1, 2, 7, 10_000),
    )  # fmt: skip
    made = [r["version"] for r in result.history.records]
    assert made == [0, 1, 2, 7, result.trace.commits]
    evenly = replay.replay(
        quadratic, optax.sgd(0.05), result.trace, eval_every_commits=np.int64(10)
    )  # one number, of whatever kind
    assert [r["version"] for r in evenly.history.records][:3] == [0, 10, 20]
    with pytest.raises(
        ValueError, match="eval_every_commits must be at least 1, got 0"
    ):
        replay.replay(
            quadratic, optax.sgd(0.05), result.trace, eval_every_commits=(0, 1)
        )


def test_a_warmup_rises_on_a_line():
    rate = optimizers.step_decay(0.5, at=[10], factor=0.1, warmup=4.0)
    times = np.array([0.0, 1.0, 3.0, 4.0, 9.0, 10.0])
    found = [float(rate(time)) for time in times]
    np.testing.assert_allclose(found, [0, 0.125, 0.375, 0.5, 0.5, 0.05], rtol=1e-6)
    with pytest.raises(ValueError, match="warmup must be at least 0, got -1"):
        optimizers.step_decay(0.5, warmup=-1)


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(quadratic):
    result = simulate.train(
        quadratic, policies.asp(N), MODEL, optax.sgd(1e9), 200, eval_every_commits=1
    )
    done = len(result.trace)
    assert 1 < done < 200
    assert result.stopped.startswith(("loss is inf at push", "loss is nan at push"))
    assert f"worker {result.trace.worker[done - 1]}" not in "" and "staleness" in (
        result.stopped
    )
    assert len(result.history.records) > 1
    assert np.isfinite(result.history.push_loss[:-1]).any()


def test_limits_end_a_run(digits):
    settings = {"seed": 1, "eval_every_seconds": 2.0, "slots": 32}
    policy, optimizer = policies.asp(N), optimizers.sgd(0.1)
    by_time = simulate.train(
        digits, policy, MODEL, optimizer, until_seconds=20.0, **settings
    )
    assert by_time.trace.seconds <= 20 < by_time.trace.seconds + 3
    by_epoch = simulate.train(
        digits, policy, MODEL, optimizer, until_epochs=1.0, **settings
    )
    assert len(by_epoch.trace) == -(-1437 // 16)
    by_target = simulate.train(
        digits, policy, MODEL, optimizer, 400, target_accuracy=0.8, **settings
    )
    assert by_target.stopped == "target" and len(by_target.trace) < 400
    assert by_target.history.last("accuracy") >= 0.8
    with pytest.raises(ValueError, match="the run would never end"):
        simulate.train(digits, policy, MODEL, optimizer)
    # The pushes of a run cut short in time are those of a longer one.
    longer = simulate.schedule(policy, MODEL, len(by_time.trace), seed=1)
    np.testing.assert_array_equal(by_time.trace.time, longer.time)


def test_adasync_waits_for_more_workers_as_the_loss_falls(digits):
    policy = policies.adasync(N, k0=1, interval=2.0)
    settings = {"eval_every_commits": 50, "slots": 64}
    result = simulate.train(digits, policy, MODEL, optimizers.sgd(0.1), 600, **settings)
    trace = result.trace.validate()
    per_commit = np.diff(np.flatnonzero(trace.committed))
    assert per_commit[:8].mean() == 1 and per_commit[-20:].mean() > 2.5
    # Fed with the same estimates, a replay of the trace gives the same parameters.
    again = replay.replay(digits, optimizers.sgd(0.1), trace, slots=64)
    close(result.variables, again.variables, 1e-4)


class _Interrupted(Exception):
    pass


@pytest.mark.often(1)
@pytest.mark.parametrize("text", ["adasync(k0=1,interval=2)", "ssp(s=2)"])
def test_an_interrupted_run_resumes_to_the_same_bytes(digits, tmp_path, text):
    policy, optimizer = policies.parse(text, N), optimizers.sgd(0.1, momentum=0.9)

    def run(folder, progress=None):
        return simulate.train(
            digits, policy, MODEL, optimizer, 300, seed=2, eval_every_seconds=5.0,
            checkpoint_dir=folder, checkpoint_every=37, progress=progress,
        )  # fmt: skip

    whole = run(tmp_path / "whole")

    def interrupt(done, total, record):
        if done > 170:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        run(tmp_path / "broken", interrupt)
    seen = []
    resumed = run(tmp_path / "broken", lambda done, *_: seen.append(done))
    assert seen[0] > 100, "it began again from the start"
    assert resumed.history.records == whole.history.records
    np.testing.assert_array_equal(resumed.history.push_loss, whole.history.push_loss)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        resumed.variables,
        whole.variables,
    )
    # Resuming a finished run does nothing, and another run is refused.
    assert run(tmp_path / "whole").history.records == whole.history.records
    with pytest.raises(ValueError, match="holds a checkpoint of another run"):
        simulate.train(
            digits, policy, MODEL, optimizer, 299, seed=2,
            checkpoint_dir=tmp_path / "whole",
        )  # fmt: skip


def test_the_ring_keeps_max_staleness_plus_one_versions(quadratic):
    trace = simulate.schedule(policies.asp(N), MODEL, 200)
    kept = []
    begin = compiled.CompiledEngine.__init__

    def spy(self, task, config, seed, num_versions, *rest):
        kept.append(num_versions)
        begin(self, task, config, seed, num_versions, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.CompiledEngine, "__init__", spy)
        replay.replay(quadratic, optax.sgd(0.1), trace)
    assert kept == [trace.staleness.max() + 1]


def test_task_and_trace_must_have_the_same_workers(quadratic):
    trace = simulate.schedule(policies.asp(2), delays.constant([1, 2]), 10)
    with pytest.raises(ValueError, match="the trace has 2 workers, the task 4"):
        replay.replay(quadratic, optax.sgd(0.1), trace)
    wrong = dataclasses.replace(trace, num_workers=N)
    with pytest.raises(ValueError, match="aggregate must be one of 'mean', 'sum'"):
        replay.replay(quadratic, optax.sgd(0.1), wrong, aggregate="median")
