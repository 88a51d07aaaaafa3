"""A run in one row: how fast, how stale, who waited, what was sent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp.training.evaluation import History
from abs_dssp.training.replayer import Result

FIELDS = (
    "seconds_to_target",
    "pushes_to_target",
    "commits_to_target",
    "final_accuracy",
    "final_loss",
    "pushes_per_second",
    "commits",
    "mean_staleness",
    "p95_staleness",
    "max_staleness",
    "waiting_share",
    "cancelled_share",
    "bytes_sent",
)

_TABLE = (  # field, heading, format
    ("seconds_to_target", "s to target", "{:.1f}"),
    ("commits_to_target", "commits to target", "{:.0f}"),
    ("final_accuracy", "accuracy", "{:.4f}"),
    ("final_loss", "loss", "{:.4f}"),
    ("pushes_per_second", "pushes/s", "{:.3g}"),
    ("commits", "commits", "{:.0f}"),
    ("mean_staleness", "staleness", "{:.2f}"),
    ("max_staleness", "max", "{:.0f}"),
    ("waiting_share", "waiting", "{:.1%}"),
    ("cancelled_share", "cancelled", "{:.1%}"),
    ("bytes_sent", "MB sent", "{:.1f}"),
)


def summarise(result: Result, target_accuracy: float | None) -> dict[str, Any]:
    """The fields of `summary.json` for one run; None where there is no value.

    Bytes count every push and pull, at the size of the parameters and statistics.
    """
    trace, history = result.trace, result.history
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(result.variables))
    staleness = trace.staleness
    values = to_target(history, target_accuracy) | {
        "final_accuracy": history.last("accuracy"),
        "final_loss": history.last("loss"),
        "pushes_per_second": trace.pushes_per_second,
        "commits": trace.commits,
        "mean_staleness": float(staleness.mean()) if len(trace) else None,
        "p95_staleness": float(np.percentile(staleness, 95)) if len(trace) else None,
        "max_staleness": int(staleness.max()) if len(trace) else None,
        "waiting_share": trace.waiting_share,
        "cancelled_share": trace.cancelled_share,
        "bytes_sent": trace.bytes_sent(size),
    }
    return {name: _finite(values[name]) for name in FIELDS}


def to_target(history: History, target_accuracy: float | None) -> dict[str, Any]:
    """Where the first evaluation of at least this accuracy lies; None if nowhere."""
    reached = None
    if target_accuracy is not None:
        reached = history.first_reaching(target_accuracy)
    places = {"seconds": "seconds", "pushes": "push", "commits": "version"}
    return {
        f"{name}_to_target": reached[column] if reached else None
        for name, column in places.items()
    }


def over_seeds(policy: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One object per policy: means over seeds, with their spread.

    Means are over the seeds that have a value (`seeds_reaching_target` says how many
    reached the target); `spread` holds sample standard deviations, None for one seed.
    """
    entry: dict[str, Any] = {"policy": policy}
    spread: dict[str, float | None] = {}
    for name in FIELDS:
        values = [run[name] for run in runs if run[name] is not None]
        entry[name] = float(np.mean(values)) if values else None
        spread[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    entry["seeds"] = len(runs)
    entry["seeds_reaching_target"] = sum(
        run["seconds_to_target"] is not None for run in runs
    )
    entry["spread"] = spread
    return entry


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """The entries of `over_seeds` as aligned text, one line per policy."""
    header = ["policy", *(heading for _, heading, _ in _TABLE)]
    rows = [header]
    for entry in entries:
        row = [str(entry["policy"])]
        for name, _, form in _TABLE:
            value, spread = entry[name], entry["spread"][name]
            if name == "bytes_sent":
                value, spread = (x and x / 1e6 for x in (value, spread))
            if value is None:
                row.append("-")
                continue
            text = form.format(value)
            if name in ("seconds_to_target", "final_accuracy") and spread is not None:
                text += f" ±{form.format(spread)}"
            if name == "seconds_to_target":
                some = entry["seeds_reaching_target"]
                text += f" ({some}/{entry['seeds']})" if some < entry["seeds"] else ""
            row.append(text)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite has no value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
