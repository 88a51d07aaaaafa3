"""A run in one row: how fast, how stale, who waited, what was sent."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp.history import traffic
from abs_dssp.history.traces import Trace
from abs_dssp.simulation.what_if import aligned, finite
from abs_dssp.training.driver import Result
from abs_dssp.training.evaluation import History

_MEASURES: dict[str, Callable[[Trace, History], Any]] = {
    "final_accuracy": lambda trace, history: _last(history, "accuracy"),
    "final_loss": lambda trace, history: _last(history, "loss"),
    "pushes_per_second": lambda trace, _: trace.pushes_per_second,
    "commits": lambda trace, _: trace.commits,
    "mean_staleness": lambda trace, _: float(trace.staleness.mean()),
    "p95_staleness": lambda trace, _: float(np.percentile(trace.staleness, 95)),
    "max_staleness": lambda trace, _: int(trace.staleness.max()),
    "waiting_share": lambda trace, _: trace.waiting_share,
    "cancelled_share": lambda trace, _: trace.cancelled_share,
    "discarded_share": lambda trace, _: trace.discarded_share,
}
_TO_TARGET = {"seconds": "seconds", "pushes": "push", "commits": "version"}
_BYTES = ("bytes_sent", "peak_bytes_per_second")
FIELDS = (*(f"{name}_to_target" for name in _TO_TARGET), *_MEASURES, *_BYTES)

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
    ("discarded_share", "discarded", "{:.1%}"),
    ("bytes_sent", "MB sent", "{:.1f}"),
    ("peak_bytes_per_second", "MB/s at most", "{:.3g}"),
)
_OF_ACCURACY = ("seconds_to_target", "commits_to_target", "final_accuracy")


def summarise(result: Result, target_accuracy: float | None) -> dict[str, Any]:
    """The fields of `summary.json` for one run; None where there is no value.

    Bytes count every push and pull, at the size of the parameters and statistics; their
    peak is that of any second, see `traffic.moved`.
    """
    trace, history = result.trace, result.history
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(result.variables))
    values = to_target(history, target_accuracy)
    for name, measure in _MEASURES.items():
        known = len(trace) or not name.endswith("_staleness")
        values[name] = finite(measure(trace, history)) if known else None
    peak = traffic.peak_bytes_per_second(trace, size)
    return values | dict(zip(_BYTES, (trace.bytes_sent(size), peak), strict=True))


def _last(history: History, name: str) -> float:
    """The latest value; NaN for a task that has no such measure."""
    return history.last(name) if name in history.names else math.nan


def with_megabytes(history: History, trace: Trace, parameter_bytes: int) -> History:
    """The same evaluations, each with the `megabytes` that had been sent until then.

    Args:
      history: of a run.
      trace: of the run.
      parameter_bytes: of parameters and statistics, as every push and pull has.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> trace = simulate.schedule(policies.asp(1), delays.constant([1.0]), 3)
      >>> history = History(({"push": 2, "loss": 0.5},), np.empty(0))
      >>> with_megabytes(history, trace, 10**6).column("megabytes").tolist()
      [5.0]
    """
    records = tuple(
        {
            **each,
            "megabytes": trace[: int(each["push"])].bytes_sent(parameter_bytes) / 1e6,
        }
        for each in history.records
    )
    return dataclasses.replace(history, records=records)


def to_target(history: History, target_accuracy: float | None) -> dict[str, Any]:
    """Where the first evaluation of at least this accuracy lies; None if nowhere."""
    reached = None
    if target_accuracy is not None and "accuracy" in history.names:
        reached = history.first_reaching(target_accuracy)
    return {
        f"{name}_to_target": finite(reached[column]) if reached else None
        for name, column in _TO_TARGET.items()
    }


def over_seeds(policy: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One object per policy: means over seeds, with their spread.

    Means are over the seeds that have a value (`seeds_reaching_target` says how many
    reached the target); `spread` holds sample standard deviations, None for one seed.
    """
    entry: dict[str, Any] = {"policy": policy}
    spread: dict[str, float | None] = {}
    for name in FIELDS:
        # A run that was kept from before may lack a measure.
        values = [run[name] for run in runs if run.get(name) is not None]
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
    measured = any(entry["final_accuracy"] is not None for entry in entries)
    columns = [each for each in _TABLE if measured or each[0] not in _OF_ACCURACY]
    rows = [["policy", *(heading for _, heading, _ in columns)]]
    for entry in entries:
        row = [str(entry["policy"])]
        for name, _, form in columns:
            value, spread = entry[name], entry["spread"][name]
            if name in _BYTES:
                value, spread = (x and x / 1e6 for x in (value, spread))
            if value is None:
                row.append("-")
                continue
            if name == "seconds_to_target" and value < 10:
                form = "{:.3g}"  # steps may take milliseconds
            text = form.format(value)
            if name in ("seconds_to_target", "final_accuracy") and spread is not None:
                text += f" ±{form.format(spread)}"
            if name == "seconds_to_target":
                some = entry["seeds_reaching_target"]
                text += f" ({some}/{entry['seeds']})" if some < entry["seeds"] else ""
            row.append(text)
        rows.append(row)
    return aligned(rows)
