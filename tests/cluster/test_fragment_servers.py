"""Servers of fragments: their logs become one trace, which replays to the same bits."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
import types

import fragment_program as program
import harness
import jax
import numpy as np
import pytest
import test_core

from abs_dssp import policies, replay
from abs_dssp.cluster import (
    fragment_log,
    fragment_result,
    fragment_run,
    push_store,
    system,
    topology,
)
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.fragment_links import Link, identity_of
from abs_dssp.cluster.fragment_server import FragmentMembership, FragmentServer
from abs_dssp.cluster.fragment_view import View
from abs_dssp.cluster.fragment_worker import FragmentWorker
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.push_store import PushStore, Turn
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.status import Status
from abs_dssp.cluster.whereabouts import Whereabouts
from abs_dssp.cluster.worker import EndedError
from abs_dssp.history import rederivation
from abs_dssp.history.events import Event
from abs_dssp.traces import Trace
from abs_dssp.training import flat, fragmented
from abs_dssp.training.config import UpdateConfig
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


def test_pushes_are_found_again_until_two_checkpoints_hold_them(tmp_path):
    def vector(number):
        return np.arange(4, dtype=np.float32) + number

    def turn(number):
        return Turn(number, number == 1, ((0, number, 5), (1, 7, 9)))

    store = PushStore(tmp_path, 4, np.float32)
    for number in (1, 2):
        store.add(0, number, turn(number), vector(number))
    store.begin(10)
    store.add(0, 3, turn(3), vector(3))
    store.add(0, 3, turn(4), vector(4))  # again: the latest counts
    store.begin(20)
    store.add(1, 1, turn(5), vector(5))
    store.close()
    with open(tmp_path / "20.vectors", "ab") as file:
        file.write(b"half a record")
    with open(tmp_path / push_store.TURNS, "ab") as file:
        file.write(b"0badc0de [0, 9")
    store = PushStore(tmp_path, 4, np.float32)
    expected = {(0, 1): 1, (0, 2): 2, (0, 3): 4, (1, 1): 5}
    for key, number in expected.items():
        np.testing.assert_array_equal(store.vector(*key), vector(number))
        assert store.turns[key] == turn(number)
    store.add(1, 2, turn(6), vector(6))
    store.close()
    store = PushStore(tmp_path, 4, np.float32)  # what was cut short is in nobody's way
    np.testing.assert_array_equal(store.vector(1, 2), vector(6))
    store.give_up(10)
    with pytest.raises(LogError, match="push 2 of worker 0 is not there"):
        store.vector(0, 2)
    np.testing.assert_array_equal(store.vector(0, 3), vector(4))
    assert store.turns.keys() == {*expected, (1, 2)}  # these stay for good
    store.close()


def test_damaged_bytes_are_named(tmp_path):
    store = PushStore(tmp_path, 4, np.float32)
    store.add(0, 1, Turn(1, True, ()), np.ones(4, np.float32))
    store.add(0, 2, Turn(2, False, ()), np.ones(4, np.float32))
    store.close()
    path, turns = tmp_path / "0.vectors", tmp_path / push_store.TURNS
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    store = PushStore(tmp_path, 4, np.float32)
    with pytest.raises(LogError, match="push 1 of worker 0 is damaged"):
        store.vector(0, 1)
    store.close()
    turns.write_bytes(turns.read_bytes().replace(b"[0, 1", b"[0, 7"))
    with pytest.raises(LogError, match="damaged at line 1"):
        PushStore(tmp_path, 4, np.float32)


def _lines(*keys):
    turns = [(key, Turn(number, False, ())) for number, key in enumerate(keys, 1)]
    return b"".join(push_store.line(*key, turn) for key, turn in turns)


@pytest.mark.parametrize("rest", [b"", b"[", b"\0" * 30 + b"]\n", b"\0\n\0\n"])
def test_turns_that_a_loss_of_power_cut_short_are_in_nobodys_way(rest, tmp_path):
    """Of the last push the log knows nothing; with its line nobody was told of it."""
    (tmp_path / push_store.TURNS).write_bytes(_lines((0, 1), (1, 1)) + rest)
    store = PushStore(tmp_path, 4, np.float32, logged=[(0, 1), (1, 1)])
    store.add(0, 2, Turn(2, False, ()), np.ones(4, np.float32))
    store.close()
    store = PushStore(tmp_path, 4, np.float32, logged=[(0, 1), (1, 1), (0, 2)])
    assert store.turns.keys() == {(0, 1), (1, 1), (0, 2)}
    store.close()


def test_a_turn_that_the_log_needs_is_missed_at_once_and_nothing_is_cut_off(tmp_path):
    path = tmp_path / push_store.TURNS
    path.write_bytes(_lines((0, 1), (1, 1))[:-1] + b"\x8a")  # its end of a line
    before = path.read_bytes()
    with pytest.raises(LogError, match="lacks push 1 of worker 1, which the log"):
        PushStore(tmp_path, 4, np.float32, logged=[(0, 1), (1, 1)])
    assert path.read_bytes() == before


def test_a_vector_is_never_taken_for_that_of_another_push(tmp_path):
    """Its head says whose it is, and so it is among what is checked."""
    store = PushStore(tmp_path, 4, np.float32)
    for worker in (0, 1):
        vector = np.full(4, worker, np.float32)
        store.add(worker, 1, Turn(1, True, ()), vector)
    store.close()
    path = tmp_path / "0.vectors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # the second is worker 0's now
    path.write_bytes(data)
    store = PushStore(tmp_path, 4, np.float32)
    with pytest.raises(LogError, match="push 1 of worker 0 is damaged"):
        store.vector(0, 1)
    store.close()


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


def test_a_stranger_cannot_end_a_run():
    server = object.__new__(FragmentServer)
    mine, other = object(), object()
    sessions = [types.SimpleNamespace(peer=mine)]
    server.membership = types.SimpleNamespace(sessions=sessions)
    server._fragment, stopped = 0, []
    server.stop = lambda why, resumes: stopped.append(why)
    for peer, text in ((other, {"over": "end"}), (mine, {}), (mine, None)):
        assert server._noted(peer, Message(Kind.BYE, 0, text=text))
    assert not stopped
    server._noted(mine, Message(Kind.BYE, 0, text={"over": "end"}))
    assert stopped == ["end"]


def test_who_looks_for_another_fragments_server_is_asked_who_he_is():
    """It had this one's address; nothing that it says may count here."""
    server, peer = object.__new__(FragmentServer), types.SimpleNamespace(sent=[])
    peer.send = peer.sent.append
    server.membership = types.SimpleNamespace(sessions=[])
    server._fragment = 1
    for fragment in (0, 1):
        said = identity_of({"nonce": "n"}, fragment)
        mine = server._noted(peer, Message(Kind.HELLO, 0, text=said))
        assert mine == (fragment == 1) and said["nonce"] == f"n.{fragment}"
    assert [message.kind for message in peer.sent] == [Kind.HELLO]


def test_who_begins_gets_a_grant_from_a_server_that_has_forgotten_its_process():
    """It waits there in the name of the process before, and others for it elsewhere."""
    core = test_core.new_core("bsp()")
    settings = Settings(lease=10.0, start=5.0)
    finite = lambda vector, loss: True  # noqa: E731
    server = FragmentMembership(core, settings, {}, "one", test_core.N, finite, 0.0)
    for index in range(test_core.N):
        test_core.enter(server, index, test_core.Peer())
    event = Event("push", 0, 1.0, 1.0, 1.0)
    core.apply(event, None)
    again, text = test_core.Peer(), {"nonce": "n0", "process": "here", "run": {}}
    for begins, state in ((False, "waiting"), (True, "left")):
        hello = Message(Kind.HELLO, 0, text=text | {"begins": begins})
        test_core.deliver(server.message(again, hello, 2.0))
        assert core.workers[0].state == state
    test_core.deliver(server.message(again, Message(Kind.READY, 0), 2.0))
    assert again.sent[-1].kind is Kind.GRANT and again.sent[-1].text == 0


def test_who_is_behind_at_another_fragment_does_not_wait_for_this_one():
    """Those for whom it would wait may wait for it there."""
    worker = object.__new__(FragmentWorker)
    here, there = (
        types.SimpleNamespace(
            fragment=fragment, clock=6, grant=None, logged=False, acknowledged=True,
            send=lambda *_: None, gone_on=False,
        )
        for fragment in range(2)
    )  # fmt: skip
    here.go_on = lambda: setattr(here, "gone_on", True)
    worker.links, worker._waits, worker.now = [here, there], True, lambda: 0.0
    worker.settings = Settings()
    answers = []

    def look(link, done, again):
        answers.append(done())
        there.clock = 3  # it was left out there, and has joined again
        answers.append(done())
        link.logged = True
        answers.append(done())

    worker._await = look
    worker._exchange(here, Message(Kind.PUSH), None)
    assert answers == [False, False, True] and here.gone_on


def test_a_server_looks_whether_the_run_has_ended_elsewhere():
    """Whoever would tell it may be dead."""
    serving = types.SimpleNamespace(alive=False)
    server = types.SimpleNamespace(stopped="", resumable=False)

    def stop(why, resumes):
        server.stopped, serving.alive = why, False
        assert not resumes

    def start(ended):
        serving.alive = True

    server.stop, serving.server, serving.start = stop, server, start
    serving.finish = lambda: None
    said = iter(["", "", "end"])
    places = types.SimpleNamespace(over=lambda: next(said, "end"))
    workers = types.SimpleNamespace(start=lambda: None, stop=lambda: None)
    fragment_run._serve([serving], workers, places, system.REAL)
    assert server.stopped == "end" and not serving.alive


def test_a_link_believes_the_latest_of_what_its_server_says():
    """Messages may be late or lost; nothing is waited for that will not come."""
    worker = types.SimpleNamespace(index=0, now=lambda: 0.0)
    beats = types.SimpleNamespace(answered=0.0)
    link = Link(1, worker, lambda: None, {}, beats, None)

    def look(kind, grant_id, clock=0, text=None):
        payload = np.zeros(1) if kind is Kind.GRANT else None
        fields = {"grant_id": grant_id, "clock": clock, "text": text}
        return link._look(Message(kind, 0, payload=payload, **fields))

    assert look(Kind.GRANT, 4, 9, 5) and link.clock == 5
    look(Kind.WAIT, 3)
    assert not link.acknowledged, "of the push before"
    look(Kind.WAIT, 4)
    assert link.acknowledged and link.logged
    assert look(Kind.GRANT, 5, 10) and link.clock == 6 and not link.logged
    assert not look(Kind.GRANT, 4, 9, 5), "late"
    assert (link.grant_id, link.clock) == (5, 6)
    look(Kind.WAIT, 0)
    assert link.acknowledged and not link.logged, "it was taken for dead"
    assert not look(Kind.GRANT, 5, 10) and not link.acknowledged, "its push is lost"
    look(Kind.WAIT, 5)
    link.go_on()
    assert look(Kind.GRANT, 6, 11) and link.clock == 7 and not link.ahead


# Processes that are killed.


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


def test_recovery_without_a_checkpoint_reads_every_push(made, tmp_path):
    """As if a server had been killed before its first checkpoint."""
    out, result = made
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", out, copy], check=True)
    for fragment in range(F):
        folder = fragment_log.folder_of(copy, fragment)
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
    cluster = topology.alone(ALONE, N)
    again = program.train(copy, "ssp(s=1)", F, 1, cluster, 60)
    np.testing.assert_array_equal(harness.vector(again), harness.vector(result))


def test_what_is_seen_of_a_run_is_what_its_first_worker_was_given():
    """Parameters of versions that it took, at the times that were asked for."""
    task = harness.divisible(N)
    config = UpdateConfig(program.OUTER, harness.REMEMBERS, 2, push="displacement")
    functions = flat.Functions(task, config)
    training = types.SimpleNamespace(task=task, functions=functions)
    parts = fragmented.division(task, config, F)
    start = functions.initial(jax.random.key(program.SEED))
    bases = tuple(parts.part(start, fragment) for fragment in range(F))
    now = iter([0.5, 2.0, 3.0, 4.5])
    server = types.SimpleNamespace(status=lambda: status(next(now)))
    worker = types.SimpleNamespace(seen=None)
    shown, recorded = [], []
    view = View(server, 1, worker, parts, training, 2.0, shown.append, recorded.append)
    view.look()
    worker.seen = bases, 7
    for _ in range(3):
        view.look()
    assert [record["seconds"] for record in recorded] == [2.0, 4.5]
    expected = task.evaluate(task.data, functions.layout.unflatten(start))
    for record in recorded:
        np.testing.assert_allclose(record["loss"], expected["loss"], rtol=1e-5)
        assert (record["version"], record["push"]) == (7, 3 * 10)
    assert shown[0].policy == "ssp(s=1), fragment 1 of 3" and not shown[0].measures
    assert shown[-1].measures["loss"] == recorded[-1]["loss"]
    # At the end it is known how many pushes there were.
    last = {"push": 25, "epoch": 0.5, "seconds": 4.0}
    (kept,) = fragment_result._before(view.records, last)
    assert kept["push"] == 25 and kept["epoch"] == 0.5 and kept["seconds"] == 2.0


def status(seconds):
    return Status("ssp(s=1)", seconds, 10, 20, 9, 5.0, 1.0, ())
