"""How long computations take: models of worker speed."""

from abs_dssp.simulation.delays import *  # noqa: F403
from abs_dssp.simulation.delays import __all__ as __all__
