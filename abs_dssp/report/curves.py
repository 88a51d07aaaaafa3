"""Accuracy against time and rounds, and how stale the pushes were."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from abs_dssp.history.traces import Trace
from abs_dssp.report import style
from abs_dssp.training.evaluation import History

MOST = 8  # curves on one pair of axes; more get a pair each
_COLUMNS = 4  # of such pairs
_SMALL: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 7}
_OVER_LINES = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
_LONG = 40  # characters of a policy's text of which two stand side by side
_AXES = {
    "seconds": "virtual time (s)",
    "version": "communication rounds (commits)",
    "epoch": "epochs of samples processed",
    "push": "pushes received",
    "megabytes": "megabytes pushed and pulled",
}


class Line(NamedTuple):
    """The runs of one policy on one grid."""

    name: str
    x: Float[np.ndarray, " G"]
    values: Float[np.ndarray, "S G"]  # of S seeds


def save_curves(
    runs: Mapping[str, Sequence[History]],
    path: str | os.PathLike[str],
    against: str = "seconds",
    measure: str = "accuracy",
    target: float | None = None,
    real: bool = False,
) -> Path:
    """Writes what `picture` draws, as PNG or PDF; see there."""
    with style.figure():
        return style.save(picture(runs, against, measure, target, real), path)


def picture(
    runs: Mapping[str, Sequence[History]],
    against: str = "seconds",
    measure: str = "accuracy",
    target: float | None = None,
    real: bool = False,
    bounds: tuple[float, float] | None = None,
) -> Any:
    """One line per policy, the mean over its runs, with a band of one deviation.

    More than `MOST` policies get a panel each, in which the others are grey.

    Args:
      runs: histories of every policy's seeds, in the order of the legend.
      against: `"seconds"`, `"version"`, `"epoch"`, `"push"`, or `"megabytes"` of
        histories that `summary.with_megabytes` gave.
      measure: column of the histories.
      target: value to mark with a horizontal line.
      real: whether the seconds are those of a real run.
      bounds: where the vertical axis begins and ends; see `limits` for the default.

    Returns:
      A figure of Matplotlib.

    Raises:
      ValueError: for anything else to draw against.
    """
    if against not in _AXES:
        known = ", ".join(_AXES)
        raise ValueError(f"curves: unknown axis {against!r}; known: {known}.")
    lines = []
    for name, histories in runs.items():
        x, values = together(histories, against, measure)
        if measure == "loss":  # the axis is logarithmic
            kept = (values > 0).all(axis=0) if len(values) else np.array([], bool)
            x, values = x[kept], values[:, kept]
        lines.append(Line(name, x, values))
    labels = {"y": f"test {measure}", "x": _AXES[against]}
    if real and against == "seconds":
        labels["x"] = "time (s)"
    with style.figure() as canvas:
        many = len(lines) > MOST
        figure, panels = _small(canvas, lines) if many else _single(canvas, lines)
        bounds = bounds or limits(lines, measure, target)
        for axes in panels:
            _set_axes(axes, against, measure, bounds)
            if target is not None:
                _mark(axes, target, written=axes is panels[0])
        for number, line in enumerate(lines if many else []):
            _say_if_outside(panels[number], [line], bounds, "")
        if not many:
            _say_if_outside(panels[0], lines, bounds, "outside the picture: ")
            panels[0].set_xlabel(labels["x"])
            panels[0].set_ylabel(labels["y"])
            columns = 1 if any(len(name) > _LONG for name in runs) else 2
            figure.legend(loc="outside lower center", ncols=columns)
        else:
            figure.supxlabel(labels["x"], fontsize=8)
            figure.supylabel(labels["y"], fontsize=8)
        return figure


def limits(
    lines: Sequence[Line], measure: str, target: float | None = None
) -> tuple[float, float] | None:
    """Where the vertical axis begins and ends; None without a line.

    The first tenth of the longest run is left out, where curves lie on each other, and
    a curve that ends much worse than the others does not make these flat.

    Args:
      lines: the curves.
      measure: `"accuracy"` stays within 0..1; of `"loss"` the lower is better.
      target: to be shown too.

    Example:
      >>> x = np.arange(11.0)
      >>> good, bad = np.linspace(0.5, 0.9, 11), np.full(11, 0.1)
      >>> both = [Line("a", x, good[None]), Line("b", x, good[None])]
      >>> low, high = limits([*both, Line("diverged", x, bad[None])], "accuracy")
      >>> 0.5 < low < 0.6, 0.9 < high < 1
      (True, True)
    """
    known = [line for line in lines if line.x.size]
    if not known:
        return None
    tenth = 0.1 * max(float(line.x[-1]) for line in known)
    curves = [_goodness(line.values.mean(axis=0), measure) for line in known]
    late = [
        curve[line.x >= min(tenth, float(line.x[-1]))]
        for line, curve in zip(known, curves, strict=True)
    ]
    ends = np.array([curve[-1] for curve in curves])
    best, middle = ends.max(), float(np.median(ends))
    least = middle - max(3 * (best - middle), 1.0 if measure == "loss" else 0.1)
    shown = [curve for curve, end in zip(late, ends, strict=True) if end >= least]
    # Not the least of a curve: a dip is no reason to make all others flat.
    low = min(float(np.percentile(curve, 10)) for curve in shown)
    high = max(float(curve.max()) for curve in shown)
    if target is not None:
        wanted = float(_goodness(np.array([target]), measure)[0])
        low, high = min(low, wanted), max(high, wanted)
    room = 0.05 * max(high - low, 1e-3)
    low, high = low - room, high + room
    if measure == "accuracy":
        return max(low, 0.0), min(high, 1.0)
    return (10**-high, 10**-low) if measure == "loss" else (low, high)


def _goodness(values, measure: str):
    """Higher is better, on a scale that is shown evenly."""
    return -np.log10(values) if measure == "loss" else values


def _single(canvas, lines: Sequence[Line]) -> tuple[Any, list[Any]]:
    figure, axes = canvas.subplots(figsize=(5.6, 4.4))
    for number, line in enumerate(lines):
        if line.x.size:
            label = textwrap.fill(line.name, 2 * _LONG)
            draw_mean(axes, line.x, line.values, label, style.line(number))
    return figure, [axes]


def _small(canvas, lines: Sequence[Line]) -> tuple[Any, list[Any]]:
    """A panel for each line, with the others behind it."""
    rows = -(-len(lines) // _COLUMNS)
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    size = (1.95 * _COLUMNS, 0.5 + 1.6 * rows)
    figure, panels = canvas.subplots(rows, _COLUMNS, figsize=size, **shared)
    used = list(panels.flat[: len(lines)])
    for axes, own in zip(used, lines, strict=True):
        for line in lines:
            if line is not own and line.x.size:
                mean = line.values.mean(axis=0)
                axes.plot(line.x, mean, color="0.82", linewidth=0.7, zorder=1)
        if own.x.size:
            draw_mean(axes, own.x, own.values, own.name, style.line(0))
        axes.set_title(_folded(own.name), loc="left", fontsize=6.5)
    for axes in panels.flat[len(lines) :]:
        axes.set_visible(False)
    for axes in used[-_COLUMNS:]:  # also above an empty place
        axes.tick_params(labelbottom=True)
    return figure, used


def _folded(name: str, width: int = 32) -> str:
    """A long name on several lines, broken after commas, semicolons and spaces."""
    lines = []
    while len(name) > width:
        places = [i + 1 for i, c in enumerate(name[:width]) if c in ",; "]
        at = places[-1] if places else width
        lines.append(name[:at].rstrip())
        name = name[at:].lstrip()
    return "\n".join([*lines, name])


def _set_axes(axes, against: str, measure: str, bounds) -> None:
    axes.margins(x=0.01)
    if measure == "loss":
        axes.set_yscale("log")
        style.plain_numbers(axes.yaxis)
    if against in ("version", "megabytes"):
        axes.set_xscale("log")
        style.plain_numbers(axes.xaxis)
    if bounds is not None:
        axes.set_ylim(*bounds)


def _mark(axes, target: float, written: bool) -> None:
    axes.axhline(target, color="0.5", linewidth=0.7, linestyle=":")
    if written:
        shift = {"xytext": (-2, -2), "textcoords": "offset points"}
        look = _SMALL | shift | {"color": "0.35", "bbox": _OVER_LINES}
        place = {"xy": (1.0, target), "xycoords": ("axes fraction", "data")}
        axes.annotate(f"target {target:g}", **place, **look).set_in_layout(False)


def _say_if_outside(axes, lines: Sequence[Line], bounds, words: str) -> None:
    """Names the lines whose end the picture does not show, and their values there."""
    outside = []
    cut: set[str] = set()
    for line in lines:
        if bounds is None or not line.x.size:
            outside.append((line.name, "no finite value"))
            continue
        mean = line.values.mean(axis=0)
        if not bounds[0] <= (end := float(mean[-1])) <= bounds[1]:
            outside.append((line.name, f"ends at {end:.3g}"))
        cut |= {f"below {bounds[0]:.3g}"} if mean.min() < bounds[0] else set()
        cut |= {f"above {bounds[1]:.3g}"} if mean.max() > bounds[1] else set()
    alone = len(lines) == 1
    said = [words_ if alone else f"{name} {words_}" for name, words_ in outside]
    if said:
        text = words + "; ".join(said[:3]) + (" ..." if len(said) > 3 else "")
    elif cut and words:  # a curve leaves the picture and comes back
        text = f"not shown: values {' and '.join(sorted(cut))}"
    else:
        return
    look = _SMALL | {"fontsize": 6, "color": "0.35", "ha": "left", "va": "bottom"}
    look["bbox"] = _OVER_LINES
    axes.text(0.02, 0.02, text, transform=axes.transAxes, **look).set_in_layout(False)


def save_staleness(traces: Mapping[str, Trace], path: str | os.PathLike[str]) -> Path:
    """Writes what `staleness_picture` draws."""
    with style.figure():
        return style.save(staleness_picture(traces), path)


def staleness_picture(traces: Mapping[str, Trace]) -> Any:
    """A histogram per policy: share of pushes by staleness, in versions."""
    columns = 2 if len(traces) > 1 else 1
    lines = -(-len(traces) // columns)
    titles = [_folded(name, 46) for name in traces]
    height = 1.05 + 0.1 * (1 + max(title.count("\n") for title in titles))
    with style.figure() as canvas:
        size = (6.4, 0.8 + height * lines)
        shared = {"figsize": size, "sharex": True, "sharey": True}
        figure, panels = canvas.subplots(lines, columns, squeeze=False, **shared)
        most = max(int(t.staleness.max(initial=0)) for t in traces.values())
        limit = min(most, max(8, int(max(_high(t) for t in traces.values()))))
        shown = zip(panels.flat, titles, traces.values(), strict=False)
        for number, (axes, title, trace) in enumerate(shown):
            staleness = trace.staleness
            counts = np.bincount(np.minimum(staleness, limit), minlength=limit + 1)
            shares = counts / max(len(trace), 1)
            color = style.line(number)["color"]
            axes.bar(np.arange(limit + 1), shares, width=0.85, color=color)
            mean = float(staleness.mean())
            axes.axvline(mean, color="0.3", linewidth=0.8, linestyle=":")
            axes.set_title(title, loc="left", fontsize=7)
            axes.xaxis.get_major_locator().set_params(integer=True)
            note = f"mean {mean:.2f}, max {int(staleness.max())}"
            axes.text(0.99, 0.9, note, transform=axes.transAxes, **_SMALL)
        for axes in panels.flat[len(traces) :]:
            axes.set_visible(False)
        over = f" ({limit}: or more)" if limit < most else ""
        figure.supxlabel(f"staleness (versions){over}", fontsize=8)
        figure.supylabel("share of pushes", fontsize=8)
        return figure


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
        if measure not in history.names:
            continue
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
