"""Displacements and kept local optimisers on real workers: the replay has the bits."""

import signal

import harness
import numpy as np
import pytest
import test_recovery

from abs_dssp import replay
from abs_dssp.cluster import keys, log


def replayed(trace, **settings):
    return replay.replay(harness.task(), harness.OPTIMIZER, trace, 7, **settings)


@pytest.mark.often(2)
@pytest.mark.parametrize(
    ("text", "transport", "steps", "local_state"),
    [
        ("asp()", "shm", 1, "fresh"),
        ("ringmaster(threshold=2)", "shm", 2, "kept"),  # discards pushes
        ("k_sync(k=2)", "tcp", 2, "kept"),  # cancels computations
    ],
)
def test_a_run_replays_bit_for_bit(text, transport, steps, local_state, tmp_path):
    settings = harness.KEPT | {"local_state": local_state}
    key = str(tmp_path / "key")
    keys.make(key)
    result = harness.train(
        tmp_path, text, local_steps=steps, transport=transport, pushes=80,
        key_file=key, **settings,
    )  # fmt: skip
    trace = result.trace.validate()
    assert trace.accepted.all() == (text != "ringmaster(threshold=2)")
    if text != "k_sync(k=2)":  # where a worker that starts late is never cancelled
        assert not trace.restarts.any()
    again, kept = replayed(trace, **settings), harness.saved(tmp_path)
    assert harness.vector(again).tobytes() == kept.tobytes()
    np.testing.assert_array_equal(again.history.push_loss, result.history.push_loss)
    other = "kept" if local_state == "fresh" else "fresh"
    differs = replayed(trace, **(settings | {"local_state": other}))
    assert harness.vector(differs).tobytes() != kept.tobytes()


@pytest.mark.slow
def test_a_kept_state_outlives_every_process(tmp_path):
    """Server and workers are killed together: what is kept comes from the log."""
    arguments = ("train", tmp_path, "asp()", 200, 0.005, "kept")
    running = test_recovery.start(tmp_path, *arguments)
    try:
        test_recovery.wait_for_records(tmp_path, running, 60)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    running = test_recovery.start(tmp_path, *arguments)
    assert running.wait(120) == 0, (tmp_path / "stderr").read_text()
    _, records, _ = log.read(tmp_path / log.NAME)
    settings = {"num_workers": 4, "policy": "asp()", "seed": 7}
    trace = log.to_trace(records, settings).validate()
    assert len(trace) == 200
    again = replayed(trace, **harness.KEPT)
    assert harness.vector(again).tobytes() == harness.saved(tmp_path).tobytes()
