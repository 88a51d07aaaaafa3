"""How often, and for how long, a worker looks for a server that it cannot find."""

import random

from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.system import System
from abs_dssp.cluster.worker_errors import LostError

_FIRST, _LONGEST = 0.05, 2.0  # seconds between two attempts


class Patience:
    """The attempts of one worker to reach one server."""

    def __init__(
        self,
        missing: str,
        process: str,
        settings: Settings,
        dice: random.Random,
        system: System,
    ):
        """The server was there until now.

        Args:
          missing: who misses what, such as "worker 1: no server".
          process: whose log may tell why.
          settings: times.
          dice: for pauses that differ between workers.
          system: has the clock.
        """
        self._missing, self._process = missing, process
        self._limit, self._dice, self._time = settings.reconnect, dice, system.time
        self.found()

    def found(self) -> None:
        """The server is there."""
        self._lost, self._wait = self._time.perf_counter(), _FIRST

    def fail(self, error: Exception) -> None:
        """It could not be reached, or is gone: waits until the next attempt.

        Raises:
          LostError: if it has been gone for too long.
        """
        gone = self._time.perf_counter() - self._lost
        if gone > self._limit:
            raise LostError(
                f"{self._missing} for {gone:.0f} s ({error}); look at the log of "
                f"{self._process}."
            ) from None
        self._time.sleep(self._wait * (0.5 + self._dice.random()))
        self._wait = min(2 * self._wait, _LONGEST)
