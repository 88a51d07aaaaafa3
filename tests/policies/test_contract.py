"""What every policy must obey, whatever it decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from abs_dssp import policies
from abs_dssp.policies import analysis

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
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_the_table_names_every_policy():
    named = {case.text.partition("(")[0] for case in support.CASES}
    assert named == {*policies.names(), "growing", "weighted"}


# Derived by hand for N = 4: staleness, gap, least and most pushes in a commit. SSP's
# staleness: the three others make 2 s + 1 pushes each at most while a worker computes.
BOUNDS = {
    "bsp()": (0, 0, 4, 4),
    "local_sgd()": (0, 0, 4, 4),
    "asp()": (None, None, 1, 1),
    "ssp(s=0)": (3 * 1, 0, 1, 1),
    "ssp(s=3)": (3 * 7, 3, 1, 1),
    "dssp(s_lower=1,s_upper=4)": (None, None, 1, 1),
    "dssp()": (None, None, 1, 1),
    'dssp(s_lower=1,s_upper=4,variant="bounded")': (3 * 9, 4, 1, 1),
    'dssp(s_lower=0,s_upper=7,variant="bounded")': (3 * 15, 7, 1, 1),
    "k_sync(k=2)": (0, None, 2, 2),
    "k_batch_sync(k=3)": (0, None, 3, 3),
    "k_async(k=2)": (None, None, 2, 2),
    "k_batch_async(k=3)": (None, None, 3, 3),
    "adasync(k0=2)": (None, None, 2, 4),
    'adasync(k0=1,base="k_batch_sync",interval=1.0)': (0, None, 1, 4),
    "sa_adasync(k0=1)": (None, None, 1, 4),
    "abs(k0=1,a=3,tau_max=2)": (2, None, 1, 4),
    "abs(k0=2,a=5)": (2, None, 2, 4),  # ceil(N / K^0)
    'abs(k0=1,a=0.5,growth="loss")': (4, None, 1, 4),
    # K is at least R^0 / 16 and at most 2 R, where R^0 is N / 2 and R is `noise`.
    "abs_dssp()": (4, None, 1, 4),
    "abs_dssp(noise=7.0,growth=1.25,memory=0.5)": (4, None, 1, 14),
    "m_sync(m=2)": (0, None, 2, 2),
    "rennala(batch_size=5)": (0, None, 5, 5),
    "growing(k_batch_sync(k=7), first=2, growth=1.25)": (0, None, 2, 7),
    "growing(k_async(k=3), first=1)": (None, None, 1, 3),
    "ringmaster(threshold=3)": (2, None, 1, 1),
    "ringmaster(threshold=2,stop=True)": (1, None, 1, 1),
    # The sum of the counts is at least n times their harmonic mean, 7 / n.
    "malenia(batch_size=7)": (0, None, 7, None),
    "ringleader()": (None, None, None, None),
    "mindflayer(trials=2,seconds=4.0)": (0, None, 1, 4 * 2),
    "quorum(k=2)": (None, None, 2, 4),
    "quorum(k=1,grace=2.0)": (None, None, 1, 4),
    "deadline(k=2.0,floor=0.0625)": (0, None, 1, 4),
    "rescaled()": (None, None, 1, 1),
    "fedbuff(k=3)": (None, None, 3, 3),
    "fedasync()": (None, None, 1, 1),
    "weighted(asp(), koloskova(concurrency=2,limit=1.5))": (None, None, 1, 1),
    "weighted(asp(), mishchenko(concurrency=2))": (None, None, 1, 1),
    "zipline(lookahead=3)": (None, None, 1, 1),
    "sync_switch(at=5)": (None, None, None, None),
    "weighted(k_async(k=2), polynomial(a=0.5))": (None, None, 2, 2),
}
# Rules that commit every push alone, keep a pusher waiting, or cancel computations, and
# the aggregator, where it is not the mean, that a rule is meant for.
EVERY_PUSH = {"asp", "ssp", "dssp", "rescaled", "fedasync", "zipline"}
NOBODY_WAITS = {
    *("asp", "rescaled", "fedasync", "fedbuff", "k_batch_sync", "k_batch_async"),
    *("abs_dssp", "rennala", "ringmaster", "malenia", "ringleader"),
}
RESTARTS = {"deadline", "k_sync", "m_sync", "k_batch_sync", "abs", "abs_dssp"}
RESTARTS |= {"mindflayer"}
READS_LOSS = {"adasync", "sa_adasync"}
AGGREGATES = {
    "malenia": "workers",
    "ringleader": "table",
    "sa_adasync": "count",
    **dict.fromkeys(("rescaled", "fedbuff", "fedasync", "abs_dssp"), "sum"),
}


@EVERY
def test_a_rule_states_what_was_derived(case):
    stated = case.properties(N)
    assert BOUNDS[case.text] == (
        stated.max_staleness,
        stated.max_gap,
        stated.min_commit,
        stated.max_commit,
    )
    batch, stops = '"k_batch_sync"' in case.text, "stop=True" in case.text
    inner = case.text.removeprefix("weighted(").removeprefix("growing(")
    name = inner.partition("(")[0]
    assert stated.commits_every_push == (name in EVERY_PUSH)
    assert stated.waits == (name not in NOBODY_WAITS and not batch)
    assert stated.restarts == (name in RESTARTS or batch or stops)
    assert stated.reads_loss == (name in READS_LOSS or '"loss"' in case.text)
    weighted = "sum" if inner != case.text and name in EVERY_PUSH else "mean"
    assert stated.aggregate == AGGREGATES.get(name, weighted)


@EVERY
def test_what_is_stated_of_the_loss_is_what_tracing_finds(case):
    policy = policies.parse(case.text, N)
    silent = policy._replace(properties=policies.Properties())
    assert policy.properties.reads_loss == policies.reads_loss(silent, N)


@EVERY
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_state_and_decision_keep_their_types(case, x64):
    with jax.enable_x64(x64):
        policy = policies.parse(case.text, N)
        clocks = policies.initial_clocks(N, jnp.float64 if x64 else jnp.float32)
        state = jax.eval_shape(policy.init)
        arguments = (clocks, jnp.int32(0), clocks.latest[0])
        for decide in analysis.functions(policy).values():
            after, decision = jax.eval_shape(decide, state, *arguments)
            *decision, wake = decision
            assert wake is None or shapes(wake) == shapes(clocks.latest[0])
            assert shapes(after) == shapes(state)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            assert [leaf.shape for leaf in decision] == [(), (), (N,), (N,)]
            assert [leaf.dtype for leaf in decision] == [jnp.float32, bool, bool, bool]


@pytest.mark.parametrize("case", support.sparse(support.CASES))
def test_jit_no_jit_and_vmap_agree(case):
    policy = policies.parse(case.text, N)
    generator = np.random.default_rng(0)
    inputs = [random_clocks(generator) for _ in range(8)]
    clocks, workers = jax.tree.map(jnp.asarray, stacked(inputs))
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


def stacked(inputs):
    """Many of `random_clocks`' answers as one."""
    clocks = jax.tree.map(lambda *leaves: np.stack(leaves), *[c for c, _ in inputs])
    return clocks, np.stack([worker for _, worker in inputs])


@EVERY
def test_only_the_living_run_and_only_waiters_are_released(case):
    policy = policies.parse(case.text, N)
    stated = policy.properties
    generator = np.random.default_rng(1)
    inputs = [random_clocks(generator, stated.waits) for _ in range(60)]

    @jax.jit
    @jax.vmap
    def decide(clocks, worker):
        start, now = policy.init(), jnp.float32(20)
        pusher = policies.only(worker, N)
        gone = clocks._replace(alive=clocks.alive & ~pusher)
        _, pushed = policy.on_push(start, clocks, worker, now)
        _, left = policy.on_leave(start, gone, worker, now)
        return pushed, left

    many = jax.device_get(decide(*stacked(inputs)))
    for i, (clocks, worker) in enumerate(inputs):
        decision, left = jax.tree.map(lambda leaf, i=i: leaf[i], many)
        pusher = np.arange(N) == int(worker)
        waiting, alive = np.asarray(clocks.waiting), np.asarray(clocks.alive)
        release, restart = decision.release, decision.restart
        assert not np.any(release & ~alive)
        assert not np.any(release & ~(waiting | pusher))
        assert not np.any(restart & ~(alive & ~waiting & ~pusher))
        assert stated.restarts or not restart.any()
        assert np.isfinite(decision.weight) and decision.weight >= 0
        assert not (stated.commits_every_push and not decision.commit)
        computing = alive & ~waiting & ~pusher
        assert np.any(computing | release), "nobody computes any more"

        release, alive = left.release, alive & ~pusher
        assert not np.any(release & ~(alive & waiting))
        if (
            stated.commits_every_push
        ):  # others may wait for a living worker that is behind
            continue
        computing = alive & (~waiting | release)
        assert np.any(computing) or not np.any(alive & waiting), "all are left waiting"


@EVERY
def test_text_and_policy_describe_each_other(case):
    policy = policies.parse(case.text, N)
    assert policies.parse(case.text, N) is policy
    assert policies.parse(policies.describe(policy), N) is policy


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
