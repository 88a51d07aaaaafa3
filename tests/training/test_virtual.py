"""Where a run in virtual time ends, and where it cannot go on."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from abs_dssp import delays, policies, simulate, tasks

SPEEDS = delays.constant([1.0, 1.0])


def stops(after, reads_loss):
    """Releases every pusher, until all have made `after` pushes: then nobody."""

    def on_push(state, clocks, worker, now):
        goes_on = clocks.clock[worker] < after
        if reads_loss:
            goes_on |= clocks.loss < -1  # never: the losses are not negative
        release = policies.only(worker, 2) & goes_on
        yes = jnp.bool_(True)
        return state, policies.Decision(jnp.float32(1), yes, release, ~release & ~yes)

    return policies.Policy(tuple, on_push, on_push)


def train(policy, *limits, **settings):
    task = tasks.quadratic(2, dim=2)
    return simulate.train(task, policy, SPEEDS, optax.sgd(0.1), *limits, **settings)


@pytest.mark.parametrize("reads_loss", [False, True])
def test_a_run_may_end_with_everybody_waiting(reads_loss):
    result = train(stops(2, reads_loss), 4, loss_every=4)
    assert len(result.trace) == 4 and np.isnan(result.trace.wait[2:]).all()


@pytest.mark.parametrize("reads_loss", [False, True])
def test_a_run_whose_workers_all_wait_is_a_deadlock(reads_loss):
    """The segment of four pushes ends with everybody waiting."""
    for limits in ({"num_pushes": 8}, {"until_seconds": 10.0}):
        with pytest.raises(simulate.DeadlockError, match="nobody computes, at push 5"):
            train(stops(2, reads_loss), **limits, loss_every=4)


@pytest.mark.parametrize("reads_loss", [False, True])
@pytest.mark.parametrize("until", [1.0, 1.5, 2.5])
def test_a_deadlock_after_the_end_is_none(reads_loss, until):
    trace = train(stops(3, reads_loss), until_seconds=until, loss_every=8).trace
    expected = simulate.schedule(policies.asp(2), SPEEDS, 6)
    expected = expected[: int((expected.time <= until).sum())]
    np.testing.assert_array_equal(trace.time, expected.time)
    np.testing.assert_array_equal(trace.wait, np.zeros(len(expected)))


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({}, "the run would never end"),
        ({"num_pushes": 0}, "num_pushes must be above 0, got 0"),
        ({"until_seconds": -1.0}, "until_seconds must be above 0, got -1.0"),
        ({"num_pushes": 4, "eval_every_commits": 0}, "eval_every_commits must be"),
        ({"num_pushes": 4, "checkpoint_every": 0}, "checkpoint_every must be at"),
        ({"num_pushes": 4, "local_steps": 0}, "local_steps must be at least 1"),
        ({"num_pushes": 4, "loop": "fast"}, "loop must be one of 'auto', 'compiled'"),
        ({"num_pushes": 4, "loop": "host", "width": 2}, "'host' has width 1, got 2"),
    ],
)
def test_settings_out_of_range_are_refused(limits, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(policies.asp(2), **limits)
