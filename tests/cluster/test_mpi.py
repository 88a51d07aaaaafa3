"""Runs under mpirun; with the documented commands."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import hosts
import psutil
import pytest
from hosts import wait

import scripts
from abs_dssp import traces
from abs_dssp.cluster import keys, log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("mpirun"), reason="needs mpirun (Debian: openmpi-bin)"
    ),
]
SMALL = "--task=quadratic --epochs=2 --notensorboard"
LONG = (
    "--task=quadratic --epochs=10 --notensorboard "
    '--delays="constant([0.02,0.02,0.02,0.02])"'
)


def command(which: int) -> str:
    """The documented one, on one machine of few cores."""
    found = [c for c in hosts.documented("Open MPI") if c.startswith("mpirun")]
    assert len(found) == 2
    return found[which].replace("mpirun", "mpirun --oversubscribe --allow-run-as-root")


def start(folder: Path, text: str) -> subprocess.Popen:
    with open(folder / "log", "ab") as file:
        return subprocess.Popen(
            ["sh", "-c", f"exec {text}"],
            cwd=folder,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=scripts.one_device() | {"PYTHONPATH": str(scripts.ROOT)},
        )


@pytest.fixture
def folder(tmp_path):
    hosts.tree(tmp_path)
    keys.make(tmp_path / "cluster.key")
    return tmp_path


def end(process: subprocess.Popen) -> None:
    """Kills mpirun and all that it started, if it still runs."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()


def said(folder: Path) -> str:
    return (folder / "log").read_text()


def test_jax_finds_mpiruns_processes(folder):
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True)
    if not re.search(r"\(Open MPI\) [1-4]\.", version.stdout):
        pytest.skip("JAX knows Open MPI 4 and older")
    process = start(folder, f"{command(0)} {SMALL}")
    try:
        assert process.wait(120) == 0, said(folder)
    finally:
        end(process)
    trace = traces.Trace.load(folder / "out" / "dssp" / "trace.npz")
    assert set(trace.worker) == {0, 1, 2, 3}


def test_a_death_ends_all_and_the_same_command_goes_on(folder):
    """The flags, which any version of Open MPI needs no help with."""
    text = command(1).replace("HOST:PORT", "127.0.0.1:23451")
    assert text.endswith("'")
    text = f"{text[:-1]} {LONG}'"
    path = folder / "out" / "dssp" / log.NAME
    process = start(folder, text)
    try:
        wait(lambda: path.exists() and len(log.read(path)[1]) > 40, "pushes", 90,
             log=folder / "log")  # fmt: skip
        [victim] = [
            each
            for each in psutil.Process(process.pid).children(recursive=True)
            if "--process_id=2" in each.cmdline() and "-S" not in each.cmdline()
        ]
        os.kill(victim.pid, signal.SIGKILL)
        assert process.wait(60) != 0
        assert "killed" in said(folder).lower()
        before = len(log.read(path)[1])
        process = start(folder, text)
        assert process.wait(120) == 0, said(folder)
    finally:
        end(process)
    assert "recovered" in said(folder)
    trace = traces.Trace.load(folder / "out" / "dssp" / "trace.npz")
    assert len(trace) > before - 10 and set(trace.worker[-20:]) == {0, 1, 2, 3}
