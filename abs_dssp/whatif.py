"""What another policy would have done with a run's recorded times."""

from abs_dssp.simulation.what_if import *  # noqa: F403
from abs_dssp.simulation.what_if import __all__ as __all__
