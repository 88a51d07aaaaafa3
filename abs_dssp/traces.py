"""The trace: what happened, one row per push."""

from abs_dssp.history.fragments import FragmentedTrace, Take
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
from abs_dssp.history.traffic import moved, peak_bytes_per_second

__all__ = ["COLUMNS", "FORMAT", "FORMAT_VERSION", "Event", "Trace", "TraceError"]
__all__ += ["FragmentedTrace", "Take", "moved", "peak_bytes_per_second"]
__all__ += ["fingerprint", "package_versions", "rows_of_workers"]
