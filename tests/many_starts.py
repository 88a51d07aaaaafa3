"""Runs experiments/compare.py many times at the price of one import.

Reads one JSON list of arguments a line, answers one JSON object a line. Each run is a
fork made before JAX has touched a device. The repository's root is on PYTHONPATH.
"""

import json
import os
import sys
import tempfile

from abs_dssp.experiment import entry
from experiments import compare


def one(arguments: list[str]) -> dict:
    """Exit status and outputs of one run."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["compare.py", *arguments]
            status = 1
            try:
                entry.run(compare.main)
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
