"""The simulated cluster: promises kept, one history per seed, planted faults found."""

import dataclasses
import errno
import os
import random
import selectors
import subprocess
import sys
import time
import types
from pathlib import Path

import harness
import jaxtyping
import numpy as np
import planted
import pytest
import test_core

from abs_dssp.cluster import duties, log, memory, recovery, run, system, transport
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.simulate import faults, seeds, shrink
from abs_dssp.cluster.simulate.disk import Files, Host
from abs_dssp.cluster.simulate.world import Process, World
from abs_dssp.history.events import Entry, Event
from abs_dssp.training.checkpoints import Checkpoint

ALL = faults.Faults()
_SECONDS = 6.0  # of fresh seeds; `scripts/test` gives them a minute more


@pytest.fixture(autouse=True)
def unchecked_types(monkeypatch):
    """jaxtyping keeps one stack of calls per thread: greenlets would mix theirs.

    It would hold the arguments of dead processes' calls, and so their memory.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.slow
def test_fresh_seeds_keep_every_promise():
    """Other seeds at every run; one that breaks is to be reported with its number."""
    first = random.SystemRandom().randrange(10**9)
    end = time.monotonic() + _SECONDS
    counts = 0
    for seed in range(first, first + 10_000):
        kind = seeds.KINDS[seed % len(seeds.KINDS)]
        outcome = seeds.scenario(kind)(seed, ALL).run()
        assert not outcome.violation, (
            f"python -m abs_dssp.cluster.simulate --seed={seed} --kind={kind}: "
            f"{outcome.violation}"
        )
        counts += sum(outcome.faults.values())
        if time.monotonic() > end:
            break
    assert counts > 10


def _digest(seed: int) -> str:
    command = [sys.executable, "-m", "abs_dssp.cluster.simulate", f"--seed={seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_a_seed_gives_one_history(kind):
    scenario = seeds.scenario(kind)
    one = scenario(24, ALL).run()
    assert scenario(24, ALL).run() == one and not one.violation
    assert one.faults and one.starts > 3


@pytest.mark.slow
def test_a_seed_gives_one_history_a_hundred_times_and_in_every_process():
    program = (
        "from abs_dssp.cluster.simulate import faults, scenario\n"
        "runs = [scenario.Scenario(36, faults.Faults()).run() for _ in range(100)]\n"
        "print(*{f'{run.digest:08x}' for run in runs})"
    )  # in a process whose types nobody checks
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [_digest(36)]


@pytest.mark.slow  # `scripts/test` runs it in any case
def test_processes_side_by_side_run_the_same_seeds():
    command = [sys.executable, "-m", "abs_dssp.cluster.simulate", "--seeds=24"]
    done = [
        subprocess.run([*command, more], capture_output=True, text=True, check=True)
        for more in ("--jobs=1", "--jobs=2")
    ]
    one, other = (each.stdout.splitlines()[-1] for each in done)
    assert one == other and "kill" in one


def test_planted_faults_fit_the_code():
    """Whoever changes a line that one of them changes is told at once."""
    assert len({planted.patched(each) for each in planted.ALL}) >= 60


# Of the core, of the stream, and of fragments: a vector after its line in the log.
SOME = (0, 36, len(planted.PLANTED))
# Not within 60 seeds, or not soon: test_pushes.py, test_stream.py and, for those of
# fragments, test_fragment_*.py, test_push_store.py, test_checkpoints.py and some below.
_OF_FRAGMENTS = (11, 18, 20, 21, 22, 23, 25, 27, 28)
ELSEWHERE = (23, 24, 26, 38, *(len(planted.PLANTED) + i for i in _OF_FRAGMENTS))


_SEEDS = {30: 400, 48: 300, 55: 200}  # seldom found


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(i, marks=() if i in SOME else pytest.mark.slow)
        for i in range(len(planted.ALL))
        if i not in ELSEWHERE
    ],
)
def test_a_planted_fault_is_found(number):
    seeds = str(_SEEDS.get(number, 60))
    command = [sys.executable, planted.__file__, str(number), seeds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1 and done.stdout.startswith("seed "), done


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_without_faults_nothing_is_counted(kind):
    outcome = seeds.scenario(kind)(0, faults.NONE).run()
    assert not outcome.violation and not outcome.faults
    assert outcome.starts == 3


def test_the_faults_that_are_left_break_alone():
    needed = {5, 17, 40}
    kept = shrink.shrink(list(range(60)), lambda only: needed <= only, 500)
    assert kept == needed


def test_faults_are_chosen_by_name():
    assert faults.parse("none,kill=0.5") == dataclasses.replace(faults.NONE, kill=0.5)
    with pytest.raises(ValueError, match="'quake' is none of kill"):
        faults.parse("quake=1")
    with pytest.raises(ValueError, match="kill must be a chance from 0 to 1, got 'x'"):
        faults.parse("kill=x")
    with pytest.raises(ValueError, match="from 0 to 1, got 2.0"):
        faults.parse("kill=2")


# What the simulation has found, each in its shortest form.


def test_a_heartbeat_of_no_process_of_the_run_is_not_answered():
    """Its connection would be kept like those of workers, as many as there are."""
    server, peer = test_core.new_membership(), test_core.Peer()
    for text in (["x", []], ["", []], ["x", [[99, 0, 0, True]]]):
        message = Message(Kind.HEARTBEAT, text=text)
        test_core.deliver(server.message(peer, message, 0.0))
    assert not peer.sent


def test_a_sign_of_life_says_that_a_worker_is_ready():
    """Whose READY is lost, and who gets something else to read, says it no more."""
    server, far, again = test_core.new_membership(), test_core.Peer(), test_core.Peer()
    far.ends_with_its_process = False
    for index in range(test_core.N):
        test_core.enter(server, index, test_core.Peer() if index else far)
    test_core.deliver(server.closed(far, 0.0))
    hello = {"nonce": "n0", "process": "here", "run": {}}
    test_core.deliver(server.message(again, Message(Kind.HELLO, 0, text=hello), 0.0))
    for now in np.arange(1.0, 12.0):
        test_core.deliver(server.tick(float(now)))
    assert server.core.workers[0].state == "left"
    beat = Message(Kind.HEARTBEAT, text=["n0", [[0, 0, 5, True]]])
    test_core.deliver(server.message(test_core.Peer(), beat, 13.0))
    assert server.core.workers[0].active and again.sent[-1].kind is Kind.GRANT


def test_a_server_that_fails_does_not_tell_its_workers_that_the_run_is_over(tmp_path):
    """They would end with 0, and those of fragments would end the other servers."""
    with harness.two(tmp_path) as (serving, (one, other), (grant, _)):

        def refuse(entries):
            raise log.UnwritableError("no room")

        serving.log.append = refuse
        one.push(grant)
        for worker in (one, other):
            text = worker.expect(Kind.STOP).text
            assert text == {"reason": "no room", "resumes": True}
        serving.join()
        assert serving.server.resumable


@pytest.fixture
def network():
    """An acceptor of pushes of 8 bytes, its channel, and what comes by rounds."""
    sizes = transport.Sizes(8, np.dtype("f4"), 8, np.dtype("f4"))
    pool = memory.Pool(8, np.dtype("f4"), False)
    acceptor = transport.NetworkAcceptor("tcp://127.0.0.1:0", pool, sizes, None)
    selector = selectors.DefaultSelector()
    acceptor.register(selector)
    channel = transport.NetworkChannel(acceptor.endpoint, None)
    channel.expect(sizes)

    def look() -> list:
        """As the server's loop does."""
        keys = selector.select(0 if acceptor.has_more else 0.2)
        events = [event for key, mask in keys for event in key.data(mask)]
        return events + acceptor.rest()

    yield acceptor, channel, look
    channel.close()
    acceptor.close()
    selector.close()


def _meet(channel, look):
    """The server's end of a channel, which is a known one afterwards."""
    channel.send(Message(Kind.HELLO))
    while not (events := look()):
        pass
    peer = events[0][0]
    peer.send(Message(Kind.WELCOME))
    assert channel.receive(5.0).kind is Kind.WELCOME
    return peer


def test_pushes_that_come_together_are_handed_out_one_after_the_other(network):
    _, channel, look = network
    _meet(channel, look)
    for number in range(5):
        channel.send(Message(Kind.PUSH), np.full(2, number, "f4"))
    time.sleep(0.1)
    seen = []
    while len(seen) < 5:
        events = look()
        assert len(events) <= 1
        seen += [message.payload[0] for _, message in events]
    assert seen == [0, 1, 2, 3, 4]
    assert not look()


def test_a_late_grant_leaves_alone_what_is_computed_from(network):
    acceptor, channel, look = network
    peer = _meet(channel, look)
    buffer = acceptor.pool.take()

    def grant(number):
        acceptor.pool.arrays[buffer][:] = number
        peer.send(Message(Kind.GRANT, grant_id=number, buffer=buffer))
        return channel.receive(5.0).payload

    present = grant(5)
    for late in (3, 4, 5):
        assert (grant(late) == late).all()
        assert (present == 5).all()
    assert (grant(6) == 6).all()
    assert (present == 5).all()


def test_a_log_that_cannot_be_read_at_the_end_ends_the_run_in_a_sentence(tmp_path):
    serving = types.SimpleNamespace(
        _server=None,
        _training=(None,) * 4,
        _log=types.SimpleNamespace(path=tmp_path / "gone"),
        _system=system.REAL,
    )
    with pytest.raises(log.LogError, match="gone: No such file .*; start the same"):
        run._Serving._result(serving)


@pytest.mark.parametrize("started", [False, True])
def test_a_run_that_has_not_begun_leaves_no_checkpoint(started, monkeypatch):
    """A later run in its folder could not be recovered from that: nobody computes."""
    monkeypatch.setattr(duties.recovery, "save", lambda server: (0, [], {}, {}))
    saved = []
    store = types.SimpleNamespace(
        latest_step=lambda: None, save=lambda *arguments: saved.append(arguments)
    )
    core = types.SimpleNamespace(started=started, entries=0)
    server = types.SimpleNamespace(
        core=core, system=system.REAL, saving=lambda records: None, saved=lambda: None
    )
    duties.Checkpoints(server, store, 1.0, print).last()
    assert bool(saved) == started


def test_a_checkpoint_that_cannot_be_set_aside_ends_the_start_in_a_sentence():
    def set_aside(step):
        raise OSError(errno.EIO, "Input/output error")

    later = Checkpoint([], {"records": 5, "core": {"mark": 0}}, 5)
    store = types.SimpleNamespace(
        newest_first=lambda: iter([later]), set_aside=set_aside, damaged=[]
    )
    with pytest.raises(recovery.RecoveryError, match="renamed: Input/output error; "):
        recovery._newest(store, [], lambda line: None)


def test_what_a_log_has_at_its_opening_survives_a_loss_of_power():
    """Its writer may have been killed after writing, before the disk was done."""
    world, host, files = _files(0)
    host.disk.folders.add("/run")
    there = dataclasses.replace(system.REAL, os=files, fcntl=files)
    made = log.Log(Path("/run"), {"num_workers": 1}, sync=True, system=there)
    files.fdatasync = lambda descriptor: None
    made.append([Entry(Event("push", 0, 0.0, 1.0, 1.0), 0, 0, 1.0, True, (0,), ())])
    del files.fdatasync
    made.close()
    found = log.Log(Path("/run"), {"num_workers": 1}, sync=True, system=there)
    assert len(found.entries) == 1
    content = bytes(host.files["/run/pushes.log"].content)
    host.lose_power()
    assert host.files["/run/pushes.log"].content == content


def test_what_is_cut_off_a_log_is_gone_from_the_disk_too(tmp_path, monkeypatch):
    made = log.Log(tmp_path, {"num_workers": 1})
    made.append([Entry(Event("push", 0, 0.0, 1.0, 1.0), 0, 0, 1.0, True, (0,), ())] * 2)
    made.close()
    path = tmp_path / log.NAME
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.fstat(file.fileno()).st_size)
    )
    log.cut(tmp_path)
    assert synced == [path.stat().st_size]


# The simulated disk itself, against what POSIX promises.


def _files(seed: int) -> tuple[World, Host, Files]:
    world = World(seed, faults.Dice(seed, faults.NONE))
    host = Host(world, "a")
    process = Process(world, host, "process", 1)
    process.main = process  # nothing waits here
    return world, host, Files(process, lambda name, file: None)


def test_what_was_synced_survives_a_loss_of_power_and_what_was_not_may_not():
    lost = 0
    for seed in range(60):
        world, host, files = _files(seed)
        descriptor = files.open("/x", os.O_WRONLY | os.O_CREAT)
        files.write(descriptor, b"a" * 100)
        files.fsync(descriptor)
        files.write(descriptor, b"b" * 300)
        host.lose_power()
        content = bytes(host.files["/x"].content)
        assert content[:100] == b"a" * 100
        assert set(content[100:]) <= {0, ord("b")}
        lost += content != b"a" * 100 + b"b" * 300
    assert 0 < lost


def test_a_name_that_was_not_synced_may_be_the_old_one():
    seen = set()
    for seed in range(40):
        world, host, files = _files(seed)
        for name, text in (("/new", b"new"), ("/old", b"old")):
            descriptor = files.open(name, os.O_WRONLY | os.O_CREAT)
            files.write(descriptor, text)
            files.fsync(descriptor)
        files.replace("/new", "/old")
        host.lose_power()
        seen.add(bytes(host.files["/old"].content))
    assert seen == {b"old", b"new"}
