"""Workers of fragments and their links to servers, without sockets."""

import errno
import threading
import types

import fragment_program as program
import harness
import jax
import numpy as np
import test_core

from abs_dssp.cluster import (
    fragment_result,
    fragment_run,
    fragment_view,
    system,
    topology,
)
from abs_dssp.cluster.fragment_links import Link, identity_of
from abs_dssp.cluster.fragment_server import FragmentMembership, FragmentServer
from abs_dssp.cluster.fragment_view import View
from abs_dssp.cluster.fragment_worker import FragmentWorker
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.status import Status
from abs_dssp.history.events import Event
from abs_dssp.training import flat, fragmented
from abs_dssp.training.config import UpdateConfig

N, F = 3, 3
ALONE = topology.Options()


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


def test_what_is_seen_of_a_run_is_what_its_first_worker_was_given():
    """Parameters of versions that it took, at the times that were asked for."""
    task = harness.divisible(N)
    config = UpdateConfig(program.OUTER, harness.REMEMBERS, 2, push="displacement")
    functions = flat.Functions(task, config)
    job = types.SimpleNamespace(
        training=types.SimpleNamespace(task=task, functions=functions),
        settings=Settings(evaluate=2.0),
    )
    parts = fragmented.division(task, config, F)
    start = functions.initial(jax.random.key(program.SEED))
    bases = tuple(parts.part(start, fragment) for fragment in range(F))
    now = iter([0.5, 2.0, 3.0, 4.5])
    server = types.SimpleNamespace(status=lambda: status(next(now)))
    worker = types.SimpleNamespace(seen=None)
    shown, recorded = [], []
    told = shown.append, recorded.append, print
    view = View(server, 1, worker, parts, job, *told)
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


def test_a_run_goes_on_when_it_cannot_be_shown(monkeypatch):
    """As on a full disk."""
    monkeypatch.setattr(fragment_view, "_LOOK", 0.01)
    said = threading.Event()

    def fails(status):
        raise OSError(errno.ENOSPC, "No space left on device")

    def say(line):
        assert line.endswith("No space left on device")
        said.set()

    server = types.SimpleNamespace(status=lambda: status(1.0))
    parts = types.SimpleNamespace(servers=[None])
    job = types.SimpleNamespace(
        training=types.SimpleNamespace(task=None, functions=None), settings=Settings()
    )
    view = View(server, 0, None, parts, job, fails, None, say)
    with view.open():
        assert said.wait(10)


def status(seconds):
    return Status("ssp(s=1)", seconds, 10, 20, 9, 5.0, 1.0, ())
