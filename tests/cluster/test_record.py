"""What a run leaves on disk: written whole, by its own run only, and comparable."""

import functools
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import harness
import numpy as np
import pytest

from abs_dssp import delays, files, policies, replay, simulate
from abs_dssp.cluster import keys, log
from abs_dssp.cluster.launcher import launch
from abs_dssp.cluster.messages import Kind
from abs_dssp.experiment import recorded_run
from abs_dssp.report import timeline
from scripts import ROOT


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def trace():
    return simulate.schedule(policies.asp(2), delays.constant([1.0, 2.0]), 30)


@pytest.fixture
def full_disk():
    """No file can grow beyond 10 bytes, until this is called."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    make_room = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, old)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, old[1]))
    yield make_room
    make_room()


def test_the_record_is_written_once_the_log_is_the_runs_own(tmp_path):
    told = []
    begun = {"num_workers": 1, "pushes": 4}
    harness.train(tmp_path, "asp()", begun=lambda: told.append("first"), **begun)
    before = contents(tmp_path)
    with pytest.raises(log.LogError, match="written with policy='asp"):
        harness.train(tmp_path, "bsp()", begun=lambda: told.append("other"), **begun)
    header = {"num_workers": 1, "run": log.read(tmp_path / log.NAME)[0]["run"]}
    running = log.Log(tmp_path, header)
    with pytest.raises(log.LogError, match="another process writes to"):
        harness.train(tmp_path, "asp()", begun=lambda: told.append("twice"), **begun)
    running.close()
    assert told == ["first"]
    assert contents(tmp_path) == before


def test_a_refused_command_leaves_everything_as_it_was(tmp_path):
    """As with the flags of another run, in a process of its own."""
    log.Log(tmp_path, {"num_workers": 1, "run": {"policy": "bsp()"}}).close()
    (tmp_path / "settings.json").write_text('{"policy": "bsp()"}')
    before = contents(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = ROOT / "experiments" / "train.py"
    done = subprocess.run(
        [
            *(sys.executable, script, f"--out={tmp_path}", "--cluster=auto"),
            *(f"--coordinator_address=127.0.0.1:{port}", "--num_processes=1"),
            *("--process_id=0", "--policy=asp()", "--limit_train=64", "--epochs=1"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pushes.log was written with" in done.stderr, done.stderr
    assert contents(tmp_path) == before


def test_two_launchers_do_not_share_a_folder(tmp_path):
    toy = str(Path(__file__).with_name("toy.py"))
    options = ["--processes=1", f"--logs={tmp_path}", f"--out={tmp_path}"]
    command = [sys.executable, "-m", "abs_dssp.cluster.launcher", *options, "--"]
    act = f"say first;touch {tmp_path / 'up'};sleep 60"
    first = subprocess.Popen([*command, toy, act], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 20
        while not (tmp_path / "up").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        before = contents(tmp_path)
        with pytest.raises(ValueError, match="another launcher writes to"):
            launch.run([sys.executable, toy, "say x"], 1, logs=tmp_path, out=tmp_path)
        second = subprocess.run([*command, toy, "say second"], cwd=ROOT, stderr=-1)
        assert second.returncode == 1
        assert second.stderr.startswith(b"error: another launcher writes to")
        assert contents(tmp_path) == before
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)
    stream = io.StringIO()  # the folder is free again, and its log goes on
    command = [sys.executable, toy, "say second"]
    assert launch.run(command, 1, logs=tmp_path, out=tmp_path, stream=stream) == 0
    assert (tmp_path / "process0.log").read_text() == "first\nsecond\n"


def test_a_killed_run_is_compared_where_its_checkpoint_is(tmp_path):
    """A run that was killed has pushes after its newest checkpoint."""
    first = harness.train(tmp_path, "asp()", num_workers=2, pushes=40)
    again = harness.train(tmp_path, "asp()", num_workers=2, pushes=70)
    assert len(again.trace) == 70
    newest = max((tmp_path / "checkpoints").glob("*.npz"), key=lambda p: int(p.stem))
    newest.unlink()
    found = recorded_run.load(tmp_path)
    assert len(found.trace) == len(found.losses) == 70
    count = len(found.checked)
    assert count == 40
    np.testing.assert_array_equal(found.parameters, harness.vector(first))
    computed = replay.replay(
        harness.task(2), harness.OPTIMIZER, found.checked, 7,
        local_optimizer=harness.LOCAL,
    )  # fmt: skip
    assert (
        recorded_run.describe_difference(harness.vector(computed), found.parameters)
        is None
    )
    # What an earlier interruption left is older than the log.
    first.trace.save(tmp_path / "trace.npz")
    assert len(recorded_run.load(tmp_path).trace) == 70


def test_a_checkpoint_of_another_history_is_not_compared_with(tmp_path):
    harness.train(tmp_path, "asp()", num_workers=1, pushes=10)
    path = tmp_path / log.NAME
    size = (path.stat().st_size - len(path.read_bytes().split(b"\n")[0]) - 1) // 10
    os.truncate(path, path.stat().st_size - size)  # the end is lost
    for checkpoint in (tmp_path / "checkpoints").glob("*.npz"):
        if checkpoint.stem != "10":
            checkpoint.unlink()
    with pytest.raises(ValueError, match="holds no checkpoint of this log"):
        recorded_run.load(tmp_path)


def test_a_full_disk_leaves_no_half_key_and_names_the_file(tmp_path, full_disk):
    with pytest.raises(keys.KeyFileError, match="'.*key' cannot be made: File too la"):
        keys.make(tmp_path / "key")
    assert not list(tmp_path.iterdir())
    full_disk()  # now there is room
    assert keys.make(tmp_path / "key") == keys.load(tmp_path / "key")


def test_a_broken_key_file_says_how_to_make_another(tmp_path):
    (tmp_path / "key").touch(mode=0o600)
    with pytest.raises(keys.KeyFileError, match="remove it, make a new one with"):
        keys.load(tmp_path / "key")


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, trace, full_disk):
    (tmp_path / "x.json").write_text("old")
    with pytest.raises(OSError, match=r"too large: '.*x\.json'"):
        files.write(tmp_path / "x.json", "new" * 10)
    with pytest.raises(OSError, match=r"too large: '.*trace\.npz'"):
        trace.save(tmp_path / "trace.npz")
    assert contents(tmp_path) == {tmp_path / "x.json": b"old"}


def test_the_file_for_chrome_holds_the_last_pushes_of_a_long_run(tmp_path, trace):
    events = list(timeline.chrome_events(trace, most=10))
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == ["asp() (the last 10 of 30 pushes)"]
    whole = json.loads(timeline.save_chrome(trace, tmp_path / "t").read_text())
    every = [e for e in whole["traceEvents"] if e.get("cat") == "computing"]
    assert [e for e in events if e.get("cat") == "computing"] == every[20:]
    assert sum(e["ph"] == "i" for e in events) == trace.committed[20:].sum()


def test_a_recovered_log_is_not_kept_in_memory(tmp_path):
    with harness.two(tmp_path) as (_, (one, _), (grant, _)):
        one.push(grant)
        one.expect(Kind.GRANT)
    with harness.Serving(tmp_path) as serving:
        assert serving.server.core.pushes == 1
        assert serving.log.entries == []
