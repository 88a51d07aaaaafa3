"""Accuracy against time and rounds, and how stale the pushes were."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp.history.traces import Trace
from abs_dssp.report import style
from abs_dssp.training.evaluation import History

_SMALL: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 7}
_LONG = 40  # characters of a policy's text of which two stand side by side
_AXES = {
    "seconds": "virtual time (s)",
    "version": "communication rounds (commits)",
    "epoch": "epochs of samples processed",
    "push": "pushes received",
    "megabytes": "megabytes pushed and pulled",
}


def save_curves(
    runs: Mapping[str, Sequence[History]],
    path: str | os.PathLike[str],
    against: str = "seconds",
    measure: str = "accuracy",
    target: float | None = None,
    real: bool = False,
) -> Path:
    """One line per policy, the mean over its runs, with a band of one deviation.

    Args:
      runs: histories of every policy's seeds, in the order of the legend.
      path: PNG or PDF.
      against: `"seconds"`, `"version"`, `"epoch"`, `"push"`, or `"megabytes"` of
        histories that `summary.with_megabytes` gave.
      measure: column of the histories.
      target: value to mark with a horizontal line.
      real: whether the seconds are those of a real run.
    """
    with style.figure() as plt:
        figure, axes = plt.subplots(figsize=(5.6, 4.4))
        for number, (name, histories) in enumerate(runs.items()):
            x, values = together(histories, against, measure)
            if x.size:
                label = textwrap.fill(name, 2 * _LONG)
                draw_mean(axes, x, values, label, style.line(number))
        if measure == "loss":
            axes.set_yscale("log")
        if target is not None:
            axes.axhline(target, color="0.5", linewidth=0.7, linestyle=":")
            shift = {"xytext": (-2, 2), "textcoords": "offset points"}
            look = _SMALL | shift | {"va": "bottom", "color": "0.35"}
            place = {"xy": (1.0, target), "xycoords": ("axes fraction", "data")}
            axes.annotate(f"target {target:g}", **place, **look).set_in_layout(False)
        real_time = real and against == "seconds"
        axes.set_xlabel("time (s)" if real_time else _AXES[against])
        axes.set_ylabel(f"test {measure}")
        axes.margins(x=0.01)
        if against in ("version", "megabytes"):
            axes.set_xscale("log")
        _zoom(axes, runs, measure, target)
        columns = 1 if any(len(name) > _LONG for name in runs) else 2
        figure.legend(loc="outside lower center", ncols=columns)
        return style.save(figure, path)


def save_staleness(traces: Mapping[str, Trace], path: str | os.PathLike[str]) -> Path:
    """A histogram per policy: share of pushes by staleness, in versions."""
    columns = 2 if len(traces) > 1 else 1
    lines = -(-len(traces) // columns)
    with style.figure() as plt:
        shared = {"figsize": (6.4, 0.8 + 1.15 * lines), "sharex": True, "sharey": True}
        figure, panels = plt.subplots(lines, columns, squeeze=False, **shared)
        most = max(int(t.staleness.max(initial=0)) for t in traces.values())
        limit = min(most, max(8, int(max(_high(t) for t in traces.values()))))
        shown = zip(panels.flat, traces.items(), strict=False)
        for number, (axes, (name, trace)) in enumerate(shown):
            staleness = trace.staleness
            counts = np.bincount(np.minimum(staleness, limit), minlength=limit + 1)
            shares = counts / max(len(trace), 1)
            color = style.line(number)["color"]
            axes.bar(np.arange(limit + 1), shares, width=0.85, color=color)
            mean = float(staleness.mean())
            axes.axvline(mean, color="0.3", linewidth=0.8, linestyle=":")
            axes.set_title(name, loc="left", fontsize=7)
            note = f"mean {mean:.2f}, max {int(staleness.max())}"
            axes.text(0.99, 0.9, note, transform=axes.transAxes, **_SMALL)
        for axes in panels.flat[len(traces) :]:
            axes.set_visible(False)
        over = f" ({limit}: or more)" if limit < most else ""
        figure.supxlabel(f"staleness (versions){over}", fontsize=8)
        figure.supylabel("share of pushes", fontsize=8)
        return style.save(figure, path)


def draw_mean(axes, x, values, label: str, look: Mapping, band: bool = True) -> None:
    """Draws the mean over seeds with a band of one sample standard deviation.

    Args:
      axes: Matplotlib's.
      x: (G,), where the values were measured.
      values: (seeds, G).
      label: of the legend.
      look: arguments of Matplotlib's `plot`, `color` among them.
      band: False leaves the band out.
    """
    mean = values.mean(axis=0)
    axes.plot(x, mean, label=label, **look)
    if band and len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        look = {"color": look["color"], "alpha": 0.12, "linewidth": 0}
        axes.fill_between(x, mean - spread, mean + spread, **look)


def _high(trace: Trace) -> float:
    return float(np.percentile(trace.staleness, 99.5)) if len(trace) else 0.0


def together(
    histories: Sequence[History], against: str, measure: str
) -> tuple[np.ndarray, np.ndarray]:
    """All seeds on one grid, up to where the shortest one ends.

    Returns:
      Points of `against` (G,) and values of `measure` there (seeds, G), interpolated;
      both empty without records.
    """
    curves = []
    for history in histories:
        x, y = history.column(against), history.column(measure)
        known = np.isfinite(y)
        x, y = x[known], y[known]
        # Of several records with the same x (a version, say) the last one counts.
        last = np.append(np.diff(x) > 0, True) if x.size else np.array([], bool)
        if last.any():
            curves.append((x[last], y[last]))
    if not curves:
        return np.array([]), np.empty((0, 0))
    end = min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x[x <= end] for x, _ in curves]))
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _zoom(axes, runs, measure, target):
    """Leaves out the first steep part, where all curves lie on each other."""
    finals = [history.last(measure) for each in runs.values() for history in each]
    finals = [value for value in finals if np.isfinite(value)]
    finals += [] if target is None else [target]
    if measure == "accuracy" and finals and min(finals) > 0.8:
        axes.set_ylim(min(0.8, min(finals) - 0.1), 1.0)
