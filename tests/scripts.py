"""Runs the experiments as a user does: in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: object, timeout: float = 300):
    """Exit status, what was printed, and the errors."""
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr
