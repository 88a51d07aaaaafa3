"""Round trips of the real server between two hosts, at several rates and distances.

The hosts are network namespaces of this machine (tests/cluster/hosts.py): the rate is
limited by the kernel, in each direction, and the way made long in user space. One
worker, TLS; everything else as in `cluster_benchmark`. Beside what was measured stands
the least that the network allows: both vectors at that rate, and the way.
"""

import json
import sys
import tempfile
from pathlib import Path

import hosts

from abs_dssp.cluster import keys

SIZES = (10_000, 4_000_000)
LINKS = (("1gbit", 0.0), ("100mbit", 0.0), ("1gbit", 0.05), ("100mbit", 0.05))
_BITS = {"1gbit": 1e9, "100mbit": 1e8}
_PROGRAM = Path(__file__).with_name("cluster_benchmark.py")


def main() -> None:
    """Prints a table."""
    if hosts.missing():
        sys.exit(f"error: {hosts.missing()}.")
    print("network: push + update + pull between two hosts, fp32, TLS, one worker")
    print(f"{'bytes':>12}{'rate':>10}{'way':>8}{'s per push':>12}{'least':>9}"
          f"{'pushes/s':>10}")  # fmt: skip
    for size in SIZES:
        for rate, trip in LINKS:
            found = _measure(size, rate, trip)
            seconds = found["median_ms"] / 1e3
            least = 2 * 8 * size / _BITS[rate] + trip
            print(
                f"{size:>12,}{rate:>10}{1e3 * trip:>5.0f} ms{seconds:>12.4f}"
                f"{least:>9.4f}{found['updates_per_s']:>10.1f}",
                flush=True,
            )


def _measure(size: int, rate: str, trip: float) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as name,
        hosts.network(2, rate=rate, round_trip=trip) as (first, second),
    ):
        folder = Path(name)
        keys.make(folder / "key")
        words = [
            sys.executable, _PROGRAM, f"--bytes={size}", "--workers=1", "--kind=tls",
            f"--seconds={8 if size > 1e6 else 3}", f"--folder={folder}",
        ]  # fmt: skip
        serving = [*words, "--role=server", f"--host={first.address}"]
        first.start(serving, folder / "server")
        address = hosts.wait(lambda: _line(folder / "server"), "the server's address")
        work = [*words, "--role=0", f"--address={address}"]
        second.start(work, folder / "worker")
        return json.loads(
            hosts.wait(lambda: _line(folder / "worker"), "an answer", 120)
        )


def _line(path: Path) -> str:
    """The line of JSON that a process has written, once it has."""
    found = [line for line in path.read_text().splitlines() if line.startswith("{")]
    return found[0] if found else ""
