"""Pictures of runs, for a notebook or a file; Matplotlib is imported when one is drawn.

A notebook shows what these functions return; `.save("picture.png")` writes it, and
`.figure` is Matplotlib's own. They change neither the backend nor open figures.
"""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from abs_dssp import checks
from abs_dssp.history.traces import Trace
from abs_dssp.report import curves as curves_lib
from abs_dssp.report import style, summary
from abs_dssp.report import timeline as timeline_lib
from abs_dssp.training.driver import Result
from abs_dssp.training.evaluation import History

__all__ = ["Picture", "curves", "staleness", "timeline"]

Runs = Result | History | Sequence[Result | History]
Traces = Trace | Result | Sequence[Trace | Result]


@dataclasses.dataclass(frozen=True, repr=False)
class Picture:
    """What was drawn."""

    figure: Any  # matplotlib.figure.Figure

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a file, of the kind that the name says: PNG, PDF or SVG."""
        if not Path(path).suffix:
            raise ValueError(f"save: {path} must end in .png, .pdf or .svg.")
        with style.figure():
            return style.save(self.figure, path)

    def __repr__(self) -> str:
        return '<Picture: .save("picture.png") writes it>'

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        with style.figure():
            self.figure.savefig(written, format="png", dpi=110)
        return written.getvalue()


def timeline(trace: Traces, *, rounds: int = 12, start: float = 0.0) -> Picture:
    """What every worker did when, in a part of a run; a panel for each of several runs.

    Args:
      trace: of a run, or its result; or several of them.
      rounds: how far: about so many pushes of a worker.
      start: seconds of the run at which the picture begins, such as shortly before a
        worker left (`trace.events`).

    Raises:
      TypeError: for anything else than traces and results.
      ValueError: if there is none, or none has a push.

    Example:
      >>> from abs_dssp import plot, simulate
      >>> trace = simulate.schedule("ssp(s=1)", "constant([1, 2.7])", 20)
      >>> plot.timeline(trace)
      <Picture: .save("picture.png") writes it>
    """
    checks.whole("timeline", "rounds", rounds, least=1)
    checks.number("timeline", "start", start)
    traces = _traces("timeline", trace)
    longest = max(each.seconds for each in traces)
    if start >= longest:
        raise ValueError(
            f"timeline: start must be below the length of the run, {longest:.3g} s, "
            f"got {start}."
        )
    return Picture(timeline_lib.picture(traces, rounds, start))


def staleness(trace: Traces) -> Picture:
    """How many versions stale the pushes of runs were: a histogram for each.

    Args:
      trace: of a run, or its result; or several of them.

    Raises:
      TypeError: for anything else than traces and results.
      ValueError: if there is none, or none has a push.

    Example:
      >>> from abs_dssp import plot, simulate
      >>> trace = simulate.schedule("asp()", "constant([1, 2.7])", 20)
      >>> plot.staleness(trace)
      <Picture: .save("picture.png") writes it>
    """
    named: dict[str, Trace] = {}
    for each in _traces("staleness", trace):
        named[_free(named, each.policy)] = each
    return Picture(curves_lib.staleness_picture(named))


def curves(
    results: Runs | Mapping[str, Runs],
    *,
    measure: str | None = None,
    against: str = "seconds",
    target: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """A measure of runs against time, a line for each policy.

    Runs of one policy are its seeds: the line is their mean, the band one standard
    deviation.

    Args:
      results: of one run or several, by policy; or by names of one's own, as in
        `{"slow": one, "fast": [two, three]}`.
      measure: column of the histories; `"accuracy"` if there is one, else `"loss"`.
      against: `"seconds"`, `"version"` (commits), `"epoch"`, `"push"`, or of results
        `"megabytes"` that were pushed and pulled.
      target: value to mark with a line.
      limits: where the vertical axis begins and ends. By default it leaves out the
        first tenth of the longest run, and dips, so that differences show.

    Raises:
      TypeError: for anything else than results and histories.
      ValueError: if there is none, or for a measure or an axis that no run has.

    Example:
      >>> from abs_dssp import plot, simulate
      >>> parts = "constant([1, 2.7])", "sgd(0.1)"
      >>> runs = [simulate.train("quadratic", p, *parts, 20) for p in ("bsp", "asp")]
      >>> plot.curves(runs)
      <Picture: .save("picture.png") writes it>
    """
    named = _by_name(results, against == "megabytes")
    histories = [h for each in named.values() for h in each]
    known = dict.fromkeys(name for history in histories for name in history.names)
    if measure is None:
        measure = "accuracy" if "accuracy" in known else "loss"
    if measure not in known:
        listed = ", ".join(known)
        raise ValueError(f"curves: unknown measure {measure!r}; known: {listed}.")
    if limits is not None:
        ends = list(checks.numbers("curves", "limits", limits).flat)
        if len(ends) != 2 or not ends[0] < ends[1] or (measure == "loss" and 0 in ends):
            raise ValueError(
                "curves: limits must be two numbers, the lower first, above 0 for a "
                f"loss, such as (0.5, 1), got {checks.shown(limits)}."
            )
    drawn = curves_lib.picture(named, against, measure, target, bounds=limits)
    return Picture(drawn)


def _by_name(results: Any, traffic: bool) -> dict[str, list[History]]:
    if isinstance(results, Mapping):
        parts = [(str(name), each) for name, each in results.items()]
    else:
        each = [results] if isinstance(results, (Result, History)) else results
        parts = [("", one) for one in _sequence("curves", each)]
    found: dict[str, list[History]] = {}
    for name, value in parts:
        several = isinstance(results, Mapping) and isinstance(value, (list, tuple))
        for run in value if several else [value]:
            if isinstance(run, Result):
                label = name or run.trace.policy or "run"
                history = run.history
                if traffic:
                    history = _with_megabytes(run)
                found.setdefault(label, []).append(history)
            elif traffic and isinstance(run, History):
                raise ValueError(
                    "curves: against='megabytes' needs results, whose traces know what "
                    "was sent, got a history; give the result itself."
                )
            else:
                checks.kind("curves", "results", run, History, "result.history")
                found.setdefault(name or "run", []).append(run)
    if not found:
        raise ValueError("curves: results must hold at least one run, got none.")
    return found


def _with_megabytes(result: Result) -> History:
    leaves = jax.tree.leaves(result.variables)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return summary.with_megabytes(result.history, result.trace, size)


def _traces(where: str, given: Any) -> list[Trace]:
    alone = isinstance(given, (Trace, Result))
    traces = []
    for each in [given] if alone else _sequence(where, given):
        trace = each.trace if isinstance(each, Result) else each
        checks.kind(where, "trace", trace, Trace, "simulate.schedule(...)")
        traces.append(trace)
    if not any(len(trace) for trace in traces):
        raise ValueError(f"{where}: there must be a run with a push, got none.")
    return traces


def _sequence(where: str, given: Any) -> list[Any]:
    if not isinstance(given, (list, tuple)):
        others = ""
        if isinstance(given, Trace):  # of no accuracies and losses
            others = " of results; plot.timeline and plot.staleness draw traces"
        elif isinstance(given, History):
            others = " with traces; plot.curves draws histories"
        raise TypeError(
            f"{where}: expected runs or a list of runs{others}, got "
            f"{checks.shown(given)}."
        )
    return list(given)


def _free(names: Mapping[str, Any], wanted: str) -> str:
    """A name that is not taken: the second of the same gets a number."""
    name, number = wanted, 2
    while name in names:
        name, number = f"{wanted} ({number})", number + 1
    return name
