"""Weather: slow memory, workers that do not read, messages with strange cargo."""

import contextlib
import dataclasses
import inspect
import os
import socket
import subprocess
import sys
import threading
import time

import harness
import jax
import numpy as np
import pytest

from abs_dssp import delays
from abs_dssp.cluster import addresses, log, memory, messages, run_config, transport
from abs_dssp.cluster.core import Core
from abs_dssp.cluster.membership import Membership
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.versions import Versions

# Workers by hand give no signs of life.
PATIENT = dataclasses.replace(harness.QUICK, lease=120.0)


def test_a_slow_copy_of_the_first_version_does_not_end_the_run(tmp_path, monkeypatch):
    """As with a model of 64 MB on a busy machine."""
    take = memory.Pool.take

    def slowly(pool):
        time.sleep(1.5)
        return take(pool)

    monkeypatch.setattr(memory.Pool, "take", slowly)
    with harness.two(tmp_path, settings=PATIENT) as (serving, (one, _), (grant, _)):
        one.push(grant)
        assert one.expect(Kind.GRANT).version == 1
        assert serving.error is None


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_whoever_does_not_read_for_long_goes_on_from_the_latest_grant(kind, tmp_path):
    """Each push of worker 0 restarts worker 1, which reads nothing meanwhile."""
    network = {"shared": False, "network": "tcp://127.0.0.1:0"}
    more = network if kind == "tcp" else {}
    text = "ringmaster(threshold=1,stop=True)"
    with harness.two(tmp_path, text, settings=PATIENT, **more) as (
        serving,
        (one, other),
        grants,
    ):
        grant, pushes = grants[0], 1500
        for _ in range(pushes):
            one.push(grant, 1e-6)
            grant = one.expect(Kind.GRANT)
        latest = None
        while (message := other.channel.receive(0.5)) is not None:
            assert message.kind is Kind.GRANT
            latest = message
        assert latest is not None and latest.version == pushes
        np.testing.assert_array_equal(latest.payload, grant.payload)
        other.push(latest)
        assert other.expect(Kind.GRANT).version == pushes + 1


def test_a_worker_computes_only_from_the_newest_of_many_grants():
    """One that was busy finds all grants of its restarts; the last one counts."""
    from abs_dssp.cluster.worker import Worker

    class Queued(transport.Channel):
        def __init__(self, waiting):
            self.waiting = waiting

        def receive(self, seconds):
            return self.waiting.pop(0) if self.waiting else None

        def send(self, message, vector=None):
            raise AssertionError("nothing is said")

        def expect(self, sizes):
            pass

        def close(self):
            pass

    def grant(grant_id):
        return Message(Kind.GRANT, 0, grant_id=grant_id)

    def newest(waiting, first):
        worker = object.__new__(Worker)
        worker._receive = lambda channel, seconds: channel.receive(seconds)
        return worker._newest(Queued(waiting), first)

    assert newest([grant(3), grant(5), grant(4)], grant(2)).grant_id == 5
    assert newest([Message(Kind.WAIT), grant(1)], grant(2)).grant_id == 2
    assert newest([grant(3), Message(Kind.STOP)], grant(2)).kind is Kind.STOP


def test_descriptors_of_bad_messages_are_closed(tmp_path):
    good = messages.encode(Message(Kind.READY, 0))
    with harness.two(tmp_path, settings=PATIENT) as (serving, (one, _), (grant, _)):

        def held():
            return len(os.listdir("/proc/self/fd"))

        one.push(grant)  # a second version needs a second buffer
        grant = one.expect(Kind.GRANT)
        before = held()
        with open(os.devnull) as file:
            cargo = [file.fileno()] * 2
            for data in [good[:-1], b"x" * 99, good] * 17:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
                    other.connect("\0" + serving.server.address["shared"])
                    socket.send_fds(other, [data], cargo)
                    other.settimeout(5)
                    other.recv(4096)  # hung up on, or asked who it is
        one.push(grant)  # what was sent before has been dealt with
        one.expect(Kind.GRANT)
        end = time.monotonic() + 5
        while held() > before and time.monotonic() < end:
            time.sleep(0.05)
        assert held() <= before


@pytest.mark.parametrize("text", [["x", [[0, 0, float("inf"), True]]], ["x", 3]])
def test_a_strange_heartbeat_does_not_end_the_run(text, tmp_path):
    with harness.two(tmp_path, settings=PATIENT) as (serving, (one, _), (grant, _)):
        stranger = serving.connect()
        stranger.send(Message(Kind.HEARTBEAT, text=text))
        stranger.send(Message(Kind.HEARTBEAT, text=["x", [[0, 0, 0, True]]]))
        answer = stranger.receive(5)
        assert answer is not None and answer.kind is Kind.HELLO
        one.push(grant)
        assert one.expect(Kind.GRANT).version == 1
        stranger.close()


def test_a_lost_connection_is_not_a_lost_worker(tmp_path):
    """Over a network it may be made anew; nobody else is told of it."""
    network = {"shared": False, "network": "tcp://127.0.0.1:0"}
    with harness.two(tmp_path, "bsp()", settings=PATIENT, **network) as (
        serving,
        (one, other),
        grants,
    ):
        one.push(grants[0])
        one.expect(Kind.WAIT)
        other.channel.close()
        one.nothing(0.5)
        again = serving.worker(1, "n1")
        again.ready()
        grant = again.expect(Kind.GRANT)
        assert (grant.grant_id, grant.mark) == (1, grants[1].mark)
        again.push(grant)
        assert one.expect(Kind.GRANT).version == 1
        again.channel.close()
        _, entries, _ = log.read(serving.log.path)
        assert [entry.event.kind for entry in entries] == ["push", "push"]


def test_those_who_say_nothing_take_nobody_the_place(tmp_path):
    """Open connections of strangers are few, and whoever is known keeps its own."""
    network = {"shared": False, "network": "tcp://127.0.0.1:0"}
    half = messages.encode(Message(Kind.HEARTBEAT, text=["x", []]))[:-1]
    with harness.two(tmp_path, settings=PATIENT, **network) as (
        serving,
        (one, _),
        (grant, _),
    ):
        address = addresses.parts(serving.server.address["network"])
        with contextlib.ExitStack() as opened:
            silent = []
            before = len(os.listdir("/proc/self/fd"))
            for number in range(150):
                silent.append(socket.create_connection(address, timeout=5))
                opened.enter_context(silent[-1])
                silent[-1].sendall(half[: number % len(half)])
            one.push(grant)
            assert one.expect(Kind.GRANT).version == 1
            assert silent[0].recv(1) == b""  # hung up on
            more = len(os.listdir("/proc/self/fd")) - before
            assert 150 < more < 150 + 70  # ours, and 64 strangers' at most
        late = serving.worker(1, "n1")  # comes back
        late.ready()
        late.expect(Kind.GRANT)
        late.channel.close()


@pytest.mark.parametrize(
    "statement",
    [
        "sys.keep = memory.Segment(64)",  # lives until the interpreter ends
        "memory.Segment(64, 999)",  # no such descriptor
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); memory.Segment(64)",
    ],
)
def test_shared_memory_is_let_go_quietly(statement):
    """A segment that could not be made, or outlives its module, complains nowhere."""
    program = f"""
import contextlib, resource, sys
from abs_dssp.cluster import memory
with contextlib.suppress(OSError):
    {statement}
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_comment_or_a_report_does_not_make_a_run_another(tmp_path):
    """A change of what decides bits or messages does."""

    def digest(**changed):
        root = tmp_path / str(len(list(tmp_path.iterdir()))) / "package"
        for room in ("training", "report", "cluster"):
            (root / room).mkdir(parents=True)
            text = changed.get(room, '"""A room."""\n\nstep = 1  # why\n')
            (root / room / "module.py").write_text(text)
        return run_config.code_digest(root)

    same = digest()
    assert digest(report="step = 2\n") == same
    assert digest(training='"""Another sentence."""\nstep = (\n    1\n)\n') == same
    assert digest(training='"""A room."""\n\nstep = 2\n') != same


def test_one_thread_alone_touches_the_state_of_a_run(tmp_path, monkeypatch):
    """Whoever watches, evaluates or saves sees snapshots and copies."""
    seen: dict[str, set[int]] = {}

    def watched(owner, name):
        method = getattr(owner, name)

        def call(*arguments, **named):
            seen.setdefault(name, set()).add(threading.get_ident())
            return method(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    for owner in (Core, Membership, Versions, log.Log):
        for name, value in list(vars(owner).items()):
            if inspect.isfunction(value) and not name.startswith("__"):
                watched(owner, name)
    statuses = []
    quick = dataclasses.replace(harness.QUICK, checkpoint=0.1, evaluate=0.1)
    harness.train(
        tmp_path,
        "abs(k0=1,a=50)",
        pushes=400,
        settings=quick,
        watch=statuses.append,
        pace=delays.constant(0.005, 4),
    )
    assert {"apply", "message", "tick", "hold", "append", "snapshot"} <= set(seen)
    assert set().union(*seen.values()) == {threading.get_ident()}
    assert statuses and statuses[-1].pushes == 400


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_a_grant_before_the_welcome_ends_the_connection_and_not_the_worker(
    tmp_path, kind
):
    """The welcome may be replaced in a full outbox by the grant that follows it."""
    network = {"shared": False, "network": "tcp://127.0.0.1:0"}
    with harness.two(
        tmp_path, settings=PATIENT, **(network if kind == "tcp" else {})
    ) as (
        serving,
        (one, _),
        _,
    ):
        address = serving.server.address
        if kind == "tcp":
            early = transport.NetworkChannel(address["network"], None)
        else:
            early = transport.SharedChannel(address["shared"])
        text = {"nonce": "again", "process": "late", "run": {}}
        early.send(Message(Kind.HELLO, 0, text=text))
        assert early.receive(5.0).kind is Kind.WELCOME
        early.send(Message(Kind.READY, 0))
        with pytest.raises(messages.MessageError, match="before the welcome"):
            while True:
                assert early.receive(5.0) is not None
        early.close()


def test_a_view_reads_what_lies_in_its_memory_and_is_made_once():
    device = jax.local_devices()[0]
    views = memory.Views([device], 2)
    kind = np.dtype(np.float32)
    segments = [memory.Segment(256) for _ in range(3)]
    arrays = [segment.array(kind) for segment in segments]
    total = jax.jit(jax.numpy.sum)
    for value in (1.0, 2.0, 3.0):
        arrays[0][:] = value
        assert float(total(views.of(arrays[0]))) == 64 * value
    assert views.of(arrays[0]) is views.of(arrays[0])
    for array in arrays:
        views.of(array)
    assert len(views._views) == 2
    shifted = memory.aligned(260, kind)[1:]  # no address that a CPU device can use
    shifted[:] = 1.0
    assert float(total(views.of(shifted))) == 64.0
    shifted[:] = 5.0
    assert float(total(views.of(shifted))) == 5 * 64.0
