"""One process of a run of fragments, for tests that kill it.

fragment_program.py OUT POLICY FRAGMENTS SERVERS PROCESSES PROCESS PUSHES SECONDS

Every process has one worker. Processes find each other by the folder of the run alone.
Process 0 writes its parameters to OUT/result.npy at the end.
"""

import dataclasses
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import harness  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from abs_dssp import delays, policies  # noqa: E402
from abs_dssp.cluster import run, topology  # noqa: E402

OUTER = optax.sgd(0.7, momentum=0.9, nesterov=True)
DILOCO = {
    "local_optimizer": harness.REMEMBERS,
    "push": "displacement",
    "local_state": "kept",
}
SEED = 7
SETTINGS = dataclasses.replace(
    harness.QUICK, empty=60.0, lease=10.0, checkpoint=0.5, reconnect=120.0
)
_LOCAL = topology.Options(coordinator_address="127.0.0.1:1")


class Alone(topology.Cluster):
    """A process without a coordination service."""

    def leave(self):
        pass


def train(out, text, fragments, servers, cluster, pushes, seconds=0.0, **changed):
    """Takes part; see `run.train`."""
    count = cluster.num_workers
    pace = delays.constant([seconds] * count) if seconds else None
    arguments = {"settings": SETTINGS, "say": lambda line: None, "local_steps": 2}
    arguments |= DILOCO | changed
    return run.train(
        cluster, harness.divisible(count), policies.parse(text, count), OUTER, SEED,
        out=out, num_pushes=pushes, fragments=fragments, servers=servers, pace=pace,
        **arguments,
    )  # fmt: skip


def main(out, text, fragments, servers, processes, process, pushes, seconds):
    """The program."""
    mine = {process: (jax.local_devices()[0],)}
    cluster = Alone(_LOCAL, process, processes, processes, mine)
    folder = Path(out)

    def say(line):
        print(line, flush=True)

    result = train(folder, text, fragments, servers, cluster, pushes, seconds, say=say)
    if result is not None:
        result.trace.save(folder / "trace.npz")
        np.save(folder / "result.npy", harness.vector(result))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(*sys.argv[1:3], *map(int, sys.argv[3:8]), float(sys.argv[8]))
