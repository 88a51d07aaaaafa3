"""Runs scripts and modules many times at the price of one import.

Reads one JSON list a line, of a script's path or `-m` and a module, and its arguments;
answers one JSON object a line. Each run is a fork made before JAX has touched a device,
and before anything has defined a flag. The repository's root is on PYTHONPATH.
"""

import json
import os
import runpy
import sys
import tempfile

import abs_dssp.experiment.entry  # what takes the time; defines no flags
import abs_dssp.experiment.run
import abs_dssp.report.curves
import abs_dssp.report.timeline
import abs_dssp.verify
import abs_dssp.whatif  # noqa: F401


def start(command: list[str]) -> None:
    """As `python COMMAND...` would."""
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


def one(command: list[str]) -> dict:
    """Exit status and outputs of one run."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 1
            try:
                start(command)
                status = 0
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                else:
                    status = end.code or 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, wait_status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(wait_status),
            "out": out.read(),
            "err": err.read(),
        }


for line in sys.stdin:
    print(json.dumps(one(json.loads(line))), flush=True)
