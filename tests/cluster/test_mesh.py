"""Workers that have several devices each, on real transports."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import harness
import numpy as np
import pytest

import scripts
from abs_dssp import replay, simulate
from abs_dssp.cluster import keys, log
from abs_dssp.history.traces import Trace
from abs_dssp.tasks import splitting
from abs_dssp.training import flat


def train(out, text="asp()", *, num_workers=2, devices=4, **settings):
    task = harness.divisible(num_workers)
    settings |= {"problem": task, "devices_per_worker": devices}
    return harness.train(out, text, num_workers=num_workers, pushes=30, **settings)


def replayed(trace, **settings):
    given = {"local_optimizer": harness.LOCAL} | settings
    task = harness.divisible(trace.num_workers)
    return replay.replay(task, harness.OPTIMIZER, trace, 7, **given)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("asp()", {"transport": "reference"}),
        pytest.param(
            "ringmaster(threshold=2,stop=True)",
            {"local_steps": 3},
            marks=pytest.mark.slow,
        ),
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


@pytest.mark.slow
def test_a_killed_run_is_recovered_and_replays_in_another_process(tmp_path):
    """Pushes after the checkpoint are computed again, on the devices of a worker."""
    program = Path(__file__).with_name("program.py")
    text = "ssp(s=2)"
    command = [sys.executable, program, "train", tmp_path, text, "60", "0.01"]
    command = [*map(str, command), "divided"]
    running = subprocess.Popen(command, env=os.environ)
    try:
        end = time.monotonic() + 120
        while not _records(tmp_path) > 20:
            assert running.poll() is None and time.monotonic() < end
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    subprocess.run(command, env=os.environ, check=True, timeout=240)
    header, entries, _ = log.read(tmp_path / log.NAME)
    assert header["split"]["devices"] == 2
    settings = {"num_workers": 4, "policy": text, "seed": 7, "split": header["split"]}
    trace = log.to_trace(entries, settings).validate()
    assert len(trace) == 60
    again = replay.replay(harness.divisible(4), harness.OPTIMIZER, trace, 7)
    assert harness.vector(again).tobytes() == harness.saved(tmp_path).tobytes()


def _records(folder):
    path = folder / log.NAME
    whole = path.exists() and b"\n" in path.read_bytes()
    return len(log.read(path)[1]) if whole else 0


def test_a_replay_on_fewer_devices_is_refused():
    task = harness.divisible(2)
    trace = simulate.schedule("asp()", "constant([1, 2.7])", 3)
    record = splitting.of_task(task, 16).record
    trace = dataclasses.replace(trace, recorded=True, split=record)
    with pytest.raises(ValueError, match="on 16 devices of one process, .* one has 8"):
        replayed(trace)


MISTAKES = {
    "no multiple": (
        ["--cluster=local", "--devices_per_worker=4", "--devices_per_process=6"],
        "--devices_per_process: must be a multiple of --devices_per_worker=4, got 6.",
    ),
    "too few": (
        ["--devices_per_worker=3"],
        "--devices_per_worker: process 0 has 8 devices, which is no multiple of 3",
    ),
    "nothing to divide": (
        ["--devices_per_worker=8", "--task=quadratic(dim=6)"],
        "no parameter of quadratic is divided by sharding='largest'; the largest is",
    ),
    "no such rule": (
        ["--devices_per_worker=8", "--sharding=larges"],
        "sharding: unknown rule 'larges' (did you mean largest?); known:",
    ),
    "no such axis": (
        ["--devices_per_worker=8", "--sharding=test_mesh:last"],
        "sharding: 'test_mesh:last' names axis 7 of Dense_0.bias",
    ),
}


def last(name, shape, devices):
    """A rule of one's own that is wrong."""
    return 7


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    out = tmp_path_factory.mktemp("mistakes")
    train = scripts.ROOT / "experiments" / "train.py"
    commands = []
    for number, (flags, _) in enumerate(MISTAKES.values()):
        alone = ["--num_processes=1", "--process_id=0", "--cluster=auto"]
        alone += [f"--coordinator_address=127.0.0.1:{_free_port()}"]
        more = [] if "--cluster=local" in flags else alone
        commands.append([train, *more, *flags, f"--out={out / str(number)}"])
    path = Path(__file__).parent
    return dict(zip(MISTAKES, scripts.start_many(commands, path=path), strict=True))


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence(answers, name):
    code, printed, errors = answers[name]
    flags, sentence = MISTAKES[name]
    status = 1 if "--cluster=local" in flags else 2  # of a process of a run
    assert code == status and sentence in errors, (printed, errors)
    assert "Traceback" not in errors
