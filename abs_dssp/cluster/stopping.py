"""Ctrl-C and SIGTERM in a process that serves."""

from collections.abc import Sequence
from typing import Any

from abs_dssp.cluster.system import REAL, System


class Stopper:
    """Ends the run in order on Ctrl-C or SIGTERM; it can be resumed."""

    def __init__(self, servers: Sequence[Any], system: System = REAL):
        """Nothing is caught before the `with` block.

        Args:
          servers: of this process, each with `stop`.
          system: has signals and threads.
        """
        self._servers, self._system, self._old = servers, system, dict[int, Any]()

    def __enter__(self) -> "Stopper":
        threading, signal = self._system.threading, self._system.signal
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error) -> None:
        for number, old in self._old.items():
            self._system.signal.signal(number, old)

    def _stop(self, number, frame) -> None:
        del frame
        name = self._system.signal.Signals(number).name
        for server in self._servers:
            server.stop(f"interrupted by {name}", resumes=True)
