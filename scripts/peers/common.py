"""What the peers' programs share: arguments, the workers' loop, the answer.

A peer does what the cluster benchmark does: a push of a float32 vector, the server's
w -= rate * push, and a pull of the new vector. It prints one line of JSON; exit status
2 says that the peer is not installed.
"""

import argparse
import json
import socket
import statistics
import time

RATE = 1e-3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    return parser.parse_args()


def parameter_server(workers: int) -> dict[str, str]:
    """The environment in which MXNet's scheduler, one server and the workers meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_INTERFACE": "lo",
    }


def loop(round_trip, seconds: float) -> list[float]:
    """Seconds of every round trip, after a tenth of the time to warm up."""
    until = time.perf_counter() + 0.1 * seconds
    while time.perf_counter() < until:
        round_trip()
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        round_trip()
        times.append(time.perf_counter() - begun)
    return times


def answer(times: list[list[float]], seconds: float) -> None:
    """Prints the median round trip and the updates of all workers per second."""
    every = [t for worker in times for t in worker]
    found = {
        "median_ms": 1e3 * statistics.median(every),
        "updates_per_s": len(every) / seconds,
    }
    print(json.dumps(found), flush=True)
