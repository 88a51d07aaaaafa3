"""Every policy on real workers: the trace is lawful, the decisions are the policy's,
and the parameters follow from the trace, bit for bit."""

import functools

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import support

from abs_dssp import policies, replay, tasks, whatif
from abs_dssp.cluster import keys
from abs_dssp.history import rederivation
from abs_dssp.training import flat, row_by_row, update

# One each of those that wait for all, for a gap and for k pushes, read the loss,
# cancel, weigh, look ahead and have deadlines: all have the one state machine.
_OFTEN = (
    "bsp()",
    "dssp()",
    "k_sync(k=2)",
    'abs(k0=1,a=0.5,growth="loss")',
    "ringmaster(threshold=2,stop=True)",
    "fedasync()",
    "zipline(lookahead=3)",
    "quorum(k=2)",
)


@pytest.mark.parametrize(
    "case",
    support.sparse(c._replace(often=c.text in _OFTEN) for c in support.CASES),
)
def test_a_real_run_is_lawful_and_replays_bit_for_bit(case, tmp_path):
    """The clock of these workers is this machine's: no two runs are alike."""
    result = harness.train(tmp_path, case.text)
    trace = result.trace.validate()
    assert len(trace) == 200 and result.stopped == "end"
    assert trace.recorded
    policy = policies.parse(case.text, 4)
    losses = result.history.push_loss
    first = 0.0
    if policies.reads_loss(policy, 4):
        rule = update.rule(harness.OPTIMIZER)
        first = row_by_row.HostEngine(harness.task(), rule, 7, 1).objective()
    again = rederivation.rederive(policy, trace, losses, first)
    assert rederivation.first_difference(trace, again) == ""
    # The recorded times, scheduled in virtual time, give the same rows.
    virtual = whatif.reschedule(
        trace, policy, replayable=True,
        losses=losses if policies.reads_loss(policy, 4) else None, first=first,
    )  # fmt: skip
    assert rederivation.first_difference(trace, virtual) == ""
    replayed = replay.replay(
        harness.task(), harness.OPTIMIZER, trace, 7, local_optimizer=harness.LOCAL
    )
    kept = harness.saved(tmp_path)
    assert harness.vector(replayed).tobytes() == kept.tobytes()
    assert harness.vector(result).tobytes() == kept.tobytes()
    np.testing.assert_array_equal(replayed.history.push_loss, losses)


@pytest.mark.often(3)
@pytest.mark.parametrize("transport", ["reference", "tcp"])
@pytest.mark.parametrize(
    "formats",
    [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")],
)
def test_every_transport_and_format_replays(transport, formats, tmp_path):
    key = str(tmp_path / "key")
    keys.make(key)
    result = harness.train(
        tmp_path, "abs(k0=1,a=50,tau_max=2)", transport=transport, formats=formats,
        key_file=key, local_steps=2, pushes=80,
    )  # fmt: skip
    replayed = replay.replay(
        harness.task(), harness.OPTIMIZER, result.trace, 7,
        local_optimizer=harness.LOCAL, formats=flat.wire(*formats),
    )  # fmt: skip
    assert harness.vector(replayed).tobytes() == harness.saved(tmp_path).tobytes()
    if "bfloat16" in formats:  # and the rounding was really there
        exact = replay.replay(
            harness.task(), harness.OPTIMIZER, result.trace, 7,
            local_optimizer=harness.LOCAL,
        )  # fmt: skip
        assert harness.vector(exact).tobytes() != harness.saved(tmp_path).tobytes()


@pytest.mark.often(2)
@pytest.mark.parametrize(
    ("text", "aggregate"),
    [
        ("asp()", "compensated(strength=0.3)"),
        ("k_async(k=2)", "compensated(strength=2.0,adaptive=True)"),
        ("malenia(batch_size=7)", "workers"),
        ("ringleader()", "table"),
    ],
)
def test_other_aggregates_replay_bit_for_bit(text, aggregate, tmp_path):
    result = harness.train(tmp_path, text, aggregate=aggregate)
    settings = {"local_optimizer": harness.LOCAL, "aggregate": aggregate}
    replayed = replay.replay(
        harness.task(), harness.OPTIMIZER, result.trace, 7, **settings
    )
    assert harness.vector(replayed).tobytes() == harness.saved(tmp_path).tobytes()
    compiled = replay.replay(
        harness.task(), harness.OPTIMIZER, result.trace, 7, loop="compiled", **settings
    )
    found, expected = harness.vector(compiled), harness.saved(tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


_SEVERAL = ("batch", "fedbuff", "mindflayer")  # pushes per commit, of one worker too
_ALONE = [
    c.text
    for c in support.CASES
    if c.least == 1 and not any(name in c.text for name in _SEVERAL)
]
# Of those that wait, cancel, read the loss and look ahead in time, one each.
_ALONE_OFTEN = (
    "ssp(s=0)",
    "ringmaster(threshold=2,stop=True)",
    'abs(k0=1,a=0.5,growth="loss")',
    "zipline(lookahead=3)",
)


@functools.cache
def plain_training(steps):
    """The parameters after so many steps of optax on the batches of one worker."""
    task = harness.task(1)
    key = jax.random.key(7)
    params = task.init(key).params
    optimizer = optax.chain(optax.trace(0.5), optax.sgd(0.1))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, index):
        batch = task.batch(task.data, key, jnp.int32(0), index)

        def loss(params):
            return task.loss(tasks.Variables(params, {}), batch, key)[0]

        change, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    for index in range(steps):
        params, state = step(params, state, jnp.int32(index))
    return params


@pytest.mark.often(4)
@pytest.mark.parametrize(
    ("text", "aggregate"),
    [
        ("asp()", "sum"),
        ("bsp()", "sum"),
        *((text, "mean") for text in _ALONE_OFTEN),
        *(pytest.param(text, "mean", marks=pytest.mark.slow) for text in _ALONE),
    ],
)
def test_one_worker_alone_is_plain_optax(text, aggregate, tmp_path):
    """With one worker every push is the only one of its commit, and none is stale."""
    result = harness.train(
        tmp_path, text, num_workers=1, pushes=40, aggregate=aggregate,
        transport="reference",
    )  # fmt: skip
    mine = jax.tree.leaves(result.variables.params)
    for one, other in zip(mine, jax.tree.leaves(plain_training(40)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
