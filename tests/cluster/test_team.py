"""Workers that have several processes each."""

import socket
import threading
import time
from types import SimpleNamespace

import harness
import jax
import psutil
import pytest

import scripts
from abs_dssp.cluster import bootstrap, team, team_links, topology
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.bootstrap import Place
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.topology import Options, Team
from abs_dssp.cluster.worker import WorkerPlan
from abs_dssp.cluster.worker_errors import LostError, WorkerError
from abs_dssp.history.traces import Trace
from abs_dssp.tasks import splitting
from abs_dssp.training import flat, mesh
from abs_dssp.training.config import UpdateConfig

FLAGS = (
    *("--cluster=local", "--devices_per_worker=2", "--processes_per_worker=2"),
    *("--task=digits", "--model=mlp(hidden=[32,16])", "--batch_size=16"),
    *("--local_steps=2", "--notensorboard"),
)


def test_a_worker_of_two_processes_replays_bit_for_bit(tmp_path):
    out = tmp_path / "run"
    more = ("--processes=3", "--policy=asp()", "--epochs=0.5", f"--out={out}")
    code, _, errors = scripts.run("train.py", *FLAGS, *more)
    assert code == 0, errors
    trace = Trace.load(out / "trace.npz")
    assert trace.num_workers == 1 and len(trace) > 10
    assert trace.split["devices"] == 2 and trace.split["processes"] == 2
    code, printed, errors = scripts.run("replay.py", out)
    assert code == 0, errors
    assert "equal in every bit" in printed and "losses up to there: equal" in printed


@pytest.mark.slow
def test_who_dies_takes_its_worker_along_and_all_return(tmp_path):
    """A follower, a leader and the server are killed, one after the other."""
    out = tmp_path / "run"
    more = ("--processes=5", "--policy=ringmaster(threshold=2,stop=True)")
    more += ("--until=90", "--max_restarts=20", "--times=lease=4,checkpoint=5")
    answer = []
    running = threading.Thread(
        target=lambda: answer.append(
            scripts.run("train.py", *FLAGS, *more, f"--out={out}")
        )
    )
    running.start()
    log = out / logs.NAME
    for index, together in ((2, (1, 2)), (3, (3, 4)), (0, (0,))):
        _await_growth(log)
        before = {each: _process(out, each).pid for each in range(5)}
        _process(out, index).kill()
        end = time.monotonic() + 40
        while any(_pid(out, each) in (None, before[each]) for each in together):
            assert time.monotonic() < end and running.is_alive()
            time.sleep(0.2)
        for each in set(range(5)) - set(together):
            assert _pid(out, each) == before[each]
    _await_growth(log)
    running.join()
    code, _, errors = answer[0]
    assert code == 0, errors
    assert errors.count("this process ends as well") == 2
    trace = Trace.load(out / "trace.npz")
    assert [event.kind for event in trace.events].count("leave") >= 2
    code, printed, errors = scripts.run("replay.py", out)
    assert code == 0 and "equal in every bit" in printed, (printed, errors)


def _await_growth(log):
    """Until a run has gone on for a while."""
    end, size = time.monotonic() + 120, None
    for _ in range(3):
        while not log.exists() or log.stat().st_size == size:
            assert time.monotonic() < end
            time.sleep(0.5)
        size = log.stat().st_size


def _process(out, index):
    for each in psutil.process_iter(["cmdline"]):
        words = each.info["cmdline"] or []
        if f"--out={out}" in words and f"--process_id={index}" in words:
            return each
    return None


def _pid(out, index):
    found = _process(out, index)
    return None if found is None else found.pid


def _device(process, number):
    return SimpleNamespace(process_index=process, id=1000 * process + number)


def _teams(monkeypatch, process, processes, each, devices, there=2):
    found = [_device(p, d) for p in range(processes) for d in range(there)]
    monkeypatch.setattr(jax, "devices", lambda: found)
    monkeypatch.setattr(bootstrap, "forget_collectives", lambda devices: None)
    options = Options(devices_per_worker=devices, processes_per_worker=each)
    return topology._in_teams(options, Place(process, processes))


def test_consecutive_processes_have_a_worker_and_the_first_of_them_leads(monkeypatch):
    for process in range(7):
        cluster = _teams(monkeypatch, process, 7, 3, 6)
        assert cluster.num_workers == 2
        if process == 0:
            assert cluster.is_server and cluster.team is None and not cluster.mine
            continue
        worker, first = divmod(process - 1, 3)
        assert cluster.team.worker == worker
        assert cluster.team.processes == tuple(range(3 * worker + 1, 3 * worker + 4))
        whose = [device.process_index for device in cluster.team.devices]
        assert whose == [each for each in cluster.team.processes for _ in range(2)]
        assert cluster.follows == (first > 0)
        assert list(cluster.mine) == ([] if first else [worker])


@pytest.mark.parametrize(
    ("processes", "each", "devices", "sentence"),
    [
        (6, 2, 2, "multiple of 2 processes must be there, got 6 in all; start 5"),
        (1, 2, 2, "got 1 in all; start 3"),
        (5, 2, 6, "process 1 needs 3 of the 6 devices of its worker, and has 2"),
        (5, 2, 3, "--processes_per_worker: must divide --devices_per_worker=3, got 2"),
    ],
)
def test_what_cannot_be_a_worker_gets_a_sentence(
    monkeypatch, processes, each, devices, sentence
):
    with pytest.raises(ValueError, match=sentence):
        _teams(monkeypatch, 0, processes, each, devices)


def test_one_process_cannot_have_such_workers(tmp_path):
    options = Options(devices_per_worker=2, processes_per_worker=2)
    with pytest.raises(ValueError, match="guests, and workers beside the server"):
        topology.guest(options, tmp_path, 0)


def test_a_replay_that_adds_up_otherwise_is_refused():
    task = harness.divisible(2)
    split = splitting.of_task(task, 2, processes=2)
    config = UpdateConfig(harness.OPTIMIZER)
    with pytest.raises(ValueError, match=r"call .*bootstrap.by_itself\(\) before"):
        mesh.functions(task, config, flat.Wire(), split).placed(())


def test_a_split_says_how_many_processes_only_where_they_are_several():
    task = harness.divisible(2)
    one, two = (splitting.of_task(task, 4, processes=n) for n in (1, 2))
    assert "processes" not in one.record and two.record["processes"] == 2
    assert splitting.read(one.record) == one and splitting.read(two.record) == two
    assert one.digest != two.digest


@pytest.fixture
def meet(monkeypatch):
    """Has a leader and a follower meet, with plans and hosts of their own."""
    told = {}
    monkeypatch.setattr(
        bootstrap, "publish", lambda what, key: told.update({key: what})
    )
    monkeypatch.setattr(bootstrap, "lookup", lambda seconds, key: told.get(key))
    monkeypatch.setattr(bootstrap, "forget_collectives", lambda devices: None)
    task = harness.divisible(1)
    split = splitting.of_task(task, 2, processes=2)
    functions = mesh.functions(
        task, UpdateConfig(harness.OPTIMIZER), flat.Wire(), split
    )
    ours = Team(0, (1, 2), tuple(jax.devices()[:2]))

    def met(agreed, hosts=("a", "a"), start=20.0, alone=False):
        errors: list[BaseException | None] = [None, None]

        def side(number):
            settings = Settings(start=start)
            plan = WorkerPlan(task, functions, 0, agreed[number], settings)
            host = {"boot": hosts[number], "namespace": "x"}
            cluster = SimpleNamespace(process=1 + number, host=lambda: host)
            try:
                made = team_links.connected if number else team._Leader
                made(cluster, ours, plan)
            except WorkerError as error:
                errors[number] = error

        threads = [threading.Thread(target=side, args=(n,)) for n in range(2 - alone)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return errors

    return met


def test_processes_of_a_worker_that_disagree_say_so(meet):
    errors = meet([{"seed": 1}, {"seed": 2}])
    expected = "processes 1 and 2 of worker 0 must agree on seed, got 1 and 2; give"
    assert all(str(error).startswith(expected) for error in errors)


def test_processes_of_a_worker_must_be_on_one_host(meet):
    leader, follower = meet([{}, {}], hosts=("a", "b"), start=1.0)
    assert "processes 1 and 2 of worker 0 must be on one host" in str(follower)
    assert isinstance(leader, LostError)


def test_who_does_not_come_is_named(meet):
    leader, _ = meet([{}, {}], start=0.3, alone=True)
    assert isinstance(leader, LostError)
    assert "worker 0: process 2 has not come within 0 s" in str(leader)


def test_who_says_nothing_is_not_waited_for(meet, monkeypatch):
    """Some other process of the user, that connects and is silent."""
    monkeypatch.setattr(team_links, "_SILENCE", 0.2)
    accepted = socket.socket.accept
    strangers = []

    def accept(listening):
        if not strangers:
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stranger.connect(listening.getsockname())
            strangers.append(stranger)
        return accepted(listening)

    monkeypatch.setattr(socket.socket, "accept", accept)
    errors = meet([{"seed": 1}, {"seed": 2}])
    assert len(strangers) == 1 and all("must agree on seed" in str(e) for e in errors)
    strangers[0].close()
