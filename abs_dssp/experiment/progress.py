"""Progress of something long: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from typing import Any


class Progress:
    """Shows how much is done. Close it, which ends the bar."""

    def __init__(self, label: str, unit: str = "pushes", every: float = 10.0):
        """Begins.

        Args:
          label: what is being done.
          unit: what is counted.
          every: seconds between two lines where there is no terminal.
        """
        self.label, self.unit, self.every = label, unit, every
        self._shown = time.monotonic()
        # The rate is taken from here on, so that it leaves out what comes before the
        # first piece, such as compiling.
        self._first: tuple[float, int] | None = None
        self._bar: Any = None
        if sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(
                desc=label, unit=f" {unit}", leave=False, dynamic_ncols=True
            )

    def update(self, done: int, total: int, note: str = "") -> None:
        """Shows that `done` of `total` are done, with the latest in a few words."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        if self._bar is not None:
            if self._first == (now, done):
                self._bar.reset(total)
                self._bar.initial = self._bar.n = self._bar.last_print_n = done
            self._bar.total = total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._shown >= self.every:
            self._shown = now
            begun, before = self._first
            rate = (done - before) / max(now - begun, 1e-9)
            parts = [f"{done}/{total} {self.unit}"]
            if rate > 0:
                parts.append(f"{rate:.3g}/s, {(total - done) / rate:.0f} s left")
            self._print(f"{self.label}: {', '.join(parts)}{note and f'; {note}'}")

    def close(self, line: str = "") -> None:
        """Ends the bar and prints how it went."""
        if self._bar is not None:
            self._bar.close()
        if line:
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class PushProgress(Progress):
    """Progress of one training, in the form that `replay` calls."""

    def __init__(self, label: str, until: float | None = None):
        """Begins.

        Args:
          label: what is being done.
          until: virtual seconds at which it ends, if not at a number of pushes.
        """
        super().__init__(label)
        self._until = until

    def __call__(self, done: int, total: int, record: Any) -> None:
        """Shows that `done` of at most `total` pushes are done.

        Args:
          done: pushes.
          total: pushes at most.
          record: the latest evaluation; empty before the first.
        """
        if self._until is not None and record and record["seconds"] > 0:
            expected = round(record["push"] * self._until / record["seconds"])
            total = min(total, max(done, expected))
        known = "accuracy" in record
        self.update(done, total, f"accuracy {record['accuracy']:.4f}" if known else "")
