"""What every policy must obey, whatever it decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from abs_dssp import policies

N = 4
EVERY = pytest.mark.parametrize("case", support.CASES, ids=lambda case: case.text)


def random_clocks(generator, waits=True):
    """Clocks that a run could show, with a living worker that has just pushed."""
    alive = generator.random(N) < 0.8
    worker = int(generator.integers(N))
    alive[worker] = True
    waiting = (generator.random(N) < 0.4 * waits) & alive
    waiting[worker] = False
    version = int(generator.integers(0, 20))
    previous = generator.random(N) * 10
    clocks = support.clocks(
        generator.integers(0, 8, N),
        waiting=np.flatnonzero(waiting),
        gone=np.flatnonzero(~alive),
        pulled=generator.integers(max(0, version - 3), version + 1, N).astype(np.int32),
        version=version,
        pending=int(waiting.sum()),
        times=(previous + generator.random(N), previous),
    )
    return clocks, jnp.int32(worker)


def shapes(tree):
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), tree)


def test_the_table_names_every_policy():
    named = " ".join(case.text for case in support.CASES)
    assert all(f"{name}(" in named for name in policies.names())


@EVERY
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_state_and_decision_keep_their_types(case, x64):
    with jax.enable_x64(x64):
        policy = policies.parse(case.text, N)
        clocks = policies.initial_clocks(N, jnp.float64 if x64 else jnp.float32)
        state = policy.init()
        arguments = (clocks, jnp.int32(0), clocks.latest[0])
        for decide in (policy.on_push, policy.on_leave):
            after, decision = decide(state, *arguments)
            assert shapes(after) == shapes(state)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            assert [leaf.shape for leaf in decision] == [(), (), (N,), (N,)]
            assert [leaf.dtype for leaf in decision] == [jnp.float32, bool, bool, bool]


@pytest.mark.parametrize("case", support.sparse(support.CASES))
def test_jit_no_jit_and_vmap_agree(case):
    policy = policies.parse(case.text, N)
    generator = np.random.default_rng(0)
    inputs = [random_clocks(generator) for _ in range(8)]
    clocks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[c for c, _ in inputs])
    workers = jnp.stack([w for _, w in inputs])
    many = jax.vmap(policy.on_push, in_axes=(None, 0, 0, 0))(
        policy.init(), clocks, workers, clocks.latest[:, 0]
    )
    jitted = jax.jit(policy.on_push)
    for i, (one, worker) in enumerate(inputs):
        plain = policy.on_push(policy.init(), one, worker, one.latest[0])
        compiled = jitted(policy.init(), one, worker, one.latest[0])
        row = jax.tree.map(lambda leaf, i=i: leaf[i], many)
        jax.tree.map(np.testing.assert_array_equal, plain, compiled)
        jax.tree.map(np.testing.assert_array_equal, plain, row)


@EVERY
def test_only_the_living_run_and_only_waiters_are_released(case):
    policy = policies.parse(case.text, N)
    push, leave = jax.jit(policy.on_push), jax.jit(policy.on_leave)
    generator = np.random.default_rng(1)
    for _ in range(60):
        clocks, worker = random_clocks(generator, case.waits)
        pusher = np.arange(N) == int(worker)
        _, decision = push(policy.init(), clocks, worker, jnp.float32(20))
        waiting, alive = np.asarray(clocks.waiting), np.asarray(clocks.alive)
        release, restart = np.asarray(decision.release), np.asarray(decision.restart)
        assert not np.any(release & ~alive)
        assert not np.any(release & ~(waiting | pusher))
        assert not np.any(restart & ~(alive & ~waiting & ~pusher))
        assert case.restarts or not restart.any()
        assert np.isfinite(decision.weight) and decision.weight >= 0
        assert not (case.alone and not decision.commit)
        computing = alive & ~waiting & ~pusher
        assert np.any(computing | release), "nobody computes any more"

        gone = clocks._replace(alive=clocks.alive & ~jnp.asarray(pusher))
        _, decision = leave(policy.init(), gone, worker, jnp.float32(20))
        release, alive = np.asarray(decision.release), np.asarray(gone.alive)
        assert not np.any(release & ~(alive & waiting))
        if case.alone:  # others may wait for a living worker that is behind
            continue
        computing = alive & (~waiting | release)
        assert np.any(computing) or not np.any(alive & waiting), "all are left waiting"


@EVERY
def test_text_and_policy_describe_each_other(case):
    policy = policies.parse(case.text, N)
    assert policies.parse(case.text, N) is policy
    again = policies.parse(policies.describe(policy), N)
    assert policies.describe(again) == policies.describe(policy)


def test_vmap_sweeps_a_parameter():
    def leader_runs(s):
        policy = policies.ssp(num_workers=2, s=s)
        clocks = support.clocks([3, 1])
        return policy.on_push((), clocks, jnp.int32(0), 0.0)[1].release[0]

    runs = jax.vmap(leader_runs)(jnp.arange(4))
    np.testing.assert_array_equal(runs, [False, False, True, True])  # the gap is 2


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("dssp()", False),
        ("abs(k0=1,a=10)", False),
        ('abs(k0=1,a=0.5,growth="loss")', True),
        ("adasync()", True),
        ("weighted(adasync(), inverse())", True),
        ("switch(bsp(), asp(), at=3)", False),
    ],
)
def test_policies_that_read_the_loss_are_found(text, reads):
    found = policies.reads_loss(policies.parse(text, N), N)
    assert found == reads
