"""Where the time of a real run went."""

from collections.abc import Mapping
from typing import Any

from abs_dssp.cluster.measures import PARTS
from abs_dssp.cluster.status import Status
from abs_dssp.simulation.what_if import aligned


def summarise(status: Status) -> dict[str, Any]:
    """Seconds by what they were spent on, for JSON.

    Args:
      status: at the end.

    Returns:
      Of the `server`, the seconds of its serving thread since the run began or went on
      in this process: by part of a push, with mean and 99th percentile per push, `rest`
      (such as receiving, and copies for checkpoints) and `idle`; `beside` it, those of
      its other threads; of all `workers` together, the seconds of the whole run.
      `rest` is there what was cancelled, unfinished, absent or before a recovery.
    """
    spent, histograms = status.spent, status.histograms
    parts: dict[str, Any] = {}
    for name in PARTS:
        one = histograms[f"{name}_seconds"]
        parts[name] = {
            "seconds": one.total,
            "mean": one.mean,
            "p99": one.quantile(0.99),
        }
    whole, idle = spent["serving"], spent["idle"]
    busy = sum(part["seconds"] for part in parts.values())
    parts["rest"] = {"seconds": max(0.0, whole - idle - busy)}
    parts["idle"] = {"seconds": idle}
    trips = histograms["round_trip_seconds"].total
    workers = {
        "computing": histograms["staleness_seconds"].total - trips,
        "waiting": sum(w.waiting_share for w in status.workers) * status.seconds,
        "round trips": trips,
    }
    total = len(status.workers) * status.seconds
    workers["rest"] = max(0.0, total - sum(workers.values()))
    return {
        "pushes": histograms["decision_seconds"].count,
        "server": {"seconds": whole, "parts": parts},
        "beside": {name: spent[name] for name in ("evaluations", "checkpoints")},
        "workers": {"seconds": total, "parts": workers},
    }


def table(summary: Mapping[str, Any]) -> str:
    """What `summarise` gives, as aligned text."""
    server, workers = summary["server"], summary["workers"]

    def row(name: str, seconds: float, whole: float, *more: str) -> list[str]:
        share = f"{seconds / whole:.1%}" if whole > 0 else "-"
        return [name, f"{seconds:.2f}", share, *(more or ("", ""))]

    rows = [["where the time went", "seconds", "share", "mean us", "p99 us"]]
    for name, part in server["parts"].items():
        per_push = [f"{1e6 * part[key]:.0f}" for key in ("mean", "p99") if key in part]
        rows.append(
            row(f"server: {name}", part["seconds"], server["seconds"], *per_push)
        )
    for name, seconds in summary["beside"].items():
        rows.append([f"beside it: {name}", f"{seconds:.2f}", "", "", ""])
    for name, seconds in workers["parts"].items():
        rows.append(row(f"workers: {name}", seconds, workers["seconds"]))
    return aligned(rows)
