"""`python -m abs_dssp.cluster.launcher`: see `launch`."""

import sys

from abs_dssp.cluster.launcher import launch

sys.exit(launch.main(sys.argv[1:]))
