"""What another policy would have done with a run's recorded times."""

from abs_dssp.simulation.what_if import (
    FIELDS,
    Times,
    caveats,
    delays_of,
    figures,
    recorded_times,
    reschedule,
    staleness_seconds,
    table,
    version_times,
)

__all__ = [
    "FIELDS",
    "Times",
    "caveats",
    "delays_of",
    "figures",
    "recorded_times",
    "reschedule",
    "staleness_seconds",
    "table",
    "version_times",
]
