"""Servers of fragments: their logs become one trace, which replays to the same bits."""

import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import fragment_program as program
import harness
import numpy as np
import pytest

from abs_dssp import policies, replay
from abs_dssp.cluster import (
    core,
    fragment_log,
    push_store,
    system,
    topology,
)
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.push_store import PushStore, Turn
from abs_dssp.cluster.whereabouts import Whereabouts
from abs_dssp.cluster.worker_errors import EndedError
from abs_dssp.history import rederivation
from abs_dssp.traces import Trace
from abs_dssp.training import checkpoints
from scripts import one_device

N, F = 3, 3
ALONE = topology.Options()


def replayed(trace):
    """What the trace leads to."""
    found = replay.replay(
        harness.divisible(trace.num_workers), program.OUTER, trace, program.SEED,
        **program.DILOCO,
    )  # fmt: skip
    return harness.vector(found), found.history.push_loss


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder and result of a run within this process."""
    out = tmp_path_factory.mktemp("run")
    cluster = topology.alone(ALONE, N)
    return out, program.train(out, "ssp(s=1)", F, 1, cluster, 60)


def test_a_run_ends_with_the_bits_of_its_replay(made):
    out, result = made
    trace = Trace.load(result.trace.save(out / "trace.npz"))
    assert result.stopped == "end" and 45 <= len(trace) <= 60 and trace.recorded
    assert not trace.takes, "everybody took what it was released with, and no more"
    vector, losses = replayed(trace)
    np.testing.assert_array_equal(vector, harness.vector(result))
    np.testing.assert_array_equal(losses, result.history.push_loss)
    start, _ = replayed(trace[:0])
    assert np.mean(start != vector) > 0.8, "some inputs are always 0, and move nothing"


def test_pushes_that_the_rule_discards_are_replayed_too(tmp_path):
    """Their workers have gone on from them all the same."""
    rule, cluster = "ringmaster(threshold=1)", topology.alone(ALONE, N)
    result = program.train(tmp_path, rule, 2, 1, cluster, 40, 0.02)
    assert 0 < result.trace.accepted.sum() < len(result.trace)
    vector, losses = replayed(result.trace)
    np.testing.assert_array_equal(vector, harness.vector(result))
    np.testing.assert_array_equal(losses, result.history.push_loss)


def test_each_server_decided_as_its_rule_does(made):
    trace = made[1].trace
    for fragment in range(F):
        mine = trace.of_fragment(fragment)
        again = rederivation.rederive(policies.ssp(N, s=1), mine)
        assert len(mine) >= 12 and rederivation.first_difference(mine, again) == ""


def test_the_same_command_again_finds_the_run_done(made):
    out, result = made
    again = program.train(out, "ssp(s=1)", F, 1, topology.alone(ALONE, N), 60)
    assert again.trace.header == result.trace.header
    np.testing.assert_array_equal(harness.vector(again), harness.vector(result))


def test_logs_that_do_not_fit_each_other_are_told_of(made):
    out, result = made
    trace = result.trace
    same = {"num_workers": N, "policy": trace.policy, "local_steps": 2}
    whole = [int((trace.fragment == f).sum()) for f in range(F)]
    entries = [
        len(logs.read(fragment_log.folder_of(out, f) / logs.NAME)[1]) for f in range(F)
    ]
    assert entries[0] >= whole[0]
    cut = [entries[0] - whole[0] + 4, *entries[1:]]  # as after a loss of power
    with pytest.raises(LogError, match="one of them has lost its end"):
        fragment_log.read(out, trace.names, trace.sizes, same, cut)


def test_a_version_of_a_lost_history_is_none_of_this_one(made, tmp_path):
    """It has the number of another one, which was made after the loss."""
    out, result = made
    shutil.copytree(out, tmp_path / "run")
    trace = result.trace
    known = {"num_workers": N, "policy": trace.policy, "local_steps": 2}
    path = fragment_log.folder_of(tmp_path / "run", 1) / push_store.TURNS
    rows = path.read_bytes().splitlines(keepends=True)
    worker, clock, number, begins, took = json.loads(rows[-1].partition(b" ")[2])
    assert took, "the last push took something before it was computed"
    other = tuple((f, v, mark ^ 1) for f, v, mark in took)
    rows[-1] = push_store.line(worker, clock, Turn(number, begins, other))
    path.write_bytes(b"".join(rows))
    with pytest.raises(LogError, match="computed from is none of them"):
        fragment_log.read(tmp_path / "run", trace.names, trace.sizes, known)


def test_the_parameters_at_the_end_are_never_those_of_an_earlier_checkpoint(
    made, tmp_path
):
    out, _ = made
    shutil.copytree(out, tmp_path / "run")
    folder = fragment_log.folder_of(tmp_path / "run", 1)
    store = checkpoints.Store(folder / "checkpoints", None)
    (newest,) = itertools.islice(store.newest_first(), 1)
    header, entries, _ = logs.read(folder / logs.NAME)
    # One that was made three entries before, and is all that is left.
    records = len(entries) - 3
    mark = core.mark_of(entries[:records])
    earlier = {"records": records, "core": newest.note["core"] | {"mark": mark}}
    shutil.rmtree(folder / "checkpoints")
    other = checkpoints.Store(folder / "checkpoints", "x")
    other.save(records, newest.leaves, newest.note | earlier)
    assert fragment_log.parameters(tmp_path / "run", F)[1][1] == records
    with pytest.raises(LogError, match="no checkpoint of the end of its log"):
        fragment_log.parameters(tmp_path / "run", F, whole=True)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"text": "k_sync(k=2)"}, "which may cancel computations"),
        ({"text": "k_async(k=2)"}, "waits for a number of pushes may then wait"),
        ({"servers": 2}, "--servers: must be 1 to 1, as many as"),
        ({"target_accuracy": 0.5}, "no server of a run with --fragments sees all"),
        ({"push": "gradients", "local_state": "fresh"}, "need push='displacement'"),
        ({"fragments": 9}, "fragments must be at most 6"),
    ],
)
def test_what_it_cannot_be_is_refused(settings, complaint, tmp_path):
    given = {"text": "asp()", "fragments": F, "servers": 1} | settings
    cluster = topology.alone(ALONE, N)
    with pytest.raises(ValueError, match=complaint):
        program.train(tmp_path, cluster=cluster, pushes=9, **given)


# The files beside a log.


def test_a_full_disk_at_a_checkpoint_does_not_end_the_run(tmp_path):
    full = types.SimpleNamespace(**vars(os))
    store = PushStore(
        tmp_path, 4, np.float32, system=dataclasses.replace(system.REAL, os=full)
    )

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    full.open = refuse
    store.begin(5)  # the vectors that follow lie in the file before
    full.open = os.open
    store.add(0, 1, Turn(1, True, ()), np.ones(4, np.float32))
    store.begin(6)
    np.testing.assert_array_equal(store.vector(0, 1), np.ones(4, np.float32))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("0.vectors", "6.vectors", push_store.TURNS)
    }
    full.open = refuse
    with pytest.raises(LogError, match="No space left on device; start the same"):
        store.vector(0, 1)
    full.open = os.open
    store.close()


# What a run's processes tell each other.


def test_the_end_of_a_shorter_run_is_not_the_end_of_this_one(tmp_path):
    short, long = (
        Whereabouts(tmp_path, {"run": "mine", "limits": [pushes, None, None]})
        for pushes in (60, 90)
    )
    short.publish({"network": "tcp://a:1"})
    assert long(0.0) == {"network": "tcp://a:1"}
    short.withdraw()
    short.end("end")
    assert short.over() == "end" and short(0.0)["over"] == "end"
    assert long.over() == "" and long(0.0) is None


def test_an_interrupted_run_says_so_at_once_and_goes_on_later(tmp_path):
    timer = threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    cluster = topology.alone(ALONE, N)
    with pytest.raises(EndedError, match="interrupted by SIGTERM; the same command"):
        program.train(tmp_path, "asp()", 2, 1, cluster, 10**6, 0.05)
    assert not list(tmp_path.rglob("over.json"))
    counts = [pushes_logged(tmp_path, f) for f in range(2)]
    cluster = topology.alone(ALONE, N)
    result = program.train(tmp_path, "asp()", 2, 1, cluster, 2 * max(counts) + 10)
    assert result.stopped == "end" and len(result.trace) > sum(counts)


class Processes:
    """Three processes, each with a worker; the first two with servers."""

    def __init__(self, out, *settings):
        self._command = [sys.executable, program.__file__, out, *settings]
        self._out, self._running = out, {}

    def start(self, index, pushes):
        more = [index, pushes, 0.1]
        log = open(self._out / f"{index}.log", "ab")
        self._running[index] = subprocess.Popen(
            [*map(str, [*self._command, *more])], stdout=log, stderr=log,
            env=os.environ | one_device(),
        )  # fmt: skip

    def kill(self, index):
        self._running[index].send_signal(signal.SIGKILL)
        self._running[index].wait()

    def wait(self, seconds):
        codes = [process.wait(seconds) for process in self._running.values()]
        logs = [(self._out / f"{i}.log").read_text()[-2000:] for i in range(3)]
        assert codes == [0, 0, 0], "\n".join(logs)

    def close(self):
        for process in self._running.values():
            process.kill()
            process.wait()


def pushes_logged(out, fragment):
    path = fragment_log.folder_of(out, fragment) / push_store.TURNS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def await_pushes(out, fragment, count):
    end = time.monotonic() + 300
    while pushes_logged(out, fragment) < count:
        assert time.monotonic() < end, (out / "0.log").read_text()[-2000:]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["bsp()", "ssp(s=2)", "k_batch_async(k=2)"])
def test_killed_workers_and_servers_leave_one_exact_history(text, tmp_path):
    """A worker dies, then a server with a worker, then the other two servers."""
    processes = Processes(tmp_path, text, F, 2, N)
    try:
        for index in range(N):
            processes.start(index, 200)
        for count, victim in ((8, 2), (18, 1), (30, 0), (40, 2)):
            await_pushes(tmp_path, 0, count)
            processes.kill(victim)
            processes.start(victim, 200)
        processes.wait(300)
    finally:
        processes.close()
    said = "".join((tmp_path / f"{i}.log").read_text() for i in range(3))
    assert said.count("recovered") == 3  # one fragment of process 1, two of process 0
    trace = Trace.load(tmp_path / "trace.npz")
    assert len(trace) >= 190 and sum(take.begins for take in trace.takes) >= 3
    assert {event.kind for events in trace.beside for event in events} >= {"join"}
    vector, _ = replayed(trace)
    np.testing.assert_array_equal(vector, np.load(tmp_path / "result.npy"))
    for fragment in range(F):
        mine = trace.of_fragment(fragment)
        again = rederivation.rederive(policies.parse(text, N), mine)
        assert rederivation.first_difference(mine, again) == ""


def test_recovery_without_a_checkpoint_reads_every_push(tmp_path):
    """As if a server had been killed before its first checkpoint, that of the end."""
    out, copy = tmp_path / "run", tmp_path / "copy"
    seldom = dataclasses.replace(program.SETTINGS, checkpoint=1000.0)
    cluster = topology.alone(ALONE, N)
    result = program.train(out, "ssp(s=1)", F, 1, cluster, 60, settings=seldom)
    subprocess.run(["cp", "-r", out, copy], check=True)
    for fragment in range(F):
        folder = fragment_log.folder_of(copy, fragment)
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
    cluster = topology.alone(ALONE, N)
    again = program.train(copy, "ssp(s=1)", F, 1, cluster, 60)
    np.testing.assert_array_equal(harness.vector(again), harness.vector(result))
