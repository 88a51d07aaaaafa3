"""Runs the experiments as a user does: in a process of their own."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What tests run is so small that compiling takes longer than computing: with these,
# compiling takes two fifths of the time.
QUICK = (
    " --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if importlib.metadata.version("jax").startswith(("0.10.", "0.11.")):
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # unknown later, and then fatal


def one_device():
    """An environment for a process with one device, whose programs round as here."""
    kept = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    return os.environ | {"XLA_FLAGS": " ".join(kept)}


def run(script: str, *arguments: object, timeout: float = 300):
    """Exit status, what was printed, and the errors."""
    return start(ROOT / "experiments" / script, *arguments, timeout=timeout)


def run_fewer(script: str, methods: str, regimes: str, *arguments: object):
    """`run` with only these methods and worker times; see fewer.py."""
    path = ROOT / "experiments" / script
    return start(ROOT / "tests" / "fewer.py", methods, regimes, path, *arguments)


def start(*command: object, timeout: float = 300):
    """What `run` returns, of any Python file and its arguments."""
    done = _started(command, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def start_many(commands, *, path: object = ROOT, timeout: float = 300):
    """What `start` returns, of many commands that share their imports; many_starts.py.

    A command is a script's path, or `-m` and a module, and the arguments. `path` is a
    folder that can be imported from, beside the repository.
    """
    done = _started(
        [ROOT / "tests" / "many_starts.py"],
        input="\n".join(json.dumps([str(each) for each in line]) for line in commands),
        path=f"{ROOT}:{path}",
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(each["code"], each["out"], each["err"]) for each in answers]


def _started(command, *, path: object = ROOT, **settings):
    environment = os.environ | {"PYTHONPATH": str(path)}
    if QUICK not in environment.get("XLA_FLAGS", ""):
        environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + QUICK
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=environment,
        **settings,
    )
