"""Every policy on real workers: the trace is lawful, the decisions are the policy's,
and the parameters follow from the trace, bit for bit."""

import harness
import numpy as np
import pytest
import support

from abs_dssp import decisions, engine, policies, replay, update


@pytest.mark.parametrize("text", [case.text for case in support.CASES])
def test_a_real_run_is_lawful_and_replays_bit_for_bit(text, tmp_path):
    """The clock of these workers is this machine's: no two runs are alike."""
    result = harness.train(tmp_path, text)
    trace = result.trace.validate()
    assert len(trace) == 200 and result.stopped == "end"
    assert trace.recorded
    policy = policies.parse(text, 4)
    losses = result.history.push_loss
    first = 0.0
    if policies.reads_loss(policy, 4):
        rule = update.rule(harness.OPTIMIZER)
        first = engine.HostEngine(harness.task(), rule, 7, 1).objective()
    again = decisions.rederive(policy, trace, losses, first)
    assert decisions.first_difference(trace, again) == ""
    replayed = replay.replay(
        harness.task(), harness.OPTIMIZER, trace, 7, local_optimizer=harness.LOCAL
    )
    kept = harness.saved(tmp_path)
    assert harness.vector(replayed).tobytes() == kept.tobytes()
    assert harness.vector(result).tobytes() == kept.tobytes()
    np.testing.assert_array_equal(replayed.history.push_loss, losses)
