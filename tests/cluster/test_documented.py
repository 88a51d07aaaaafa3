"""The commands of docs/clusters.md for one machine, run as they stand there."""

import os
import subprocess
import sys
from pathlib import Path

import hosts
import pytest

import scripts
from abs_dssp import traces
from abs_dssp.cluster import log

SMALL = "--task=quadratic --epochs=2 --notensorboard"
COMMANDS = hosts.documented("This machine")


def environment() -> dict[str, str]:
    """With the programs beside this Python found first."""
    beside = str(Path(sys.executable).parent)
    return scripts.one_device() | {
        "PYTHONPATH": str(scripts.ROOT),
        "PATH": f"{beside}:{os.environ['PATH']}",
    }


def start(command: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_they_are_the_ones_that_are_tried_below():
    first = [command.split()[0] for command in COMMANDS]
    assert first == [
        *(".venv/bin/python", "scripts/launch", "abs-dssp", ".venv/bin/python")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_a_start_on_one_machine(number, tmp_path):
    folder = hosts.tree(tmp_path)
    command = f"{COMMANDS[number]} {SMALL}"
    if command.startswith("abs-dssp"):
        if not Path(sys.executable).with_name("abs-dssp").exists():
            pytest.skip("the package is not installed")
        command = command.replace("launch", "launch --grace_seconds=20", 1)
    with start(command, folder) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    trace = traces.Trace.load(folder / "out" / "dssp" / "trace.npz")
    assert set(trace.worker) == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_guest_takes_part(tmp_path):
    folder = hosts.tree(tmp_path)
    paced = "--delays='constant([0.02,0.02,0.02,0.02,0.02,0.02])'"
    same = f"{SMALL.replace('=2 ', '=40 ')} {paced}"
    path = folder / "out" / "dssp" / log.NAME

    def guests() -> int:
        return sum(e.event.worker == 4 for e in log.read(path)[1])

    with start(f"{COMMANDS[0]} --max_workers=6 {same}", folder) as run:
        try:
            hosts.wait(lambda: path.exists() and log.read(path)[1], "pushes", 60)
            with start(f"{COMMANDS[3]} {same}", folder) as guest:
                hosts.wait(lambda: guests() > 20, "pushes of the guest", 60)
                said, _ = run.communicate(timeout=120)
                guest.communicate(timeout=60)
        finally:
            run.kill()
    assert (run.returncode, guest.returncode) == (0, 0), said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "processes", "workers"),
    [
        ("A worker larger than a device", 1, 2),
        ("A worker over several processes", 2, 2),
    ],
)
def test_workers_of_several_devices(section, processes, workers, tmp_path):
    folder = hosts.tree(tmp_path)
    [command] = [c for c in hosts.documented(section) if "train.py" in c]
    small = "--task=digits --epochs=0.5 --notensorboard"
    with start(f"{command} {small}", folder) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    [path] = (folder / "out").glob("*/trace.npz")
    trace = traces.Trace.load(path)
    assert set(trace.worker) == set(range(workers))
    assert trace.split["devices"] == 4
    assert trace.split.get("processes", 1) == processes
