"""Becomes a command that ends with its parent: `python child.py PARENT COMMAND...`.

The launcher starts its processes through this file rather than through a function
between fork and exec, which may deadlock in a program with threads. On Linux the kernel
kills the command when the launcher ends in whatever way, also by SIGKILL; elsewhere the
command outlives a launcher that was killed so. Imports the standard library only: it
runs without site-packages, in about 10 ms.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: Sequence[str]) -> None:
    """Replaces this process by `argv[1:]`, the child of process number `argv[0]`."""
    parent, command = int(argv[0]), list(argv[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            sys.exit(1)
    # Process 0 may draw on the terminal from the background: it must not be stopped.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"error: cannot run {command[0]!r}: {error.strerror}.")


if __name__ == "__main__":
    main(sys.argv[1:])
