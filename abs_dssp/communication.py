"""How long a push takes on its way."""

from abs_dssp.simulation.communication import *  # noqa: F403
from abs_dssp.simulation.communication import __all__ as __all__
