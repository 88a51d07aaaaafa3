"""A running cluster on a terminal: a live table; elsewhere a line now and then."""

import contextlib
import sys
import time
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster import lines
from abs_dssp.cluster.status import Status

_MOST_WORKERS = 24  # rows of the table
_STYLES = {"computing": "green", "waiting": "yellow"}
_COLUMNS = {
    "worker": "{0.index}",
    "state": "{0.state}",
    "for s": "{0.since:.1f}",
    "clock": "{0.clock}",
    "pulled": "{0.pulled}",
    "staleness": "{0.staleness}",
    "mean": "{0.mean_staleness:.2f}",
    "waiting": "{0.waiting_share:.0%}",
    "restarts": "{0.restarts}",
    "refused": "{0.refused}",
    "by": "{0.transport}",
    "where": "{0.process}",
}
# Left out of a narrow terminal, this one first.
_SPARED = ("where", "by", "refused", "restarts", "for s", "pulled", "mean", "waiting")


class Live:
    """Shows one status after another. Never raises because of its stream."""

    def __init__(
        self,
        stream: Any = None,
        every: float = 10.0,
        log_format: str = "text",
    ):
        """Begins.

        Args:
          stream: standard error by default.
          every: seconds between two lines where there is no terminal.
          log_format: one of `lines.FORMATS`; there is no table but for text.
        """
        self._json = log_format == "json"
        self._seconds: float | None = None  # of the run, when last shown
        self._stream = sys.stderr if stream is None else stream
        self._every, self._told = every, time.monotonic()
        self._live: Any = None
        if _is_terminal(self._stream) and not self._json:
            try:
                self._live = _open(self._stream)
            except extras.MissingExtraError as error:
                self._print(f"lines instead of a table: {error}")

    def show(self, status: Status) -> None:
        """Shows the present state."""
        self._seconds = status.seconds
        with _reader_may_leave():
            if self._live is not None:
                width = self._live.console.width
                self._live.update(_table(status, width), refresh=True)
            elif time.monotonic() - self._told >= self._every:
                self._told = time.monotonic()
                self._print(plain_line(status))

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        with _reader_may_leave():
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False)
            else:
                self._print(line)

    def close(self) -> None:
        """Takes the table away."""
        with _reader_may_leave():
            if self._live is not None:
                self._live.stop()

    def _print(self, line: str) -> None:
        if self._json:
            line = lines.as_json(line, 0, time.time(), self._seconds)
        if self._stream is not None:  # Python's standard error may be missing
            # In one piece, for threads share the stream.
            print(f"{line}\n", end="", file=self._stream, flush=True)


def plain_line(status: Status) -> str:
    """The state in one line."""
    workers = [w for w in status.workers if w.state in ("computing", "waiting")]
    parts = [f"{status.seconds:.1f} s", _progress(status), f"version {status.version}"]
    parts += [f"{name} {value:.4g}" for name, value in status.measures.items()]
    if workers:
        waiting = sum(w.waiting_share for w in workers) / len(workers)
        slowest = min(workers, key=lambda w: (w.policy_clock, w.index))
        parts.append(f"waiting {waiting:.0%}")
        parts.append(f"slowest worker {slowest.index} at clock {slowest.policy_clock}")
    gone = [w for w in status.workers if w.state in ("left", "expelled")]
    if gone:
        parts.append(f"gone: {', '.join(str(w.index) for w in gone)}")
    return "  ".join(parts)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):  # none, odd or closed
        return False


def _reader_may_leave() -> contextlib.AbstractContextManager[None]:
    """Ignores that the stream was closed, which is no reason to end a run."""
    return contextlib.suppress(OSError, ValueError)


def _open(stream: Any) -> Any:
    """A table on a terminal that stays silent once the terminal is gone."""
    with extras.needed("the live table"):
        from rich.console import Console
        from rich.live import Live as Table

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            # The library's own answer points stdout to nowhere and ends the program.
            self.quiet = True

    # What the program prints belongs above the table only where both share a terminal.
    table = Table(
        console=Terminal(file=stream),
        auto_refresh=False,
        transient=True,
        redirect_stdout=_is_terminal(sys.stdout),
        redirect_stderr=_is_terminal(sys.stderr),
    )
    with _reader_may_leave():
        table.start()
    return table


def _progress(status: Status) -> str:
    rate, end = f"{status.pushes_per_second:.1f}/s", ""
    if status.total is None:
        return f"{status.pushes} pushes ({rate})"
    if status.pushes_per_second > 0:
        left = (status.total - status.pushes) / status.pushes_per_second
        end = f", {left:.0f} s left"
    return f"{status.pushes}/{status.total} pushes ({rate}{end})"


def _table(status: Status, width: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = plain_line(status)
    if status.total:
        done = round(30 * min(1.0, status.pushes / status.total))
        title = f"[{'=' * done}{' ' * (30 - done)}] {title}"
    # As texts: a name in brackets is no markup.
    heading = Text(f"{status.policy}\n{title}")
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    shown = status.workers[:_MOST_WORKERS]
    columns = _fitting(
        {name: [form.format(w) for w in shown] for name, form in _COLUMNS.items()},
        width,
    )
    for name in columns:
        textual = name in ("state", "where")
        table.add_column(name, justify="left" if textual else "right", no_wrap=True)
    for worker, *cells in zip(shown, *columns.values(), strict=True):
        row = (Text(cell) for cell in cells)
        table.add_row(*row, style=_STYLES.get(worker.state, "red"))
    rest = len(status.workers) - _MOST_WORKERS
    if rest > 0:
        table.caption = f"and {rest} more workers"
    return table


def _fitting(columns: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """The columns without those that a terminal is too narrow for."""
    wide = {
        name: max(map(len, (name, *cells))) + 3  # spaces and the line between
        for name, cells in columns.items()
    }
    for name in _SPARED:
        if sum(wide.values()) + 2 <= width:
            break
        del wide[name]
    return {name: columns[name] for name in wide}
