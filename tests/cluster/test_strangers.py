"""Wrong keys, wrong addresses, workers that never come, rules that release nobody."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import harness
import pytest
from test_core import N, Peer, deliver, enter, new_membership

from abs_dssp import policies
from abs_dssp.cluster import (
    addresses,
    keys,
    membership,
    run,
    status,
    topology,
    transport,
)
from abs_dssp.cluster.connector import Connector
from abs_dssp.cluster.core import Core, RunLimits
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.topology import Options
from abs_dssp.cluster.worker import WorkerPlan
from abs_dssp.cluster.worker_errors import WorkerError
from abs_dssp.history.events import Entry, Event
from scripts import ROOT

NETWORK = {"shared": False, "network": "tcp://127.0.0.1:0"}
FAR = Options(coordinator_address="10.9.8.7:1", num_processes=2, process_id=1)


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_who_has_another_key_is_told_of(tmp_path):
    good, bad = keys.make(tmp_path / "good"), keys.make(tmp_path / "bad")
    with harness.Serving(tmp_path, keys=good, **NETWORK) as serving:
        with pytest.raises(transport.ClosedError, match="give every process the same"):
            serving.worker(0, key=bad)
        until(lambda: serving.said)
        assert "its key is not this run's; give every process" in serving.said[0]


def test_who_speaks_no_tls_has_no_key_to_complain_of(tmp_path):
    good = keys.make(tmp_path / "good")
    with harness.two(tmp_path, key=good, **NETWORK) as (serving, (one, _), (grant, _)):
        host, port = serving.server.address["network"][6:].split(":")
        with socket.create_connection((host, int(port))) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
            other.settimeout(1.0)
            try:
                other.recv(4096)
            except (TimeoutError, ConnectionError):
                pass
        one.push(grant)
        one.expect(Kind.GRANT)
        assert serving.said == []


def test_bad_greetings_without_end_get_a_few_lines_and_a_count():
    server, peer = new_membership(), Peer()
    said = []

    def note(wanted):
        said.extend(e.line for e in wanted if hasattr(e, "line"))
        deliver(wanted)

    for number in range(1000):
        hello = Message(Kind.HELLO, number, text={"nonce": "x" * 9999})
        note(server.message(peer, hello, 0.001 * number))
    assert len(peer.sent) == 1000  # each is answered
    assert 1 < len(said) <= 6
    note(server.tick(11.0))
    assert said[-1].startswith("refused 995 more in 11 s")
    note(server.tick(12.0))
    long = {"nonce": "n", "process": "p", "run": {"seed": "x" * 60_000}}
    server.config = {"seed": 0}
    note(server.message(peer, Message(Kind.HELLO, 0, text=long), 13.0))
    assert len(said[-1]) < 500


def keep(num_workers):
    """A rule that releases nobody."""
    asp = policies.asp.__wrapped__(num_workers)

    def never(state, clocks, worker, now):
        state, decision = asp.on_push(state, clocks, worker, now)
        return state, decision._replace(release=decision.release & False)

    return policies.Policy(asp.init, never, asp.on_leave)


def waiting_for_ever() -> membership.Membership:
    """All of three workers wait since 0.5 s."""
    core = Core(keep(N), N, RunLimits(), epochs_per_push=0.125, first_loss=2.5)
    server = membership.Membership(
        core, Settings(empty=20.0, lease=1e6), {"policy": "miser()"}, "one", N,
        lambda vector, loss: True, 0.0,
    )  # fmt: skip
    server.config = {}  # what `enter` says of itself
    for index in range(N):
        enter(server, index, Peer())
    for index in range(N):
        core.apply(Event("push", index, 0.5, 0.5, 1.0))
    return server


def test_a_rule_under_which_everybody_waits_ends_the_run_in_a_sentence():
    server = waiting_for_ever()
    for now in range(1, 20):
        server.tick(float(now))
    assert not server.core.ended
    server.tick(22.0)
    assert server.failed
    assert server.core.ended == (
        "every worker waits, nobody computes, at push 4: miser() releases nobody any "
        "more; check its release rule."
    )


def test_who_joins_in_time_saves_a_run_in_which_everybody_waits():
    server = waiting_for_ever()
    server.tick(1.0)
    peer = server.sessions[2].peer
    deliver(server.closed(peer, 15.0))
    if not any(w.state == "computing" for w in server.core.workers):
        enter(server, 2, Peer(), 16.0)
    assert any(w.state == "computing" for w in server.core.workers)
    for now in range(17, 60):
        server.tick(float(now))
    assert not server.core.ended


def entries(*happened):
    return [
        Entry(Event(kind, worker, 1.0, reason=why)) for kind, worker, why in happened
    ]


@pytest.mark.parametrize(
    ("happened", "expected", "sentence"),
    [
        ([], 3, ""),
        ([("leave", 1, "absent")], 3, "worker 1 never came"),
        ([("leave", 1, "absent"), ("join", 1, "")], 3, ""),
        ([("leave", 2, "finished")], 3, ""),
        ([("leave", 2, "absent")], 2, ""),  # had not been expected
        (
            [("leave", 2, "died"), ("leave", 0, "silent")],
            3,
            "worker 0 is left out: no sign of life; worker 2 is gone: its connection "
            "ended",
        ),
    ],
)
def test_which_workers_are_missing_at_the_end(happened, expected, sentence):
    assert status.missing(entries(*happened), expected) == sentence


def test_a_run_that_waited_in_vain_says_so_at_its_end(tmp_path, monkeypatch):
    def two_are_enough(server, now):
        ready = sum(session.ready for session in server.sessions)
        return server._start(now) if ready == 2 else []

    monkeypatch.setattr(membership.Membership, "_wait_for_workers", two_are_enough)
    cluster = topology.alone(Options(), 3)
    del cluster.mine[2]
    result = run.train(
        cluster, harness.task(3), policies.asp(3), harness.OPTIMIZER,
        out=tmp_path, num_pushes=10, settings=harness.QUICK, say=lambda line: None,
    )  # fmt: skip
    assert result is not None and len(result.trace) == 10
    assert result.missing == "worker 2 never came"


def test_without_a_key_file_nobody_joins(monkeypatch):
    joined = []
    monkeypatch.setattr(topology.bootstrap, "join", lambda *a, **k: joined.append(1))
    for index in (0, 1):
        with pytest.raises(ValueError, match="encrypted and need --key_file"):
            topology.joined(dataclasses.replace(FAR, process_id=index))
    assert joined == []


@pytest.mark.parametrize(
    ("ways", "named", "found"),
    [
        ({"10.9.8.7": "10.9.8.1"}, "127.0.1.1", "10.9.8.1"),
        ({"10.9.8.7": "127.0.0.1", "192.0.2.1": "10.1.1.1"}, "10.2.2.2", "10.1.1.1"),
        ({}, "10.2.2.2", "10.2.2.2"),
        ({}, "127.0.1.1", "127.0.1.1"),  # there is no other
    ],
)
def test_the_address_that_others_reach(ways, named, found, monkeypatch):
    monkeypatch.setattr(addresses, "_towards", ways.get)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: named)
    assert addresses.own("10.9.8.7:1234") == found


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("", "tcp://10.1.1.1:0"),
        ("10.0.0.1", "tcp://10.0.0.1:0"),
        ("10.0.0.1:77", "tcp://10.0.0.1:77"),
        ("77", "tcp://10.1.1.1:77"),
    ],
)
def test_where_the_server_listens(listen, endpoint, monkeypatch):
    monkeypatch.setattr(addresses, "own", lambda coordinator: "10.1.1.1")
    options = dataclasses.replace(FAR, listen=listen)
    assert topology.Cluster(options, 0, 2, 2, {}).network == endpoint


def test_a_server_that_only_its_own_host_reaches_is_told_of():
    class Elsewhere(topology.Cluster):
        def lookup(self, seconds):
            return {"network": "tcp://127.0.0.1:5555", "boot": "another", "shared": ""}

    cluster = Elsewhere(FAR, 1, 2, 2, {})
    plan = WorkerPlan(None, None, 0, {}, Settings())
    connect = Connector(cluster, plan, cluster.lookup, "process 1")
    with pytest.raises(WorkerError, match="start process 0 with --listen=HOST"):
        connect()


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("argparse", ["-m", "abs_dssp.cluster.launcher", "--processes=1", "--", "x"]),
        ("absl", ["experiments/train.py", "--cluster=local", "--out=unused"]),
    ],
)
def test_ctrl_c_during_an_import_ends_a_launcher_without_a_word(
    module, command, tmp_path
):
    source = "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    source += "    time.sleep(60)\nexcept BaseException:\n    pass\n"  # as some do
    (tmp_path / f"{module}.py").write_text(source)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=50,
        # A shell has what it starts in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.slow
def test_a_process_with_another_key_is_missed_and_the_exit_status_says_so(tmp_path):
    """Two processes over TCP, each with a key file of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Process 1 gives up first: when process 0 ends, jax ends all others with a signal.
    times = "start=30,reconnect=5,lease=3"
    found = []
    for index in (0, 1):
        keys.make(tmp_path / f"key{index}")
        command = [
            sys.executable, ROOT / "experiments" / "train.py", "--cluster=auto",
            f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2",
            f"--process_id={index}", f"--key_file={tmp_path / f'key{index}'}",
            "--transport=tcp", "--limit_train=320", "--epochs=1", "--policy=asp()",
            f"--times={times}", f"--out={tmp_path / str(index)}",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        found.append(subprocess.Popen(command, env=environment, **pipes))
    texts = [process.communicate(timeout=240)[0] for process in found]
    assert [process.returncode for process in found] == [3, 1], texts
    assert "its key is not this run's" in texts[0]
    assert "without workers that it was told to expect: worker 1 never" in texts[0]
    assert "has another key; give every process the same --key_file" in texts[1]
    assert (tmp_path / "0" / "run.json").exists()
