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

__all__ = ["COLUMNS", "FORMAT", "FORMAT_VERSION", "Event", "Trace", "TraceError"]
__all__ += ["fingerprint", "package_versions", "rows_of_workers"]
