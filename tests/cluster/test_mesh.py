"""Workers that have several devices each, on real transports."""

import functools

import harness
import numpy as np
import pytest

from abs_dssp import replay, tasks
from abs_dssp.cluster import keys
from abs_dssp.history.traces import Trace
from abs_dssp.training import flat


@functools.cache
def task(num_workers):
    """A network whose layers four devices can divide."""
    return tasks.digits(num_workers, model="mlp(hidden=[32,16])", batch_size=8)


def train(out, text="asp()", *, num_workers=2, devices=4, **settings):
    return harness.train(
        out, text, num_workers=num_workers, problem=task(num_workers), pushes=30,
        devices_per_worker=devices, **settings,
    )  # fmt: skip


def replayed(trace, **settings):
    given = {"local_optimizer": harness.LOCAL} | settings
    return replay.replay(task(trace.num_workers), harness.OPTIMIZER, trace, 7, **given)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("asp()", {"transport": "reference"}),
        ("ringmaster(threshold=2,stop=True)", {"local_steps": 3}),
        ("bsp()", {"transport": "tcp", "formats": ("bfloat16", "bfloat16")}),
        ("k_async(k=2)", {"local_steps": 2} | harness.KEPT),
    ],
    ids=["reference", "cancelled", "tcp", "kept"],
)
def test_a_run_replays_bit_for_bit_from_its_file(text, settings, tmp_path):
    key = str(tmp_path / "key")
    keys.make(key)
    result = train(tmp_path, text, key_file=key, **settings)
    assert len(result.trace) == 30 and result.stopped == "end"
    trace = Trace.load(result.trace.save(tmp_path / "trace.npz"))
    assert trace.split["devices"] == 4
    same = {k: v for k, v in settings.items() if k in harness.KEPT}
    if "formats" in settings:
        same["formats"] = flat.wire(*settings["formats"])
    again = replayed(trace, **same)
    kept = harness.saved(tmp_path)
    assert harness.vector(again).tobytes() == kept.tobytes()
    np.testing.assert_array_equal(again.history.push_loss, result.history.push_loss)
    # What one device computes agrees, but for the order of its sums.
    alone = replayed(trace, loop="compiled") if not same else again
    np.testing.assert_allclose(harness.vector(alone), kept, rtol=1e-3, atol=1e-4)
