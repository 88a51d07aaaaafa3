"""The simulated cluster: promises kept, one history per seed, planted faults found."""

import dataclasses
import os
import random
import subprocess
import sys
import time

import planted
import pytest

from abs_dssp.cluster.simulate import faults, shrink
from abs_dssp.cluster.simulate.disk import Files, Host
from abs_dssp.cluster.simulate.scenario import Scenario
from abs_dssp.cluster.simulate.world import Process, World

ALL = faults.Faults()
_SECONDS = 6.0  # of fresh seeds; `scripts/test` gives them a minute more


def test_fresh_seeds_keep_every_promise():
    """Other seeds at every run; one that breaks is to be reported with its number."""
    first = random.SystemRandom().randrange(10**9)
    end = time.monotonic() + _SECONDS
    counts = 0
    for seed in range(first, first + 10_000):
        outcome = Scenario(seed, ALL).run()
        assert not outcome.violation, (
            f"python -m abs_dssp.cluster.simulate --seed={seed}: {outcome.violation}"
        )
        counts += sum(outcome.faults.values())
        if time.monotonic() > end:
            break
    assert counts > 10


def _digest(seed: int) -> str:
    command = [sys.executable, "-m", "abs_dssp.cluster.simulate", f"--seed={seed}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def test_a_seed_gives_one_history():
    one = Scenario(6, ALL).run()
    assert Scenario(6, ALL).run() == one
    assert one.faults and one.starts > 3


@pytest.mark.slow
def test_a_seed_gives_one_history_a_hundred_times_and_in_every_process():
    digests = {Scenario(9, ALL).run().digest for _ in range(100)}
    assert [f"{digest:08x}" for digest in digests] == [_digest(9)]


@pytest.mark.slow  # `scripts/test` runs it in any case
def test_processes_side_by_side_run_the_same_seeds():
    command = [sys.executable, "-m", "abs_dssp.cluster.simulate", "--seeds=24"]
    done = [
        subprocess.run([*command, more], capture_output=True, text=True, check=True)
        for more in ("--jobs=1", "--jobs=2")
    ]
    one, other = (each.stdout.splitlines()[-1] for each in done)
    assert one == other and "kill" in one


SOME = (0, 21)  # of the core, of membership


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(i, marks=() if i in SOME else pytest.mark.slow)
        for i in range(len(planted.PLANTED))
    ],
)
def test_a_planted_fault_is_found(number):
    command = [sys.executable, planted.__file__, str(number), "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout.startswith("seed "), done


def test_without_faults_nothing_is_counted():
    outcome = Scenario(0, faults.NONE).run()
    assert not outcome.violation and not outcome.faults
    assert outcome.starts == 3


def test_the_faults_that_are_left_break_alone():
    needed = {5, 17, 40}
    kept = shrink.shrink(list(range(60)), lambda only: needed <= only, 500)
    assert kept == needed


def test_faults_are_chosen_by_name():
    assert faults.parse("none,kill=0.5") == dataclasses.replace(faults.NONE, kill=0.5)
    with pytest.raises(ValueError, match="'quake' is none of kill"):
        faults.parse("quake=1")
    with pytest.raises(ValueError, match="kill must be a chance from 0 to 1, got 'x'"):
        faults.parse("kill=x")
    with pytest.raises(ValueError, match="from 0 to 1, got 2.0"):
        faults.parse("kill=2")


# The simulated disk itself, against what POSIX promises.


def _files(seed: int) -> tuple[World, Host, Files]:
    world = World(seed, faults.Dice(seed, faults.NONE))
    host = Host(world, "a")
    process = Process(world, host, "process", 1)
    process.main = process  # nothing waits here
    return world, host, Files(process, lambda name, file: None)


def test_what_was_synced_survives_a_loss_of_power_and_what_was_not_may_not():
    lost = 0
    for seed in range(60):
        world, host, files = _files(seed)
        descriptor = files.open("/x", os.O_WRONLY | os.O_CREAT)
        files.write(descriptor, b"a" * 100)
        files.fsync(descriptor)
        files.write(descriptor, b"b" * 300)
        host.lose_power()
        content = bytes(host.files["/x"].content)
        assert content[:100] == b"a" * 100
        assert set(content[100:]) <= {0, ord("b")}
        lost += content != b"a" * 100 + b"b" * 300
    assert 0 < lost


def test_a_name_that_was_not_synced_may_be_the_old_one():
    seen = set()
    for seed in range(40):
        world, host, files = _files(seed)
        for name, text in (("/new", b"new"), ("/old", b"old")):
            descriptor = files.open(name, os.O_WRONLY | os.O_CREAT)
            files.write(descriptor, text)
            files.fsync(descriptor)
        files.replace("/new", "/old")
        host.lose_power()
        seen.add(bytes(host.files["/old"].content))
    assert seen == {b"old", b"new"}
