"""scripts/slurm.sbatch under a real Slurm of several nodes; minutes."""

import os
import signal
import time
from pathlib import Path

import hosts
import pytest
import slurm
from hosts import wait

import scripts
from abs_dssp import traces
from abs_dssp.cluster import log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "-"),
]
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}


class Job:
    """The documented job, with a small task whose computations take a while."""

    def __init__(self, running: slurm.Slurm, folder: Path, *options: str, **more):
        self.slurm, self.folder = running, hosts.tree(folder)
        self.out = folder / "out" / "dssp"
        pushes = more.pop("pushes")
        environment = {
            "PYTHONPATH": str(scripts.ROOT),
            "XLA_FLAGS": scripts.one_device()["XLA_FLAGS"],
            "HOME": str(folder),
            **more,
        }
        said = running.call(
            *("sbatch", *options, "scripts/slurm.sbatch"),
            *("--policy=dssp(s_lower=3,s_upper=15)", "--out=out/dssp"),
            *("--task=quadratic", "--notensorboard", f"--epochs={pushes / 31.25}"),
            *(
                "--delays=constant([0.02,0.02])",
                "--times=checkpoint=1,lease=2,beat=0.5",
            ),
            cwd=folder,
            **environment,
        )
        self.number = said.split()[-1]

    @property
    def said(self) -> str:
        path = self.folder / f"slurm-{self.number}.log"
        return path.read_text() if path.exists() else ""

    def pushes(self) -> list[log.Entry]:
        path = self.out / log.NAME
        if not path.exists():
            return []
        return [e for e in log.read(path)[1] if e.event.kind == "push"]

    def pushed(self, count: int, seconds: float = 90.0) -> int:
        """Waits for so many pushes more than there are; how many there are then."""
        wanted = len(self.pushes()) + count
        wait(lambda: len(self.pushes()) >= wanted, f"{wanted} pushes", seconds,
             log=self.folder / f"slurm-{self.number}.log")  # fmt: skip
        return len(self.pushes())

    def until(self, states: set[str], seconds: float = 120.0) -> dict[str, str]:
        """What Slurm knows of the job once it is in one of these states."""

        def known():
            found = self.slurm.job(self.number)
            time.sleep(0.5)
            return found if found["JobState"] in states else None

        return wait(known, str(states), seconds,
                    log=self.folder / f"slurm-{self.number}.log")  # fmt: skip

    def kill(self, host: str, words: str) -> None:
        """Kills the Python process of a host that was started with these words."""
        found = [
            pid
            for pid, command in self.slurm.nodes[host].commands()
            if words in command and "python" in command.split()[0]
        ]
        assert len(found) == 1, found
        os.kill(found[0], signal.SIGKILL)

    def trace(self) -> traces.Trace:
        return traces.Trace.load(self.out / "trace.npz")


def test_any_process_may_die_and_comes_back(tmp_path):
    with slurm.cluster(2, tmp_path / "slurm") as running:
        job = Job(running, tmp_path, "--nodes=2", pushes=500)
        job.pushed(30)
        took = {}
        for host, words, name in (
            ("host2", "--process_id=1", "1"),
            ("host1", "--process_id=0", "0"),
            ("host1", "abs_dssp.cluster.coordinator", "coordinator"),
        ):
            job.kill(host, words)
            begun = time.monotonic()
            wait(lambda n=name: f"{n} ended with status 137; again" in job.said, name)
            job.pushed(30)
            took[name] = time.monotonic() - begun
        print("seconds from a death to 30 more pushes:", took)
        state = job.until(OVER)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), job.said
    assert set(job.trace().worker[-50:]) == {0, 1}


def test_the_process_of_a_lost_node_goes_to_the_one_in_reserve(tmp_path):
    with slurm.cluster(3, tmp_path / "slurm") as running:
        job = Job(running, tmp_path, "--nodes=3", pushes=3000, PROCESSES="2")
        job.pushed(30)
        running.nodes["host2"].crash()
        begun = time.monotonic()
        job.pushed(100)  # alone
        wait(lambda: "again on host3" in job.said, "another node", 60)
        print("seconds until Slurm gave the node up:", time.monotonic() - begun)
        wait(lambda: "worker 1 joins" in job.said, "worker 1", 60)
        print("seconds until the worker was back:", time.monotonic() - begun)
        state = job.until(OVER)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), job.said
    assert set(job.trace().worker[-50:]) == {0, 1}


@pytest.mark.parametrize("why", ["preempted", "time limit"])
def test_a_job_that_must_end_goes_on_from_its_checkpoint(why, tmp_path):
    """Slurm counts in minutes, and may signal up to one too early."""
    with slurm.cluster(2, tmp_path / "slurm") as running:
        limit = ["--time=2"] if why == "time limit" else []
        pushes = 9000 if limit else 1000
        job = Job(running, tmp_path, "--nodes=2", *limit, pushes=pushes)
        job.pushed(30)
        if not limit:
            running.call(
                *("sbatch", "--partition=high", "--exclusive", "--nodes=2"),
                *("--wrap=sleep 3", "--output=/dev/null"),
            )
        wait(lambda: "SIGTERM: ending in order" in job.said, "SIGTERM", 130)
        begun = time.monotonic()
        job.until({"PENDING"}, 60)
        before = len(job.pushes())
        print("seconds from SIGTERM to the queue:", time.monotonic() - begun)
        assert "error: the run ended early: interrupted by SIGTERM." in job.said
        job.until({"RUNNING"}, 60)
        begun = time.monotonic()
        job.pushed(30)
        print("seconds from the start to 30 more pushes:", time.monotonic() - begun)
        # From the checkpoint of the end: not a push is computed again.
        line = f"recovered {before} pushes, version {before}"
        assert f"{line}: checkpoint of record {before}, 0 more" in job.said, job.said
        if limit:
            running.call("scancel", job.number)
        else:
            state = job.until(OVER)
            assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0")


def test_a_mistake_in_the_flags_is_not_repeated(tmp_path):
    with slurm.cluster(2, tmp_path / "slurm") as running:
        job = Job(running, tmp_path, "--nodes=2", pushes=-500)
        state = job.until(OVER)
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "2:0"), job.said
    assert state["Restarts"] == "0" and "again" not in job.said


def test_srun_alone_is_found_by_jax(tmp_path):
    with slurm.cluster(2, tmp_path / "slurm") as running:
        hosts.tree(tmp_path)
        running.call(
            *(".venv/bin/python", "-m", "abs_dssp.cluster.keys", "cluster.key"),
            cwd=tmp_path,
            PYTHONPATH=str(scripts.ROOT),
        )
        [command] = [c for c in hosts.documented("Slurm") if c.startswith("srun")]
        running.call(
            *("sh", "-c", f"{command} --task=quadratic --epochs=2 --notensorboard"),
            cwd=tmp_path,
            PYTHONPATH=str(scripts.ROOT),
            XLA_FLAGS=scripts.one_device()["XLA_FLAGS"],
        )
    trace = traces.Trace.load(tmp_path / "out" / "dssp" / "trace.npz")
    assert set(trace.worker) == {0, 1}
