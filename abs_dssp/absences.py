"""When workers die and return, in virtual time."""

from abs_dssp.simulation.absences import *  # noqa: F403
from abs_dssp.simulation.absences import __all__ as __all__
