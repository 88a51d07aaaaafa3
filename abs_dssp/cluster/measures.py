"""What a server measures of every push: histograms of fixed size, and seconds by part.

What a device does by itself counts where the server waits for it, at the latest in
`publish`, which copies the result of an update.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np

from abs_dssp.cluster.messages import Message

_SECONDS = (*(float(f"{m}e{e}") for e in range(-6, 2) for m in (1, 2, 5)), 100.0)
_VERSIONS = (0.0, 1.0, *(m * 2.0**e for e in range(1, 10) for m in (1, 1.5)), 1024.0)

PARTS = {  # of the serving thread's work on a push, in order
    "decision": "Deciding on a push: protocol, policy, state of the run",
    "log": "Logging a push",
    "apply": "Applying a push: accumulation and update",
    "publish": "Copying a version for those who compute from it",
    "send": "Sending answers to a push",
}
_OF_PUSHES = {  # what else is known of a push
    "round_trip_seconds": "From a grant's sending to its push, without computing",
    "staleness_versions": "Updates between a grant and its push",
    "staleness_seconds": "From a grant's sending to its push",
}
HISTOGRAMS = {f"{name}_seconds": text for name, text in PARTS.items()} | _OF_PUSHES
_NUMBERS = 6 + len(PARTS)  # about a push, as they come


class Histogram:
    """Counts of values in buckets with fixed bounds."""

    def __init__(self, bounds: Sequence[float]):
        """Empty.

        Args:
          bounds: the largest value of each bucket, rising; one more has the rest.
        """
        self.bounds = tuple(bounds)
        self.counts = np.zeros(len(self.bounds) + 1, np.int64)
        self.total = 0.0

    def add(self, values: np.ndarray) -> None:
        """Counts values."""
        buckets = np.searchsorted(self.bounds, values)
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        self.total += float(values.sum())

    @property
    def count(self) -> int:
        """Values so far."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Of all values; 0 without any."""
        return self.total / max(1, self.count)

    def quantile(self, share: float) -> float:
        """The value below which this share of all lies, as Prometheus has it.

        It is linear within a bucket, between 0 and the largest bound.

        Args:
          share: above 0, at most 1.
        """
        if not self.count:
            return 0.0
        sums = np.cumsum(self.counts)
        wanted = share * sums[-1]
        bucket = int(np.searchsorted(sums, wanted))
        if bucket == len(self.bounds):
            return self.bounds[-1]
        low = self.bounds[bucket - 1] if bucket else 0.0
        missing = (sums[bucket] - wanted) / self.counts[bucket]
        return float(self.bounds[bucket] - (self.bounds[bucket] - low) * missing)


class Measures:
    """What one server has measured. Belongs to the serving thread."""

    def __init__(self, num_workers: int, clock: Callable[[], float]):
        """Nothing yet.

        Args:
          num_workers: N.
          clock: seconds.
        """
        self.idle = 0.0  # seconds without a message, since the run's start
        self._clock = clock
        self._histograms = {
            name: Histogram(_VERSIONS if name.endswith("_versions") else _SECONDS)
            for name in HISTOGRAMS
        }
        self.sent = [0.0] * num_workers  # when the latest grant was first sent
        self._grants = [0] * num_workers  # its number
        # Sorted into buckets at the next snapshot, all at once: a push of a small model
        # takes so little that whatever is done for each is seen.
        self._latest: list[tuple[float, ...]] = []  # arguments of `push`

    def granted(self, grant: Message) -> None:
        """A grant is sent; again, if it has been sent before."""
        if self._grants[grant.worker] != grant.grant_id:
            self._grants[grant.worker] = grant.grant_id
            self.sent[grant.worker] = self._clock()

    def push(
        self,
        came: float,
        decided: float,
        spent: list[float],
        together: int,
        sent: float,
        seconds: float,
        staleness: int,
    ) -> None:
        """Counts a push.

        Args:
          came: when it was taken up.
          decided: when its decision was known.
          spent: see `Executor.execute`.
          together: pushes that came and were dealt with at once; each gets its share.
          sent: when its grant was.
          seconds: of the computation.
          staleness: in versions.
        """
        self._latest.append((came, decided, *spent, together, sent, seconds, staleness))

    def histograms(self) -> dict[str, Histogram]:
        """The present state, which changes no more, by the names of `HISTOGRAMS`."""
        came, decided, *parts, _, together, sent, took, staleness = np.array(
            self._latest, dtype=float
        ).reshape(-1, _NUMBERS).T  # fmt: skip
        self._latest.clear()
        age = came - sent
        # Less than 0 if it was computed before this server sent its grant again.
        trip = np.maximum(age - took, 0)
        shares = [part / together for part in (decided - came, *parts)]
        measured = (*shares, trip, staleness, age)
        for histogram, values in zip(self._histograms.values(), measured, strict=True):
            histogram.add(values)
        return copy.deepcopy(self._histograms)
