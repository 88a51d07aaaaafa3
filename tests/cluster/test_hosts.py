"""Runs between hosts, which are network namespaces; with the documented commands."""

import signal
import subprocess
from pathlib import Path

import hosts
import numpy as np
import pytest
from hosts import documented, wait

import scripts
from abs_dssp import traces
from abs_dssp.cluster import keys, log

pytestmark = pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing() or "-")

SMALL = "--task=quadratic --epochs=2 --notensorboard"
# Computations that take time, for a run that something can happen to.
PACED = "--task=quadratic --epochs=8 --notensorboard --delays='constant([0.02,0.02])'"
TIMES = "--times=beat=0.3,lease=1.5,resend=0.5,evaluate=1,checkpoint=1"
TRAIN = ".venv/bin/python experiments/train.py --cluster=auto"


class Cluster:
    """Processes on hosts, in a folder where documented commands run."""

    def __init__(self, machines, folder: Path):
        self.machines, self.folder = machines, hosts.tree(folder)
        self.environment = {"PYTHONPATH": str(scripts.ROOT)} | {
            "XLA_FLAGS": scripts.one_device()["XLA_FLAGS"]
        }

    def start(self, host: int, command: str, name: str):
        """Starts a command on a host; its log is `name`."""
        machine = self.machines[host]
        return machine.start(
            command,
            self.log(name),
            cwd=self.folder,
            environment=self.environment,
        )

    def process(self, index: int, *more: str, host=None, count=2, at="10.0.0.1:1234"):
        """Starts a process of a run."""
        words = [
            TRAIN, f"--coordinator_address={at} --num_processes={count}",
            f"--process_id={index} --out=out/run", *more,
        ]  # fmt: skip
        host = index if host is None else host
        return self.start(host, " ".join(words), f"process{index}")

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        path = self.log(name)
        return path.read_text() if path.exists() else ""

    def expect(self, name: str, text: str, seconds: float = 60.0) -> str:
        """What a process has said, once a text is in it."""
        wait(lambda: text in self.said(name), text, seconds, log=self.log(name))
        return self.said(name)

    def ended(self, processes, seconds: float = 60.0) -> list[int]:
        """The exit statuses."""
        wait(lambda: all(p.poll() is not None for p in processes), "an end", seconds,
             log=self.log("process0"))  # fmt: skip
        return [process.returncode for process in processes]

    def key(self, name: str = "cluster.key") -> str:
        keys.make(self.folder / name)
        return f"--key_file={name}"

    def pushed(self, count: int, seconds: float = 60.0) -> None:
        """Waits for so many pushes."""
        path = self.folder / "out" / "run" / log.NAME

        def enough():
            return path.exists() and len(log.read(path)[1]) >= count

        wait(enough, f"{count} pushes", seconds, log=self.log("process0"))

    def trace(self):
        return traces.Trace.load(self.folder / "out" / "run" / "trace.npz")


def test_a_start_by_hand_is_as_documented(tmp_path):
    make_key, start, *_ = documented("By hand")
    with hosts.network(2) as machines:
        cluster = Cluster(machines, tmp_path)
        machines[0].run("sh", "-c", f"cd {tmp_path} && {make_key}")
        running = []
        for index in range(2):
            own = start.replace("--process_id=0", f"--process_id={index}")
            assert (own == start) == (index == 0)
            running.append(cluster.start(index, f"{own} {SMALL}", f"process{index}"))
        statuses = cluster.ended(running)
    assert statuses == [0, 0], cluster.said("process0") + cluster.said("process1")
    trace = traces.Trace.load(tmp_path / "out" / "dssp" / "trace.npz")
    assert set(trace.worker) == {0, 1}


@pytest.mark.slow
def test_the_environment_may_say_who_takes_part(tmp_path):
    """As Kubeflow's trainer has it; the host by its name."""
    with hosts.network(2) as machines:
        cluster = Cluster(machines, tmp_path)
        command = f"{TRAIN} {cluster.key()} {SMALL} --out=out/run"
        running = []
        for index in range(2):
            cluster.environment |= {
                "JAX_COORDINATOR_ADDRESS": "host0:6666",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            }
            running.append(cluster.start(index, command, f"process{index}"))
        statuses = cluster.ended(running)
    assert statuses == [0, 0], cluster.said("process0") + cluster.said("process1")
    assert set(cluster.trace().worker) == {0, 1}


def test_each_mistake_with_the_key_gets_its_documented_sentence(tmp_path):
    keys.make(tmp_path / "open.key")
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "cut.key").write_text("-----BEGIN")
    (tmp_path / "cut.key").chmod(0o600)
    command = [
        *("experiments/train.py", "--cluster=auto", f"--out={tmp_path / 'out'}"),
        *("--coordinator_address=10.0.0.1:1234", "--num_processes=2"),
    ]
    text = " ".join((scripts.ROOT / "docs" / "clusters.md").read_text().split())
    expected = {
        "": "connections between hosts are encrypted and need --key_file",
        "no.key": "does not exist; make it with",
        "open.key": "has mode 644, which lets others at it",
        "cut.key": "does not hold the key of a cluster",
    }
    given = [[f"--key_file={tmp_path / name}"] if name else [] for name in expected]
    lines = [[*command, f"--process_id={i % 2}", *key] for i, key in enumerate(given)]
    answers = scripts.start_many(lines)
    for (status, _, said), sentence in zip(answers, expected.values(), strict=True):
        assert status == 2 and sentence in said and said.count("\n") == 1, said
        assert sentence in text


@pytest.mark.slow
def test_who_has_another_key_is_refused_and_the_run_goes_on_without(tmp_path):
    """Both sides say why; the one ends with status 1, the run with 3."""
    with hosts.network(2) as machines:
        cluster = Cluster(machines, tmp_path)
        own, other = cluster.key("own.key"), cluster.key("other.key")
        times = f"{PACED} --epochs=5 --times=reconnect=2,start=6"
        running = [
            cluster.process(0, own, times),
            cluster.process(1, other, times),
        ]
        statuses = cluster.ended(running)
        server, worker = cluster.said("process0"), cluster.said("process1")
    assert statuses == [3, 1], server + worker
    documented_text = " ".join(
        (scripts.ROOT / "docs" / "clusters.md").read_text().split()
    )
    for said, sentence in (
        (server, "refused a connection: its key is not this run's"),
        (worker, "has another key; give every process the same --key_file"),
        (server, "workers that it was told to expect"),
    ):
        assert sentence in said and sentence in documented_text
    assert set(cluster.trace().worker) == {0}


@pytest.mark.slow
def test_a_host_that_was_cut_off_comes_back(tmp_path):
    with hosts.network(2) as machines:
        cluster = Cluster(machines, tmp_path)
        more = (cluster.key(), PACED, TIMES)
        running = [cluster.process(0, *more), cluster.process(1, *more)]
        cluster.pushed(50)
        machines[1].unplug()
        cluster.expect("process0", "worker 1 is left out: no sign of life")
        machines[1].plug()
        cluster.expect("process0", "worker 1 joins")
        statuses = cluster.ended(running)
    assert statuses == [0, 0], cluster.said("process0") + cluster.said("process1")
    # The other has gone on meanwhile, and both have pushed after the return.
    trace = cluster.trace()
    own = trace.time[trace.worker == 1]
    gap = np.diff(own).argmax()
    assert own[gap + 1] - own[gap] > 1.5 and gap + 2 < len(own)
    alone = (trace.time > own[gap]) & (trace.time < own[gap + 1])
    assert alone.sum() > 10


@pytest.mark.slow
def test_process_0_may_die_where_the_service_is_apart(tmp_path):
    _, _, start = documented("By hand")
    with hosts.network(3) as machines:
        cluster = Cluster(machines, tmp_path)
        cluster.start(0, start, "coordinator")
        cluster.expect("coordinator", "ready at 10.0.0.1:1234")
        more = (cluster.key(), "--coordinator_apart", PACED, TIMES)
        first = cluster.process(0, *more, host=1)
        second = cluster.process(1, *more, host=2)
        cluster.pushed(50)
        first.kill()
        first.wait()
        again = cluster.process(0, *more, host=1)
        statuses = cluster.ended([again, second])
        said = cluster.said("process0")
    assert statuses == [0, 0], said + cluster.said("process1")
    assert "recovered" in said
    trace = cluster.trace()
    assert set(trace.worker[-50:]) == {0, 1}


@pytest.mark.slow
def test_who_was_cut_off_at_the_end_of_the_run_hears_of_it(tmp_path):
    """And does not look for the server for `reconnect`, 300 seconds."""
    _, _, start = documented("By hand")
    with hosts.network(3) as machines:
        cluster = Cluster(machines, tmp_path)
        cluster.start(0, start, "coordinator")
        cluster.expect("coordinator", "ready at 10.0.0.1:1234")
        more = (cluster.key(), "--coordinator_apart", PACED, TIMES)
        first = cluster.process(0, *more, host=1)
        second = cluster.process(1, *more, host=2)
        cluster.pushed(50)
        machines[2].unplug()
        assert cluster.ended([first]) == [3], cluster.said("process0")
        assert second.poll() is None
        machines[2].plug()
        assert cluster.ended([second], 40) == [0], cluster.said("process1")


@pytest.mark.slow
def test_a_run_that_sigterm_ended_says_so_to_whoever_starts_it_again(tmp_path):
    """Every process has the signal's status, and the same commands go on."""
    _, _, start = documented("By hand")
    with hosts.network(2) as machines:
        cluster = Cluster(machines, tmp_path)
        coordinator = cluster.start(0, f"{start} --linger_seconds=120", "coordinator")
        cluster.expect("coordinator", "ready at 10.0.0.1:1234")
        more = (cluster.key(), "--coordinator_apart", PACED, TIMES)
        running = [cluster.process(0, *more), cluster.process(1, *more)]
        cluster.pushed(50)
        for process in (coordinator, running[0]):
            process.terminate()
        assert cluster.ended(running) == [143, 143], cluster.said("process1")
        assert coordinator.poll() is None  # for who else needs it
        assert "interrupted by SIGTERM; the same command takes part again" in (
            cluster.said("process1")
        )
        running = [cluster.process(0, *more), cluster.process(1, *more)]
        assert cluster.ended(running) == [0, 0], cluster.said("process0")
    assert "recovered" in cluster.said("process0")


@pytest.mark.slow
def test_a_slow_and_long_way_changes_times_and_no_bits(tmp_path):
    """100 Mbit/s and 50 ms: no push comes sooner than a round trip after the last."""
    trip = 0.05
    with hosts.network(2, rate="100mbit", round_trip=trip) as machines:
        cluster = Cluster(machines, tmp_path)
        more = (
            cluster.key(), "--task=digits --epochs=1 --notensorboard",
            "--batch_size=64 --policy='ssp(s=3)'",
        )  # fmt: skip
        running = [cluster.process(0, *more), cluster.process(1, *more)]
        statuses = cluster.ended(running)
    assert statuses == [0, 0], cluster.said("process0") + cluster.said("process1")
    trace = cluster.trace()
    own = trace.time[trace.worker == 1]
    assert len(own) > 3 and np.diff(own).min() > trip
    status, out, errors = scripts.run("replay.py", tmp_path / "out" / "run")
    assert status == 0, out + errors


@pytest.mark.slow
def test_lost_frames_cost_time_and_no_bits(tmp_path):
    with hosts.network(2, round_trip=0.01, loss=0.05) as machines:
        cluster = Cluster(machines, tmp_path)
        more = (
            cluster.key(), "--task=digits --epochs=2 --notensorboard",
            "--batch_size=64 --policy='ssp(s=3)'",
        )  # fmt: skip
        running = [cluster.process(0, *more), cluster.process(1, *more)]
        statuses = cluster.ended(running, 120)
    assert statuses == [0, 0], cluster.said("process0") + cluster.said("process1")
    assert set(cluster.trace().worker) == {0, 1}
    status, out, errors = scripts.run("replay.py", tmp_path / "out" / "run")
    assert status == 0, out + errors


def test_nothing_of_a_network_is_left():
    with hosts.network(2, round_trip=0.001) as (host, _):
        sleeping = host.start(["sleep", "60"], Path("/dev/null"))
        name, pid = host.namespace, sleeping.pid
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    assert name not in listed.stdout
    assert sleeping.returncode == -signal.SIGKILL and not Path(f"/proc/{pid}").exists()
