"""Pictures of the papers' kind: panels of curves with bands over seeds."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp.report import curves, style
from abs_dssp.training.evaluation import History


@dataclasses.dataclass(frozen=True)
class Curve:
    """The runs of one method."""

    label: str
    histories: Sequence[History]  # one per seed
    look: dict[str, Any]  # matplotlib's line arguments
    band: bool = True  # one deviation over seeds


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    curves: Sequence[Curve]
    against: str = "seconds"
    xlabel: str = "virtual time (s)"
    log: bool = False
    target: float | None = None


def look(number: int, **more: Any) -> dict[str, Any]:
    """The `number`-th method's line."""
    return style.line(number) | more


def shades(count: int) -> list[dict[str, Any]]:
    """Lines for a series of parameter values, from dark to light."""
    import matplotlib

    cmap = matplotlib.colormaps["cividis"]
    return [
        {"color": cmap(0.05 + 0.85 * i / max(1, count - 1)), "linewidth": 0.8}
        for i in range(count)
    ]


def save(panels: Sequence[Panel], path: Path, columns: int = 2) -> Path:
    """Draws panels side by side with one legend per row of equal legends."""
    rows = -(-len(panels) // columns)
    lines = [panels[r * columns : (r + 1) * columns] for r in range(rows)]
    with style.figure() as plt:
        width = 3.3 * columns if columns < 3 else 2.45 * columns
        figure = plt.figure(figsize=(width, 2.95 * rows))
        parts = np.atleast_1d(figure.subfigures(rows, 1))
        numbers = itertools.count()
        for part, line in zip(parts, lines, strict=True):
            axes = np.atleast_1d(part.subplots(1, columns))
            for place, panel in zip(axes, line, strict=False):
                _draw(place, panel, next(numbers), len(panels) > 1)
            for place in axes[len(line) :]:
                place.set_visible(False)
            axes[0].set_ylabel("test accuracy")
            handles, labels = axes[0].get_legend_handles_labels()
            count = min(len(labels), 7 if columns > 2 else 4)
            part.legend(
                handles, labels, loc="outside lower center", ncols=count,
                columnspacing=1.0, handlelength=1.8,
            )  # fmt: skip
        return style.save(figure, path)


def together(histories: Sequence[History]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and accuracies of several seeds on one grid."""
    return curves.together(histories, "seconds", "accuracy")


def _draw(axes, panel: Panel, number: int, lettered: bool) -> None:
    lowest = []
    for curve in panel.curves:
        x, values = curves.together(curve.histories, panel.against, "accuracy")
        if not x.size:
            axes.plot([], [], label=curve.label, **curve.look)
            continue
        mean = values.mean(axis=0)
        axes.plot(x, mean, label=curve.label, **curve.look)
        lowest.append(mean[len(mean) // 5])
        if len(values) > 1 and curve.band:
            spread = values.std(axis=0, ddof=1)
            axes.fill_between(
                x, mean - spread, mean + spread, color=curve.look["color"], alpha=0.12,
                linewidth=0,
            )  # fmt: skip
    if panel.target is not None:
        axes.axhline(panel.target, color="0.5", linewidth=0.7, linestyle=":")
    if panel.log:
        axes.set_xscale("log")
    letter = f"({'abcdefghijkl'[number]}) " if lettered else ""
    axes.set_title(letter + panel.title, loc="left")
    axes.set_xlabel(panel.xlabel)
    axes.margins(x=0.01)
