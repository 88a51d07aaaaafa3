"""How figures look: colour-blind safe, legible in print at column width."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from abs_dssp import extras, files

# Okabe and Ito's palette, distinguishable with every common colour blindness.
COLORS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#D9C400",
    "light grey": "#D5D5D5",
    "pale blue": "#B5D3E7",
}
_LINES = ["blue", "vermilion", "green", "orange", "purple", "sky", "black"]
_DASHES = ["-", (0, (5, 1.5)), (0, (1, 1))]


def line(number: int) -> dict[str, Any]:
    """Colour and dash of the `number`-th line; all of the first 21 differ."""
    color = COLORS[_LINES[number % len(_LINES)]]
    return {"color": color, "linestyle": _DASHES[number // len(_LINES) % 3]}


class Canvas:
    """Makes figures that no window and no list of open figures knows of."""

    @staticmethod
    def figure(**settings: Any) -> Any:
        """An empty figure of Matplotlib."""
        from matplotlib.figure import Figure

        return Figure(**settings)

    def subplots(
        self, rows: int = 1, columns: int = 1, *, figsize: Any = None, **settings: Any
    ) -> tuple[Any, Any]:
        """A figure and its axes."""
        made = self.figure(figsize=figsize)
        return made, made.subplots(rows, columns, **settings)


@contextlib.contextmanager
def figure() -> Iterator[Canvas]:
    """The project's settings, for what is drawn and saved meanwhile.

    The backend and the open figures of the caller's own stay as they are.

    Raises:
      MissingExtraError: if matplotlib is not installed.
    """
    with extras.needed("a picture"):
        import matplotlib

    settings: Any = {
        "figure.constrained_layout.use": True,
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.4,
        "savefig.dpi": 200,
    }
    with matplotlib.rc_context(settings):
        yield Canvas()


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes a figure; the file appears whole or not at all."""
    path = Path(path)
    # A fixed creator: the same numbers give the same bytes.
    metadata = {"Software": None} if path.suffix == ".png" else None
    with files.whole(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], metadata=metadata)
    return path


def plain_numbers(axis: Any) -> None:
    """Writes the numbers of a logarithmic axis as 0.3 and 20, and not as powers."""
    from matplotlib import ticker

    class Plain(ticker.LogFormatter):
        def __call__(self, x, pos=None):
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(2, 0.4)))
