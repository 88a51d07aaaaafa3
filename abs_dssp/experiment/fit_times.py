"""Fits the model of `delays.measured` to times of workers, and says how well.

Of a worker's times, taken as they are: mean and coefficient of variation. Two states,
if the logarithms, smoothed over nine neighbours, fall into two groups (by the threshold
that leaves the least variance within) whose means differ by a factor of at least 1.2
and by three deviations within: their factor, and how often the worker changed. Spells
that are not long beside nine lines are missed. What of the variance the states leave is
a persistent part and white noise, whose share and persistence are those of a grid whose
autocorrelation is nearest to that of the times.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from abs_dssp.simulation import fitted_times, public_times
from abs_dssp.simulation.fitted_times import Fitted

_SMOOTHED = 9  # lines
_LEAST_FACTOR = 1.2  # of a state that counts as slow
_LEAST_GAP = 3.0  # deviations within the states
_LEAST_LINES = 5  # of either state
_LAGS = (1, 2, 3, 5, 7, 10, 20, 30, 50)
_SHARES = np.linspace(0, 1, 51).round(2)
_PERSISTENCES = np.append(0, 1 - np.geomspace(0.9, 0.003, 60)).round(3)


def fit(times: Sequence[np.ndarray], scale: float = 1.0) -> Fitted:
    """The numbers that `fitted_times.like` makes a model of.

    Args:
      times: (M_i,) of each of n workers, above 0, in order.
      scale: seconds of a unit of the times.
    """
    rows = [_fit_worker(np.asarray(mine, float)) for mine in times]
    job = Fitted(*np.array(rows).T)
    return job._replace(mean=_rounded(job.mean * scale))


def fit_job(name: str, folder: str | os.PathLike[str]) -> Fitted:
    """The fit of a published job; the mean of a job without a unit is 1 second.

    Args:
      name: of `public_times.JOBS`.
      folder: as for `public_times.read`.
    """
    times = public_times.read(name, folder)
    whole = float(np.mean([mine.mean() for mine in times]))
    return fit(times, 1.0 if public_times.find(name).in_seconds else 1 / whole)


def _fit_worker(times: Float[np.ndarray, " M"]) -> list[float]:
    cv = float(times.std() / times.mean())
    slow = states(times)
    factor, slows, recovers = 1.0, 0.0, 0.0
    if slow.any():
        factor = float(times[slow].mean() / times[~slow].mean())
        # A stationary chain changes as often from the one state as from the other.
        changes = max(int((slow[1:] != slow[:-1]).sum()), 1) / 2
        slows, recovers = changes / (~slow).sum(), changes / slow.sum()
    row = [*map(_rounded, (times.mean(), cv, factor, slows, recovers)), 0.0, 0.0]
    lags = [lag for lag in _LAGS if lag <= max(len(times) // 8, 1)]
    found = autocorrelation(times, lags)
    shares, persistences = np.meshgrid(_SHARES, _PERSISTENCES, indexing="ij")
    columns = [np.full(shares.size, value) for value in row[:5]]
    tried = Fitted(*[*columns, shares.ravel(), persistences.ravel()])
    misses = ((predicted_autocorrelation(tried, lags) - found) ** 2).sum(axis=1)
    best = int(misses.argmin())
    return [*row[:5], float(tried.share[best]), float(tried.persistence[best])]


def states(times: Float[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Where a worker was slow; nowhere, if its times do not fall into two groups."""
    logarithm = np.log(times)
    half = _SMOOTHED // 2
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(logarithm, half, mode="edge"), _SMOOTHED
    )
    smooth = np.median(around, axis=1)
    ordered = np.sort(smooth)
    counts = np.arange(1, len(ordered))
    below, total = np.cumsum(ordered)[:-1], ordered.sum()
    gaps = (total - below) / (len(ordered) - counts) - below / counts
    between = counts * (len(ordered) - counts) * gaps**2
    slow = smooth > ordered[int(between.argmax())]
    if min(slow.sum(), (~slow).sum()) < _LEAST_LINES:
        return np.zeros_like(slow)
    apart = logarithm[slow].mean() - logarithm[~slow].mean()
    within = logarithm - np.where(slow, logarithm[slow].mean(), logarithm[~slow].mean())
    large = apart >= max(np.log(_LEAST_FACTOR), _LEAST_GAP * within.std())
    return slow if large else np.zeros_like(slow)


def autocorrelation(
    times: Float[np.ndarray, " M"], lags: Sequence[int]
) -> Float[np.ndarray, " L"]:
    """The correlation of a worker's times with those `lags` later."""
    apart = times - times.mean()
    variance = float((apart**2).mean()) or 1.0
    return np.array([(apart[:-lag] * apart[lag:]).mean() / variance for lag in lags])


def predicted_autocorrelation(
    job: Fitted, lags: Sequence[int]
) -> Float[np.ndarray, "n L"]:
    """The model's: the product of two independent parts, a log-normal and the chain."""
    lag = np.asarray(lags, float)
    first, square = (moment[:, None] for moment in fitted_times.chain_moments(job))
    chain_variance = square - first**2
    stays = (1 - job.slows - job.recovers)[:, None]
    variance = np.log(np.maximum((1 + job.cv[:, None] ** 2) * first**2 / square, 1))
    alike = job.share[:, None] * job.persistence[:, None] ** lag
    product = np.exp(variance * alike) * (first**2 + chain_variance * stays**lag)
    whole = np.exp(variance) * square - first**2
    return (product - first**2) / np.where(whole > 0, whole, 1)


def _rounded(values):
    """Four digits, which is more than a few hundred times tell."""
    digits = np.vectorize(lambda value: float(f"{value:.4g}"))(values)
    return digits if digits.ndim else float(digits)


def table_text(jobs: Mapping[str, Fitted]) -> str:
    """The fits as the file that ships.

    Args:
      jobs: by the name in `public_times.JOBS`.
    """
    lines = [
        "# Made by experiments/fit_times.py; not to be edited. A number per worker:",
        "# see Fitted in fitted_times.py.",
    ]
    for name, job in jobs.items():
        source = public_times.find(name).source
        lines += ["", f"[{name}]", f"# Fitted to {source.title}, {source.licence}:"]
        lines += [f"# {source.where}"]
        for field, values in job._asdict().items():
            lines += _wrapped(field, [f"{value:g}" for value in values])
    return "\n".join(lines) + "\n"


def _wrapped(field: str, values: Sequence[str], width: int = 12) -> list[str]:
    if len(values) <= width:
        return [f"{field} = [{', '.join(values)}]"]
    parts = [values[i : i + width] for i in range(0, len(values), width)]
    return [f"{field} = [", *(f"  {', '.join(part)}," for part in parts), "]"]
