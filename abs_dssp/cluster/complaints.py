"""Lines about what others do wrong: a few, and then only how many more there were."""

import math

from abs_dssp.cluster import effects
from abs_dssp.cluster.effects import Effect

_SECONDS = 10.0  # a line is not said again for so long,
_MOST = 5  # and no more than so many are
_LONGEST = 400  # characters; they quote what strangers sent


class Complaints:
    """Limits what strangers can have a server say. Reads no clock."""

    def __init__(self):
        self._begun = -math.inf  # of the present stretch of `_SECONDS`
        self._said: set[str] = set()  # in that time
        self._kept = 0  # not said in that time

    def add(self, line: str, now: float) -> list[Effect]:
        """The line, unless there were too many; those are counted."""
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
        wanted = self.rest(now)
        if not self._said:
            self._begun = now
        if line in self._said or len(self._said) == _MOST:
            self._kept += 1
            return wanted
        self._said.add(line)
        return [*wanted, effects.warning(line)]

    def rest(self, now: float) -> list[Effect]:
        """How many were not said, once the time has passed; called now and then."""
        if now - self._begun <= _SECONDS:
            return []
        count, self._kept = self._kept, 0
        self._said.clear()
        again = f"refused {count} more in {now - self._begun:.0f} s, for such reasons"
        return [effects.warning(again)] if count else []
