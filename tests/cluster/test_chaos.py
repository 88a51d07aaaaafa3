"""Real processes under fire: killed, stopped, with messages lost and doubled.

The run must end by itself, its trace must obey the rules, the policy must have decided
every row, and replay must give the parameters of the last checkpoint, bit for bit.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import scripts
from abs_dssp import traces

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--cluster=local", "--processes=3", "--batch_size=8", "--max_restarts=1000",
    "--delays=shifted_exponential(shift=[0.01,0.01,0.03],mean=0.005)",
    "--times=lease=3,beat=0.3,checkpoint=1,evaluate=2,resend=0.5,watchdog=5,"
    "drop=0.02,duplicate=0.02",
]  # fmt: skip
# A policy that cancels computations, one that waits, one that does neither; the second
# over the network.
RUNS = [
    ("abs(k0=1,a=200,tau_max=3)", "auto", 1),
    ("dssp(s_lower=3,s_upper=15)", "tcp", 1),
    ("k_batch_async(k=2)", "auto", 3),
]


@pytest.mark.slow  # the simulated cluster has far more of this in less time
def test_a_short_run_under_fire_replays(tmp_path):
    under_fire(tmp_path, *RUNS[0], epochs=3, events=3, seed=1)


@pytest.mark.slow
def test_workers_of_several_devices_under_fire_replay(tmp_path):
    under_fire(tmp_path, *RUNS[2], epochs=3, events=3, seed=1, devices=4)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "transport", "steps"), RUNS)
@pytest.mark.parametrize("seed", range(2))
def test_a_long_run_under_fire_replays(policy, transport, steps, seed, tmp_path):
    under_fire(tmp_path, policy, transport, steps, epochs=24, events=20, seed=seed)


def under_fire(out, policy, transport, steps, *, epochs, events, seed, devices=1):
    """One run and what is done to it."""
    before = shared_memory()
    command = [
        sys.executable, ROOT / "experiments" / "train.py", *FLAGS,
        f"--policy={policy}", f"--transport={transport}", f"--local_steps={steps}",
        f"--epochs={epochs}", f"--devices_per_worker={devices}",
        f"--out={out / 'run'}",
    ]  # fmt: skip
    environment = scripts.one_device() | {"JAX_PLATFORMS": "cpu"}
    with open(out / "log", "wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    done = collections.Counter[str]()
    try:
        monkey(running, out / "run", random.Random(seed), events, done)
        status = running.wait(1200)
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait(30)
    told = (out / "log").read_text()
    # Whoever was killed just before the end has not come back.
    assert status == (3 if "told to expect" in told else 0), told
    print(f"{policy} over {transport}: {dict(done)}\n{told}")
    trace = traces.Trace.load(out / "run" / "trace.npz")
    samples = 8 * steps
    assert len(trace) == -(-epochs * 1437 // samples)
    replayed = subprocess.run(
        [sys.executable, ROOT / "experiments" / "replay.py", out / "run"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert replayed.returncode == 0, told + replayed.stdout + replayed.stderr
    assert "equal in every bit" in replayed.stdout
    assert not [p for p in psutil.process_iter() if str(out) in " ".join(line(p))]
    assert shared_memory() <= before


def shared_memory() -> set[str]:
    """What lies there, but for the semaphores of other tests' process pools."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}


def monkey(running, folder, choose: random.Random, events: int, done) -> None:
    """Does harm to processes of a run until it ends, or often enough."""
    actions = ["kill the server", "kill a worker", "stop one"]
    choose.shuffle(actions)
    grown = 0
    for number in range(events):
        grown = wait_for_growth(running, folder / "pushes.log", grown)
        processes = indexed(running)
        if running.poll() is not None or not processes:
            return
        action = actions[number % len(actions)]
        index = 0 if action == "kill the server" else choose.choice(sorted(processes))
        if action == "kill a worker":
            index = choose.choice([i for i in processes if i] or [0])
        if index not in processes:
            continue
        done[action] += 1
        victim = processes[index]
        try:
            if action == "stop one":
                victim.send_signal(signal.SIGSTOP)
                time.sleep(choose.choice([0.5, 5.0]))  # within the lease, or not
                victim.send_signal(signal.SIGCONT)
            else:
                victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def wait_for_growth(running, path: Path, before: int) -> int:
    """Waits until some more pushes have been logged; they are what is at stake."""
    end = time.monotonic() + 60
    while time.monotonic() < end and running.poll() is None:
        size = path.stat().st_size if path.exists() else 0
        if size > before + 2000:
            return size
        time.sleep(0.05)
    return before


def indexed(running) -> dict[int, psutil.Process]:
    """The processes of a cluster by their index."""
    found = {}
    try:
        children = psutil.Process(running.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    for child in children:
        for word in line(child):
            if word.startswith("--process_id="):
                found[int(word.partition("=")[2])] = child
    return found


def line(process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
