"""Worker times like those of real clusters, from fitted numbers that ship with this.

The n-th computation of a worker takes

    T_n = median exp(sigma (sqrt(share) A_n + sqrt(1 - share) E_n)) slow^S_n,

A a stationary autoregression with coefficient `persistence` and variance 1, E white
noise, both normal, and S a Markov chain of 0 and 1, begun in its stationary state: a
worker that turns slow and recovers. Workers are independent. `experiments/fit_times.py`
fits the numbers; docs/measured_times.md shows model and data side by side.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.simulation.delay_base import BLOCK, Delays, build

TABLE = Path(__file__).with_name("fitted_times.toml")


class Fitted(NamedTuple):
    """What was fitted to a job, (n,) each: a number for every worker."""

    mean: np.ndarray  # of the times, seconds
    cv: np.ndarray  # coefficient of variation of the times
    slow: np.ndarray  # factor of the times in the slow state; 1 where there is none
    slows: np.ndarray  # probability that a computation in the other is the last of it
    recovers: np.ndarray  # the same of the slow state
    share: np.ndarray  # of the logarithm's variance within a state that persists
    persistence: np.ndarray  # its correlation from one computation to the next


def measured(
    name: str, *, mean: float | None = None, num_workers: int | None = None
) -> Delays:
    """Durations with the means, variation and memory of a real cluster's workers.

    Fitted to published times: `alibaba-job1` to `-job4`, ten workers each, and
    `bytedance-ar`, `-se` and `-st` with 4, 32 and 2. A computation here is a line of
    the published file, where Alibaba's recorded every tenth iteration or so. A job in
    which a worker turned slow once may turn slow never here, or at another time, and
    another worker does not do so with it.

    Args:
      name: of the job.
      mean: seconds that the mean over the job's workers becomes; by default those of
        the job, 1 for Alibaba's, whose times have no unit.
      num_workers: number of workers N, the first N of the job; with more than it has,
        worker i is like worker i mod n, with times of its own.

    Raises:
      ValueError: for an unknown job, or a mean not above 0.

    Example:
      >>> from abs_dssp import delays
      >>> times = delays.table(delays.measured("alibaba-job4"), 1000)
      >>> times.shape, bool(times[0].mean() > 2.5 * times[1].mean())
      ((10, 1000), True)
    """
    known = jobs()
    if name not in known:
        raise ValueError(
            f"measured: unknown times {name!r}; known: {', '.join(known)}."
        )
    model = like(known[name], mean=mean, num_workers=num_workers)
    scaled = "" if mean is None else f",mean={mean!r}"
    return dataclasses.replace(model, spec=f"measured({name!r}{scaled})")


@functools.cache
def jobs() -> Mapping[str, Fitted]:
    """The numbers that ship, by job.

    Example:
      >>> from abs_dssp.simulation import fitted_times
      >>> list(fitted_times.jobs())[0], len(fitted_times.jobs()["bytedance-ar"].mean)
      ('alibaba-job1', 4)
    """
    with open(TABLE, "rb") as file:
        found = tomllib.load(file)
    return {
        name: Fitted(*(np.array(job[field]) for field in Fitted._fields))
        for name, job in found.items()
    }


def like(
    job: Fitted, *, mean: float | None = None, num_workers: int | None = None
) -> Delays:
    """The model with these numbers.

    Args:
      job: numbers for n workers.
      mean: as for `measured`.
      num_workers: as for `measured`.

    Raises:
      ValueError: for a mean not above 0, or no workers.

    Example:
      >>> import numpy as np
      >>> from abs_dssp import delays
      >>> from abs_dssp.simulation import fitted_times
      >>> numbers = [[4.0], [0], [1], [0], [0], [0], [0]]  # nothing varies
      >>> still = fitted_times.Fitted(*np.array(numbers))
      >>> delays.table(fitted_times.like(still, mean=2.0, num_workers=2), 2).tolist()
      [[2.0, 2.0], [2.0, 2.0]]
    """
    n = len(job.mean)
    workers = n if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"measured: num_workers must be at least 1, got {workers}.")
    if mean is not None and not 0 < mean < np.inf:
        raise ValueError(f"measured: mean must be above 0 and finite, got {mean}.")
    factor = 1.0 if mean is None else mean / job.mean.mean()
    of_chain, square = chain_moments(job)
    # What of the coefficient of variation the chain leaves to the logarithm.
    sigma = np.sqrt(np.log(np.maximum((1 + job.cv**2) * of_chain**2 / square, 1)))
    arguments: dict[str, Sequence[float] | np.ndarray] = {
        "median": factor * job.mean / of_chain * np.exp(-(sigma**2) / 2),
        "sigma": sigma,
        **{name: getattr(job, name) for name in Fitted._fields[2:]},
    }
    of_worker = np.arange(workers) % n
    chosen: dict[str, Any] = {
        key: np.asarray(v)[of_worker] for key, v in arguments.items()
    }
    return build("measured", _durations, workers, _anywhere, **chosen)


def chain_moments(job: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the mean square of slow^S, (n,) each.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.simulation import fitted_times
      >>> numbers = [[1.0], [1], [3], [0.1], [0.1], [0], [0]]  # slow half of the time
      >>> job = fitted_times.Fitted(*np.array(numbers))
      >>> [moment.tolist() for moment in fitted_times.chain_moments(job)]
      [[2.0], [5.0]]
    """
    share = slow_share(job)
    return 1 + share * (job.slow - 1), 1 + share * (job.slow**2 - 1)


def slow_share(job: Fitted) -> np.ndarray:
    """The share of a worker's computations in its slow state, (n,).

    Example:
      >>> import numpy as np
      >>> from abs_dssp.simulation import fitted_times
      >>> numbers = [[1.0], [1], [3], [0.1], [0.3], [0], [0]]
      >>> job = fitted_times.Fitted(*np.array(numbers))
      >>> fitted_times.slow_share(job).round(6).tolist()
      [0.25]
    """
    changes = job.slows + job.recovers
    return np.where(changes > 0, job.slows / np.where(changes > 0, changes, 1), 0.0)


def _anywhere(parameters):
    """Before the first block, which draws the state that it begins in."""
    del parameters
    return jnp.bool_(False), jnp.zeros((), float)


def _durations(parameters, key, index, chain):
    key = jax.random.fold_in(key, index)
    drawn, turning, begun = jax.random.split(key, 3)
    level, noise = jax.random.normal(drawn, (2, BLOCK), float)
    turns = jax.random.uniform(turning, (BLOCK,), float)
    first = jax.random.uniform(begun, (), float)
    chances = parameters["slows"] + parameters["recovers"]
    slow = jnp.where(index == 0, first * chances < parameters["slows"], chain[0])
    persists = jnp.where(index == 0, 0.0, parameters["persistence"])

    def step(carry, draw):
        slow, before, persists = carry
        now = persists * before + jnp.sqrt(1 - persists**2) * draw[0]
        chance = jnp.where(slow, parameters["recovers"], parameters["slows"])
        return (slow ^ (draw[1] < chance), now, parameters["persistence"]), (slow, now)

    begin = (slow, chain[1], persists)
    (slow, last, _), (state, level) = jax.lax.scan(step, begin, (level, turns))
    share = parameters["share"]
    logarithm = jnp.sqrt(share) * level + jnp.sqrt(1 - share) * noise
    seconds = parameters["median"] * jnp.exp(parameters["sigma"] * logarithm)
    return jnp.where(state, parameters["slow"], 1.0) * seconds, (slow, last)
