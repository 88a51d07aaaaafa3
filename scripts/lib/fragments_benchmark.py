"""Pushes per second of a run of fragments against the number of its servers.

Every server and every worker has a host of its own, which are network namespaces of
this machine (tests/cluster/hosts.py) whose links the kernel limits to a rate in each
direction. The parameters travel in fragments of equal size, whatever the number of
servers; a gradient costs next to nothing. What is measured are the rows of the run's
trace over their time. Beside it stands the most that the servers' links allow: a push
up, or a pull down, of one fragment each.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "cluster")]

FRAGMENTS, WORKERS = 4, 4
SERVERS = (1, 2, 4)
# Rate, values of a fragment, and seconds.
LINKS = (("1gbit", 1_000_000, 10), ("100mbit", 250_000, 10), ("20mbit", 100_000, 20))
_BITS = {"1gbit": 1e9, "100mbit": 1e8, "20mbit": 2e7}


def main() -> None:
    """Prints a table."""
    import hosts

    if hosts.missing():
        sys.exit(f"error: {hosts.missing()}.")
    print(f"fragments: {FRAGMENTS} of them, {WORKERS} workers, asp(), fp32, no TLS")
    print(f"{'rate':>10}{'MB each':>9}{'servers':>9}{'pushes/s':>10}{'links allow':>13}"
          f"{'CPU busy':>10}")  # fmt: skip
    for rate, size, seconds in LINKS:
        for servers in SERVERS:
            busy, found = _measure(hosts, rate, size, seconds, servers)
            most = servers * _BITS[rate] / (8 * 4 * size)
            print(f"{rate:>10}{4 * size / 1e6:>9.1f}{servers:>9}{found:>10.1f}"
                  f"{most:>13.1f}{busy:>10.0%}", flush=True)  # fmt: skip


def _measure(
    hosts, rate: str, size: int, seconds: int, servers: int
) -> tuple[float, float]:
    count = servers + WORKERS
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as name,
        hosts.network(count, rate=rate) as machines,
    ):
        folder = Path(name)
        for process, machine in enumerate(machines):
            words = [
                sys.executable, __file__, f"--folder={folder}", f"--size={size}",
                f"--seconds={seconds}", f"--servers={servers}", f"--process={process}",
                f"--address={machine.address}",
            ]  # fmt: skip
            machine.start(words, folder / f"log{process}")
        while not (folder / "fragment0" / "turns.log").exists():
            time.sleep(0.1)
        begun = _cpu()
        found = hosts.wait(
            lambda: (folder / "result").exists() and (folder / "result").read_text(),
            "an answer", 300,
        )  # fmt: skip
        ended = _cpu()
        return (ended[0] - begun[0]) / (ended[1] - begun[1]), json.loads(found)


def _cpu() -> tuple[int, int]:
    """Ticks in which this machine's processors were busy, and all ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def take_part(
    folder: Path, size: int, seconds: int, servers: int, process: int, address: str
):
    """One process: a server or a worker."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp
    import optax

    from abs_dssp import policies, tasks
    from abs_dssp.cluster import run, topology
    from abs_dssp.cluster.settings import Settings

    class Apart(topology.Cluster):
        """A process without a coordination service."""

        def leave(self):
            pass

    def value(variables):
        return sum(jnp.mean(leaf) for leaf in variables.params.values())

    names = [f"part{number}" for number in range(FRAGMENTS)]
    task = tasks.Task(
        name="large", num_workers=WORKERS, batch_size=1, samples_per_epoch=1000,
        data={},
        init=lambda key: tasks.Variables({n: jnp.zeros(size) for n in names}, {}),
        batch=lambda data, key, worker, index: (),
        loss=lambda variables, batch, key: (value(variables), {}),
        evaluate=lambda data, variables: {"loss": value(variables)},
        objective=lambda data, variables: value(variables),
    )  # fmt: skip
    mine = {}
    if process >= servers:
        mine = {process - servers: (jax.local_devices()[0],)}
    options = topology.Options(
        coordinator_address="10.0.0.1:1", transport="tcp", listen=f"{address}:0",
        encrypt=False,
    )  # fmt: skip
    cluster = Apart(options, process, servers + WORKERS, WORKERS, mine)
    result = run.train(
        cluster, task, policies.asp(WORKERS), optax.sgd(1.0), out=folder,
        until_seconds=float(seconds), local_optimizer=optax.sgd(0.1),
        push="displacement", fragments=FRAGMENTS, servers=servers,
        settings=Settings(checkpoint=1e9),
    )  # fmt: skip
    if result is not None:
        trace = result.trace
        late = trace.time > seconds / 2  # when all have pulled, and begun
        rate = float(late.sum() / (seconds / 2))
        (folder / "partial").write_text(json.dumps(rate))
        (folder / "partial").rename(folder / "result")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    for name in ("size", "seconds", "servers", "process"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--address")
    take_part(**vars(parser.parse_args()))
