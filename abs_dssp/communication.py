"""How long a push takes on its way."""

from abs_dssp.simulation.communication import (
    Communication,
    link,
    none,
    parse,
    per_worker,
)

__all__ = [
    "Communication",
    "link",
    "none",
    "parse",
    "per_worker",
]
