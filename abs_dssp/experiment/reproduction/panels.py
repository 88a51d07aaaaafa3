"""Pictures of the papers' kind: panels of curves with bands over seeds."""

import dataclasses
import string
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp import extras
from abs_dssp.experiment.reproduction.runs import Outcome
from abs_dssp.report import curves as curves_lib
from abs_dssp.report import style
from abs_dssp.training.evaluation import History

_LINE = 0.004  # accuracy that a line is wide


@dataclasses.dataclass(frozen=True)
class Curve:
    """The runs of one method."""

    label: str
    histories: Sequence[History]  # one per seed
    look: dict[str, Any]  # matplotlib's line arguments
    band: bool = True  # one deviation over seeds
    early: Sequence[History] = ()  # for a logarithmic axis, if they are others


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
    with extras.needed("a picture"):
        import matplotlib

    cmap = matplotlib.colormaps["cividis"]
    return [
        {"color": cmap(0.05 + 0.85 * i / max(1, count - 1)), "linewidth": 0.8}
        for i in range(count)
    ]


def curves(
    outcomes: Mapping[str, Sequence[Outcome]],
    looks: Sequence[dict[str, Any]] | None = None,
) -> list[Curve]:
    """A line for every method, in order.

    Args:
      outcomes: by method, one per seed.
      looks: of the lines; `look` of their numbers by default.
    """
    looks = looks or [look(number) for number in range(len(outcomes))]
    return [
        Curve(
            name,
            [outcome.history for outcome in made],
            style,
            early=[outcome.rounds for outcome in made],
        )
        for (name, made), style in zip(outcomes.items(), looks, strict=True)
    ]


def time_and_epochs(lines: Sequence[Curve]) -> list[Panel]:
    """The same lines against time and against epochs."""
    return [
        Panel("against time", lines),
        Panel("against epochs", lines, "epoch", "epochs of samples"),
    ]


def save(panels: Sequence[Panel], path: Path, columns: int = 2) -> Path:
    """Draws panels side by side, with one legend below every row.

    Curves that coincide are drawn once and labelled together.
    """
    rows = -(-len(panels) // columns)
    shown = [panels[r * columns : (r + 1) * columns] for r in range(rows)]
    with style.figure() as canvas:
        # Inches of a panel, and characters that fit into a line of its title.
        width, room = (3.3, 48) if columns < 3 else (2.45, 34)
        figure = canvas.figure(figsize=(width * columns, 2.95 * rows))
        parts = np.atleast_1d(figure.subfigures(rows, 1))
        letters = iter(string.ascii_lowercase)
        for part, row in zip(parts, shown, strict=True):
            axes = np.atleast_1d(part.subplots(1, columns))
            for axis, panel in zip(axes, row, strict=False):
                letter = f"({next(letters)}) " if len(panels) > 1 else ""
                _draw(axis, panel, textwrap.fill(letter + panel.title, room))
            for axis in axes[len(row) :]:
                axis.set_visible(False)
            axes[0].set_ylabel("test accuracy")
            handles: dict[
                str, Any
            ] = {}  # by label; curves may coincide in some panels only
            for axis in axes[: len(row)]:
                for handle, label in zip(
                    *axis.get_legend_handles_labels(), strict=True
                ):
                    handles.setdefault(label, handle)
            look = {"columnspacing": 1.0, "handlelength": 1.8}
            look["ncols"] = min(len(handles), 7 if columns > 2 else 5)
            part.legend(
                handles.values(), handles.keys(), loc="outside lower center", **look
            )
        return style.save(figure, path)


def together_named(labels: Sequence[str]) -> str:
    """The label of a line that stands for several.

    Example:
      >>> together_named(["a", "b"]), together_named(["s = 3", "s = 4", "s = 5", "all"])
      ('a; b', 's = 3 ... all')
    """
    return "; ".join(labels) if len(labels) < 4 else f"{labels[0]} ... {labels[-1]}"


def together(histories: Sequence[History]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and accuracies of several seeds on one grid."""
    return curves_lib.together(histories, "seconds", "accuracy")


def average(groups: Sequence[Sequence[History]]) -> list[History]:
    """For every seed, the mean accuracy over several methods, against seconds.

    Args:
      groups: of each method, one history per seed.
    """
    averaged = []
    for histories in zip(*groups, strict=True):
        x, values = together(histories)
        pairs = zip(x.tolist(), values.mean(axis=0).tolist(), strict=True)
        records = tuple({"seconds": t, "accuracy": value} for t, value in pairs)
        averaged.append(History(records, np.empty(0)))
    return averaged


def _draw(axes, panel: Panel, title: str) -> None:
    lines: list[tuple[list[str], np.ndarray, np.ndarray, Curve]] = []
    for curve in panel.curves:
        histories = (panel.log and curve.early) or curve.histories
        x, values = curves_lib.together(histories, panel.against, "accuracy")
        if panel.log:  # 0 has no place there
            x, values = x[x > 0], values[:, x > 0]
        if not x.size:
            continue  # every run diverged
        same = (line for line in lines if _coincide(x, values, line[1], line[2]))
        if (line := next(same, None)) is not None:
            line[0].append(curve.label)
        else:
            lines.append(([curve.label], x, values, curve))
    for labels, x, values, curve in lines:
        label = together_named(labels)
        curves_lib.draw_mean(axes, x, values, label, curve.look, curve.band)
    if not panel.log and lines:
        _leave_out_the_steep_part(axes, [(x, values) for _, x, values, _ in lines])
    if panel.target is not None:
        axes.axhline(panel.target, color="0.5", linewidth=0.7, linestyle=":")
    if panel.log:
        axes.set_xscale("log")
    axes.set_title(title, loc="left")
    axes.set_xlabel(panel.xlabel)
    axes.margins(x=0.01)


def _leave_out_the_steep_part(axes, lines) -> None:
    """Lets the axis begin where the lowest line is after a tenth of the longest one."""
    tenth = 0.1 * max(x[-1] for x, _ in lines)
    late = [np.interp(tenth, x, v.mean(axis=0)) for x, v in lines if x[-1] > tenth]
    low, high = min(late), max(v.mean(axis=0).max() for _, v in lines)
    if low < high:
        axes.set_ylim(bottom=low - 0.05 * (high - low))


def _coincide(x, values, other_x, other_values) -> bool:
    """Whether one line would hide the other: all along less than its width apart."""
    mean = np.interp(x, other_x, other_values.mean(axis=0))
    ends = abs(x[-1] - other_x[-1]) <= 0.01 * other_x[-1]
    return bool(ends and np.abs(values.mean(axis=0) - mean).max() < _LINE)
