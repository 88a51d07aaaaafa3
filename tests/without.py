"""Runs a command of abs-dssp where some libraries cannot be imported.

without.py LIBRARY,LIBRARY COMMAND ARGUMENTS...
"""

import sys

from abs_dssp import commands

if __name__ == "__main__":
    missing = sys.argv.pop(1)
    for name in missing.split(","):
        sys.modules[name] = None  # type: ignore[assignment]  # import raises then
    commands.main()
