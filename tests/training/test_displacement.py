"""Pushes of displacements, and local optimisers that are kept, against plain models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
from abs_dssp.history.traces import Event
from abs_dssp.training import flat, identity, wavefronts
from abs_dssp.training.config import UpdateConfig

N, SEED = 3, 5
LOOPS = [
    pytest.param({"loop": "compiled", "width": 1}, id="compiled"),
    pytest.param({"loop": "compiled", "width": N}, id="side-by-side"),
    pytest.param({"loop": "host"}, id="row-by-row"),
]
SPEEDS = delays.exponential([1.0, 1.3, 3.1])
NESTEROV = optimizers.sgd(0.7, momentum=0.9, nesterov=True)


@pytest.fixture(autouse=True)
def promotion():
    """Optax mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def task():
    """Least squares with a constant, in a pytree of two leaves."""
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4))
    y = x @ [1.0, -2.0, 0.5, 3.0] + 0.3 * random.normal(size=60)

    def predict(params, inputs):
        return inputs @ params["w"] + params["b"]

    return tasks.from_functions(
        lambda key: {"b": jnp.zeros(()), "w": jnp.zeros(4)}, predict, (x, y), (x, y), N,
        loss=lambda outputs, targets: (outputs - targets) ** 2, batch_size=4,
    )  # fmt: skip


def schedule(text, steps=1, pushes=60):
    policy = policies.parse(text, N)
    return simulate.schedule(policy, SPEEDS, pushes, SEED, local_steps=steps)


def weights(variables):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)])


def final(task, server, trace, **settings):
    return weights(replay.replay(task, server, trace, SEED, **settings).variables)


def plain(task, server, local, trace, kept=False, fresh_at=()):
    """What the words of `UpdateConfig` say, one row after the other.

    `fresh_at` are rows at which the pusher's kept state begins anew.
    """
    key, steps = jax.random.key(SEED), trace.local_steps
    versions = [task.init(key).params]
    outer, inner, waiting = server.init(versions[0]), {}, []

    @jax.jit
    def step(w, state, worker, clock, number):
        index = (clock - 1) * steps + number
        batch = task.batch(task.data, key, worker, index)
        slope = jax.grad(lambda p: task.loss(tasks.Variables(p, {}), batch, key)[0])(w)
        change, state = local.update(slope, state, w)
        return optax.apply_updates(w, change), state

    for row in range(len(trace)):
        pulled = versions[trace.pulled[row]]
        worker, clock = jnp.int32(trace.worker[row]), jnp.int32(trace.clock[row])
        state = inner.get(int(worker)) if kept and row not in fresh_at else None
        state = local.init(pulled) if state is None else state
        w = pulled
        for number in range(steps):
            w, state = step(w, state, worker, clock, jnp.int32(number))
        inner[int(worker)] = state
        if trace.weight[row] > 0:
            waiting.append(jax.tree.map(jnp.subtract, pulled, w))
        if trace.committed[row]:
            mean = jax.tree.map(lambda *each: sum(each) / len(each), *waiting)
            numbers = {"epoch": jnp.float32(0), "server_updates": jnp.int32(0)}
            change, outer = server.update(mean, outer, versions[-1], **numbers)
            versions.append(optax.apply_updates(versions[-1], change))
            waiting = []
    return weights(versions[-1])


@pytest.mark.often(2)
@pytest.mark.parametrize(
    ("steps", "loop"),
    [pytest.param(4, *loop.values, id=f"4-{loop.id}") for loop in LOOPS]
    + [pytest.param(1, *loop.values, id=f"1-{loop.id}") for loop in LOOPS[::2]],
)
def test_plain_sgd_inside_is_the_gradient_form(task, loop, steps):
    """U = 1, sgd(gamma) in sgd(1) is SGD; else eta / gamma outside stands for eta."""
    trace = schedule("k_async(k=2)", steps)
    gamma, eta = 0.02, 0.02 if steps == 1 else 0.03
    wanted = final(
        task, optimizers.sgd(eta), trace, local_optimizer=optimizers.sgd(gamma), **loop
    )
    server = optimizers.sgd(eta / gamma)
    found = final(
        task, server, trace, local_optimizer=optimizers.sgd(gamma),
        push="displacement", **loop,
    )  # fmt: skip
    assert np.abs(wanted).max() > 0.3  # it went somewhere
    # A displacement is a difference of numbers near 3: rounding of 60 commits.
    np.testing.assert_allclose(found, wanted, atol=3e-5)


def test_federated_averaging_is_the_mean_of_the_workers_parameters(task):
    """In NumPy alone but for the batches: no optimiser, no push, no gradient by JAX."""
    steps, rounds, gamma = 5, 6, 0.05
    trace = simulate.schedule(
        policies.bsp(N), delays.constant([1.0] * N), N * rounds, local_steps=steps
    )
    key, server, batch = jax.random.key(SEED), np.zeros(5), jax.jit(task.batch)
    for turn in range(rounds):
        results = []
        for worker in range(N):
            w = server.copy()
            for number in range(steps):
                index = jnp.int32(turn * steps + number)
                x, y = batch(task.data, key, jnp.int32(worker), index)
                x = np.hstack([np.ones((4, 1)), np.asarray(x, float)])
                w -= gamma * 2 / 4 * x.T @ (x @ w - np.asarray(y, float))
            results.append(w)
        server = np.mean(results, axis=0)
    found = final(
        task, optimizers.sgd(1.0), trace, local_optimizer=optax.sgd(gamma),
        push="displacement",
    )  # fmt: skip
    np.testing.assert_allclose(found, server, atol=2e-5)


@pytest.mark.often(2)
@pytest.mark.parametrize("loop", LOOPS)
def test_diloco_is_adamw_inside_and_nesterov_outside(task, loop):
    trace = schedule("bsp()", steps=6, pushes=24)
    local = optax.adamw(0.05, weight_decay=0.01)
    found = final(
        task, NESTEROV, trace, local_optimizer=local, push="displacement", **loop
    )
    np.testing.assert_allclose(found, plain(task, NESTEROV, local, trace), rtol=2e-5)


RULES = ["asp()", "k_sync(k=2)", "ringmaster(threshold=2)"]


@pytest.mark.often(2)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("text", RULES)
def test_a_kept_state_follows_every_finished_computation(task, text, loop):
    """Discarded pushes carry it on, cancelled computations do not."""
    trace = schedule(text, steps=2)
    assert (trace.restarts.sum() > 0) == (text == "k_sync(k=2)")
    assert trace.accepted.all() == (text != "ringmaster(threshold=2)")
    server, local = optimizers.sgd(0.5), optax.adam(0.05)
    settings = {"local_optimizer": local, "push": "displacement", **loop}
    found = final(task, server, trace, local_state="kept", **settings)
    wanted = plain(task, server, local, trace, kept=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(found - final(task, server, trace, **settings)).max() > 1e-3


@pytest.mark.parametrize("loop", [LOOPS[0], LOOPS[2]])
def test_a_worker_that_comes_back_begins_anew(task, loop):
    """The rows are those of a run without a leave: only what is kept differs."""
    trace = schedule("asp()")
    gone = 30 + int(np.flatnonzero(trace.worker[30:] != 0)[0])  # a push of another
    events = [Event(gone, 0.0, "leave", 0), Event(gone + 1, 0.0, "join", 0)]
    broken = dataclasses.replace(trace, events=tuple(events))
    fresh = gone + int(np.flatnonzero(trace.worker[gone:] == 0)[0])
    server, local = optimizers.sgd(0.5), optax.adam(0.05)
    settings = {"local_optimizer": local, "push": "displacement", **loop}
    found = final(task, server, broken, local_state="kept", **settings)
    wanted = plain(task, server, local, trace, kept=True, fresh_at=[fresh])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    whole = final(task, server, trace, local_state="kept", **settings)
    assert np.abs(found - whole).max() > 1e-4


def test_a_run_goes_on_with_the_states_that_it_saved(task, tmp_path):
    trace = schedule("asp()", steps=2)
    for loop in ("compiled", "host"):
        settings = {
            "local_optimizer": optax.adam(0.05), "push": "displacement", "loop": loop,
            "local_state": "kept",
        }  # fmt: skip
        server, folder = optimizers.sgd(0.5), tmp_path / loop
        saving = {"checkpoint_dir": folder, "checkpoint_every": 20}
        wanted = final(task, server, trace, **settings, **saving)
        for path in folder.glob("60*"):  # as if it had been killed before
            path.unlink()
        assert list(folder.glob("40*"))
        found = final(task, server, trace, **settings, **saving)
        np.testing.assert_array_equal(found, wanted)


def test_no_worker_is_twice_in_a_wavefront():
    worker = np.array([0, 1, 0, 2, 1])
    pulled, version = np.zeros(5, np.int32), np.arange(5, dtype=np.int32)
    first, count = wavefronts.wavefronts(pulled, version, 0, 5, 4, worker)
    assert first.tolist() == [0, 2] and count.tolist() == [2, 3]
    assert wavefronts.wavefronts(pulled, version, 0, 5, 4)[1].tolist() == [4, 1]


def test_integers_of_a_state_travel_with_their_bits():
    """Counts are numbers so small that arithmetic might flush them to 0."""
    state = optax.adam(0.1).init({"w": jnp.ones((2, 2)), "b": jnp.ones(3)})
    state = jax.tree.map(lambda leaf: leaf + 7, state)
    config = UpdateConfig(
        optax.sgd(1.0), optax.adam(0.1), push="displacement", local_state="kept"
    )
    variables = tasks.Variables({"w": jnp.ones((2, 2)), "b": jnp.ones(3)}, {})
    task = tasks.quadratic(2, dim=3)._replace(init=lambda key: variables)
    layout = flat.local_vectors.layout(task, config)
    vector = jax.jit(flat.local_vectors.flatten)(state)
    assert layout.size == vector.size == 15
    back = jax.jit(layout.unflatten)(jnp.copy(vector))
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_settings_side_by_side_are_those_one_by_one(task):
    trace = schedule("asp()", steps=3)
    made = replay.sweep(
        task, _pair, [[0.5, 1.0], [0.02, 0.05]], trace, [SEED], push="displacement"
    )
    for row, (outer, inner) in enumerate([(0.5, 0.02), (1.0, 0.05)]):
        alone = replay.replay(
            task, optimizers.sgd(outer), trace, SEED, push="displacement",
            local_optimizer=optimizers.sgd(inner), eval_every_commits=len(trace),
        )  # fmt: skip
        wanted = alone.history.last("loss")
        assert made.measures["loss"][row, 0, -1] == pytest.approx(wanted, rel=1e-5)


def _pair(outer, inner):
    return optimizers.sgd(outer), optimizers.sgd(inner)


def test_another_kind_of_push_is_another_run(task):
    both = {"optimizer": optax.sgd(1.0), "local_optimizer": optax.sgd(0.1)}
    configs = [
        UpdateConfig(**both, local_steps=2),
        UpdateConfig(**both, local_steps=2, push="displacement"),
        UpdateConfig(**both, local_steps=2, local_state="kept"),
    ]
    known = {identity.of_run(task, config, 0) for config in configs}
    assert len(known) == 3


REFUSED = {
    "push must be one of 'gradients', 'displacement', got 'weights'": {
        "push": "weights"
    },
    "local_state must be one of 'fresh', 'kept', got 'old'": {"local_state": "old"},
    "needs a local optimizer": {"push": "displacement", "local_optimizer": None},
    "takes squares of gradients": {
        "push": "displacement",
        "aggregate": "compensated(strength=0.1)",
    },
    "no local optimizer runs": {"local_state": "kept"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_do_not_go_together_are_refused(message):
    given = {"optimizer": optax.sgd(1.0), "local_optimizer": optax.sgd(0.1)}
    with pytest.raises(ValueError, match=message):
        UpdateConfig(**(given | REFUSED[message]))


def test_a_state_does_not_travel_in_half_the_bits(task):
    config = UpdateConfig(
        optax.sgd(1.0), optax.adam(0.1), push="displacement", local_state="kept"
    )
    with pytest.raises(
        ValueError, match="needs pushes and pulls in float32, .* bfloat"
    ):
        flat.Functions(task, config, flat.wire(push="bfloat16"))
