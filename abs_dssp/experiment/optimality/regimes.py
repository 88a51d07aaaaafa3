"""Worker times of all kinds; the fastest worker needs about a second."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from abs_dssp import delays
from abs_dssp.simulation import public_times

_CHAIN = {"slow": 20.0, "slows": 0.01, "recovers": 0.02}  # a third of it slow
# Workers are there four fifths of the time, and compute so much less.
_DEATHS = "exponential(mean_up=80,mean_down=20,detection=2)"
_COMMON = 4000  # computations until a chain that all have begins again


@dataclasses.dataclass(frozen=True)
class Regime:
    """Worker times."""

    label: str
    model: Callable[[int], delays.Delays]  # of N workers
    mean: Callable[[int], np.ndarray]  # seconds per gradient, for the lower bound
    chance: bool = False  # whether each seed draws times of its own
    absences: str = "none()"  # when workers die and return, for `absences.parse`


def every(n: int, data_dir: str | None = None) -> list[Regime]:
    """All regimes.

    Args:
      n: workers.
      data_dir: folder with the measured times of real clusters; without them, the
        regimes that replay them are left out.
    """
    return [
        *(_fixed(label, times) for label, times in fixed_times(n).items()),
        Regime("exponential", _exponential, np.ones, True),
        Regime("heavy-tailed", _heavy_tailed, lambda n: np.full(n, 1.2), True),
        Regime("exponential, deaths", *_DYING, absences=_DEATHS),
        Regime("slow, then fast", _turning, np.ones),
        Regime("alternating", lambda n: _alternating(n, 1), _of_both),
        Regime("alternating in threes", lambda n: _alternating(n, 3), _of_both),
        Regime("Markov", _markov, _of_chain, True),
        Regime("Markov, common", _common, _of_chain),
        *([] if data_dir is None else [_measured(job, data_dir) for job in (1, 4)]),
    ]


def fixed_times(n: int) -> dict[str, np.ndarray]:
    """Seconds per gradient of N workers, (N,), of the regimes without change."""
    index = np.arange(1.0, n + 1)
    return {
        "equal": np.ones(n),
        "sqrt(i)": np.sqrt(index),
        "i": index,
        "one straggler, 100 x": np.append(np.ones(n - 1), 100.0),
    }


def _exponential(n: int) -> delays.Delays:
    return delays.exponential(1.0, n)


_DYING = (_exponential, lambda n: np.full(n, (80 + 20) / 80), True)


def _fixed(label: str, times: np.ndarray) -> Regime:
    return Regime(label, lambda n: delays.constant(times, n), lambda n: times)


def _heavy_tailed(n: int) -> delays.Delays:
    """A Pareto variable of least 0.2 and tail 1.2 has mean 1.2 and no variance."""
    return delays.pareto(0.2, 1.2, n)


def _turning(n: int) -> delays.Delays:
    """Half of the workers are slow for 40 s, then the other half is."""
    early = [1.0] * 40 + [20.0] * 4000
    late = [20.0] * 2 + [1.0] * 20000
    return delays.recorded([early if i < n // 2 else late for i in range(n)])


def _alternating(n: int, spell: int) -> delays.Delays:
    """`spell` quick and as many slow computations, in turn; half begin with slow."""
    quick, slow = [1.0] * spell, [20.0] * spell
    return delays.recorded([quick + slow if i < n // 2 else slow + quick
                            for i in range(n)])  # fmt: skip


def _of_both(n: int) -> np.ndarray:
    return np.full(n, 10.5)


def _markov(n: int) -> delays.Delays:
    return delays.markov(1.0, **_CHAIN, num_workers=n)


def _common(n: int) -> delays.Delays:
    """All workers have the same chain: they turn slow at the same computation, first
    at the eleventh."""
    one = delays.table(_markov(1), _COMMON)[0]
    slow = int(np.argmax(one > 1))
    return delays.recorded([np.roll(one, 10 - slow).tolist()] * n)


def _of_chain(n: int) -> np.ndarray:
    slow = _CHAIN["slows"] / (_CHAIN["slows"] + _CHAIN["recovers"])
    return np.full(n, (1 - slow) + slow * _CHAIN["slow"])


def _measured(job: int, data_dir: str) -> Regime:
    """Step times of a job of Alibaba's GPU cluster, in units of their mean."""
    folder = Path(data_dir, "traces")

    def model(n: int) -> delays.Delays:
        return public_times.replayed(f"alibaba-job{job}", folder, 1.0, n)

    return Regime(f"Alibaba, job {job}", model, np.ones)
