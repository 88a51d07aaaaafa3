"""Runs the experiments as a user does: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What tests run is so small that compiling takes longer than computing.
QUICK = " --xla_backend_optimization_level=0"


def run(script: str, *arguments: object, timeout: float = 300):
    """Exit status, what was printed, and the errors."""
    return start(ROOT / "experiments" / script, *arguments, timeout=timeout)


def run_fewer(script: str, methods: str, regimes: str, *arguments: object):
    """`run` with only these methods and worker times; see fewer.py."""
    path = ROOT / "experiments" / script
    return start(ROOT / "tests" / "fewer.py", methods, regimes, path, *arguments)


def start(*command: object, timeout: float = 300):
    """What `run` returns, of any Python file and its arguments."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + QUICK
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )
    return done.returncode, done.stdout, done.stderr
