"""After kill -9: what was acknowledged is there, and the same bits come of it."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import harness
import jax
import numpy as np
import pytest

import scripts
from abs_dssp import delays, policies, replay, traces
from abs_dssp.cluster import log, run, topology, transport
from abs_dssp.cluster.messages import Kind
from abs_dssp.history import rederivation
from abs_dssp.history.events import Entry, Event

PROGRAM = Path(__file__).with_name("program.py")


def start(tmp_path, *arguments, **more):
    """The program, with its complaints in a file."""
    environment = scripts.one_device()
    with open(tmp_path / "stderr", "ab") as errors:
        return subprocess.Popen(
            [sys.executable, PROGRAM, *map(str, arguments)],
            stderr=errors, env=environment, **more,
        )  # fmt: skip


def wait_for_records(tmp_path, running, count: int) -> bytes:
    """Waits until the log has so many whole records."""
    end = time.monotonic() + 60
    path = tmp_path / log.NAME
    while time.monotonic() < end:
        assert running.poll() is None, (tmp_path / "stderr").read_text()
        if path.exists() and b"\n" in path.read_bytes():
            if len(log.read(path)[1]) >= count:
                return path.read_bytes()
        time.sleep(0.02)
    raise AssertionError(f"no {count} records; {(tmp_path / 'stderr').read_text()}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "abs(k0=1,a=20,tau_max=2)",
        pytest.param("sa_adasync(k0=1,interval=1.0)", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_twice_ends_as_its_trace_says(text, tmp_path):
    before = b""
    for count in (60, 160):
        running = start(tmp_path, "train", tmp_path, text, 300, 0.005)
        try:
            wait_for_records(tmp_path, running, count)
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
        data = (tmp_path / log.NAME).read_bytes()
        assert data.startswith(before)
        header, records, length = log.read(tmp_path / log.NAME)
        assert len(records) >= count
        before = data[:length]
    running = start(tmp_path, "train", tmp_path, text, 300, 0.005)
    assert running.wait(120) == 0, (tmp_path / "stderr").read_text()
    data = (tmp_path / log.NAME).read_bytes()
    assert data.startswith(before)
    _, records, _ = log.read(tmp_path / log.NAME)
    settings = {"num_workers": 4, "policy": text, "seed": 7}
    trace = log.to_trace(records, settings).validate()
    assert len(trace) == 300
    losses = np.array(
        [r.event.loss for r in records if r.event.kind == "push"], np.float32
    )
    replayed = replay.replay(harness.task(), harness.OPTIMIZER, trace, 7)
    assert harness.vector(replayed).tobytes() == harness.saved(tmp_path).tobytes()
    np.testing.assert_array_equal(replayed.history.push_loss, losses)
    policy = policies.parse(text, 4)
    first = objective() if policies.reads_loss(policy, 4) else 0.0
    again = rederivation.rederive(policy, trace, losses, first)
    assert rederivation.first_difference(trace, again) == ""


def objective() -> float:
    """At the initial parameters."""
    from abs_dssp.training import row_by_row, update

    rule = update.rule(harness.OPTIMIZER)
    return row_by_row.HostEngine(harness.task(), rule, 7, 1).objective()


def test_nothing_acknowledged_is_lost_and_grants_are_made_again(tmp_path):
    acknowledged = 0
    payload: np.ndarray | None = None
    for _ in range(2):
        running = start(tmp_path, "serve", tmp_path, "asp()", stdout=subprocess.PIPE)
        try:
            assert running.stdout is not None
            address = json.loads(running.stdout.readline())
            workers = [by_hand(address, i) for i in range(2)]
            for worker in workers:
                worker.ready()
            grant = workers[0].expect(Kind.GRANT)
            # What had been granted before the crash is granted again, bit for bit.
            assert grant.clock == acknowledged + 1
            if payload is not None:
                np.testing.assert_array_equal(grant.payload, payload)
            for _ in range(40):
                workers[0].push(grant, gradient(grant))
                grant = workers[0].expect(Kind.GRANT)
                acknowledged += 1
            payload = grant.payload
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
        with pytest.raises(transport.ClosedError):
            while True:
                workers[0].channel.receive(5)
        _, records, _ = log.read(tmp_path / log.NAME)
        mine = [r.event for r in records if r.event.kind == "push"]
        mine = [event for event in mine if event.worker == 0]
        assert len(mine) == acknowledged


def gradient(grant) -> np.ndarray:
    """What worker 0 of the run computes."""
    functions, problem = harness.functions(2), harness.task(2)
    push, _ = functions.compute(
        grant.payload, problem.data, jax.random.key(7), 0, grant.clock, grant.version,
        grant.epoch,
    )  # fmt: skip
    return np.asarray(push)


def by_hand(address, index: int) -> harness.ByHand:
    """A worker of a server in another process."""

    class Elsewhere(harness.Serving):
        def __init__(self):
            self.functions = harness.functions(2)
            self.server = type("Server", (), {"sizes": harness.sizes(2)})

        def connect(self, key=None):
            return transport.SharedChannel(address["shared"])

    return harness.ByHand(Elsewhere(), index, f"n{index}")


def test_a_torn_record_is_dropped_and_damage_before_it_is_refused(tmp_path):
    header = {"num_workers": 3}
    written = log.Log(tmp_path, header)
    for number in range(5):
        event = Event("push", number % 3, float(number))
        written.append([Entry(event, release=(1, 2))])
    written.close()
    path = tmp_path / log.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    again = log.Log(tmp_path, header)
    assert [e.event.time for e in again.entries] == [0.0, 1.0, 2.0, 3.0]
    assert again.entries[0].release == (1, 2)
    again.append([Entry(Event("push", 1, 9.0))])
    again.close()
    assert [e.event.time for e in log.read(path)[1]] == [0.0, 1.0, 2.0, 3.0, 9.0]
    damaged = bytearray(whole)
    damaged[whole.index(b"\n") + 20] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(log.LogError, match="damaged at record 1"):
        log.read(path)
    with pytest.raises(log.LogError, match="num_workers=3, this run has 4"):
        path.write_bytes(whole)
        log.Log(tmp_path, {"num_workers": 4})


def test_a_trace_of_a_log_survives_saving(tmp_path):
    result = harness.train(tmp_path, "k_sync(k=2)", pushes=60)
    path = result.trace.save(tmp_path / "trace.npz")
    loaded = traces.Trace.load(path)
    assert loaded.recorded and loaded.events == result.trace.events
    assert traces.fingerprint(loaded) == traces.fingerprint(result.trace)


def test_workers_that_come_later_take_part(tmp_path):
    """Two workers from the start, room for four; the others come from elsewhere."""
    done: list = []
    policy = "ssp(s=20)"

    def main_run():
        pace = delays.constant(0.01, 4)
        settings = dataclasses.replace(harness.QUICK, lease=20.0, empty=60.0)
        done.append(
            harness.train(tmp_path, policy, num_workers=2, max_workers=4, pushes=400,
                          pace=pace, settings=settings)
        )  # fmt: skip

    running = threading.Thread(target=main_run)
    running.start()
    wait_for_pushes(tmp_path, 30)
    options = topology.Options(max_workers=4)
    with pytest.raises(ValueError, match="this run has workers 0 to 3"):
        topology.guest(options, tmp_path, 4)
    guest = topology.guest(options, tmp_path, 2)
    told = run.train(
        guest, harness.task(4), policies.parse(policy, 4), harness.OPTIMIZER, 7,
        out=tmp_path, local_optimizer=harness.LOCAL, settings=harness.QUICK,
        pace=delays.constant(0.01, 4), say=lambda line: None,
    )  # fmt: skip
    running.join(60)
    assert told is None
    (result,) = done
    trace = result.trace
    assert set(trace.worker.tolist()) == {0, 1, 2, 3}
    kinds = [event.kind for event in trace.events if event.worker in (2, 3)]
    assert kinds == ["leave", "leave", "join", "join"]
    again = rederivation.rederive(policies.parse(policy, 4), trace)
    assert rederivation.first_difference(trace, again) == ""
    replayed = replay.replay(harness.task(4), harness.OPTIMIZER, trace, 7)
    assert harness.vector(replayed).tobytes() == harness.saved(tmp_path).tobytes()
    assert not (tmp_path / topology.ADDRESS).exists()
    with pytest.raises(ValueError, match="no run serves in"):
        topology.guest(options, tmp_path, 2)


def wait_for_pushes(folder, count: int) -> None:
    """Waits until a run in this process has logged so many events."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        path = folder / log.NAME
        if path.exists() and b"\n" in path.read_bytes():
            if len(log.read(path)[1]) >= count:
                return
        time.sleep(0.02)
    raise AssertionError(f"no {count} records")
