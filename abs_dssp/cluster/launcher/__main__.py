"""`python -m abs_dssp.cluster.launcher`: see `launch`."""

import abs_dssp.interrupts  # noqa: F401  # first: Ctrl-C during the others

# isort: split
import sys

from abs_dssp.cluster.launcher import launch

sys.exit(launch.main(sys.argv[1:]))
