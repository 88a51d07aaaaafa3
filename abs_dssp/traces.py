"""The trace: what happened, one row per push."""

from abs_dssp.history.traces import (
    COLUMNS,
    FORMAT,
    FORMAT_VERSION,
    Event,
    Trace,
    TraceError,
    fingerprint,
    package_versions,
    rows_of_workers,
)

__all__ = [
    "COLUMNS",
    "Event",
    "FORMAT",
    "FORMAT_VERSION",
    "Trace",
    "TraceError",
    "fingerprint",
    "package_versions",
    "rows_of_workers",
]
