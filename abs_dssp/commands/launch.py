"""Runs a command or a Python script in several processes of this machine.

    abs-dssp launch --processes=4 -- train --cluster=auto --policy="bsp()" --out=out/bsp
    abs-dssp launch --processes=4 -- my_training.py --out=out/mine

What every process is told: abs_dssp/cluster/launcher/launch.py.
"""

import sys

from abs_dssp import commands
from abs_dssp.cluster.launcher import launch
from abs_dssp.experiment import entry


def run() -> None:
    """Runs the command."""
    start = entry.again()[:-1]  # without the name of this one
    known = {name: [*start, name] for name in commands.COMMANDS}
    sys.exit(launch.main(sys.argv[1:], sys.argv[0], known))
