"""A run in which nobody computes: how long it may stay so, and why it ends then."""

import math

from abs_dssp.cluster.core import COMPUTING, EXPELLED, Core


class Idleness:
    """Watches whether anybody computes. Reads no clock."""

    def __init__(self, core: Core, empty: float, policy: str):
        """Nothing has been seen.

        Args:
          core: of the run.
          empty: seconds in which somebody may join or leave, which alone helps.
          policy: as text.
        """
        self._core, self._empty, self._policy = core, empty, policy
        self._since: float | None = None  # when the last one stopped computing
        self._deserted = False  # whether there was no living member either

    def sentence(self, now: float) -> str:
        """Why the run is over now; empty while it goes on."""
        workers = self._core.workers
        if any(worker.state == COMPUTING for worker in workers):
            self._since = None
            return ""
        deserted = not any(worker.active for worker in workers)
        if not deserted and self._core.wake < math.inf:
            self._since = None  # the policy will be asked, and may release somebody
            return ""
        if self._since is None or deserted != self._deserted:
            self._since, self._deserted = now, deserted
        gone = [worker.state for worker in workers if worker.state != "absent"]
        if gone and all(state == EXPELLED for state in gone):
            return (
                "all workers were expelled, their pushes were not finite; try a "
                "smaller --learning_rate."
            )
        idle = now - self._since
        if idle <= self._empty:
            return ""
        if deserted:
            return (
                f"no worker for {idle:.0f} s; look at the workers' logs, and start the "
                "same command again to go on."
            )
        return (
            f"every worker waits, nobody computes, at push {self._core.pushes + 1}: "
            f"{self._policy} releases nobody any more; check its release rule."
        )
