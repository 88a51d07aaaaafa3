"""How long computations take: pure models of worker speed."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import checks, literals
from abs_dssp.simulation.delay_base import (
    BLOCK,
    Block,
    Delays,
    Seconds,
    Start,
    build,
    is_traced,
    require_positive,
    shown,
    table,
    worker_keys,
)
from abs_dssp.simulation.delay_files import csv, recorded
from abs_dssp.simulation.fitted_times import measured

__all__ = ["BLOCK", "MODELS", "Delays", "parse", "resolve"]
__all__ += ["table", "worker_keys"]
__all__ += [
    "constant",
    "exponential",
    "lognormal",
    "markov",
    "pareto",
    "shifted_exponential",
]
__all__ += ["recorded", "csv", "measured", "abandoned", "per_step"]


def constant(seconds: Seconds, num_workers: int | None = None) -> Delays:
    """Every computation of a worker takes the same time.

    Args:
      seconds: duration; one number for all workers, or one per worker.
      num_workers: number of workers N; needed where no argument has one per worker.

    Returns:
      `Delays` of N workers.

    Raises:
      ValueError: for negative or infinite seconds, or a list of the wrong length.

    Example:
      >>> from abs_dssp import delays
      >>> delays.constant(2.0, num_workers=2).spec
      'constant(seconds=2.0)'
      >>> delays.table(delays.constant([1.0, 2.0]), 2).tolist()
      [[1.0, 1.0], [2.0, 2.0]]
    """
    return build("constant", _constant, num_workers, seconds=seconds)


def exponential(mean: Seconds, num_workers: int | None = None) -> Delays:
    """Independent exponential durations.

    Args:
      mean: mean in seconds; one number or one per worker.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`.

    Example:
      >>> from abs_dssp import delays
      >>> durations = delays.table(delays.exponential(2.0, num_workers=4), 1000)
      >>> abs(float(durations.mean()) - 2.0) < 4 * 2.0 / 4000**0.5  # standard errors
      True
    """
    return build("exponential", _exponential, num_workers, mean=mean)


def shifted_exponential(
    shift: Seconds, mean: Seconds, num_workers: int | None = None
) -> Delays:
    """A fixed part plus an exponential one: mean shift + mean.

    Args:
      shift: least duration in seconds; one number or one per worker.
      mean: mean of the exponential part in seconds; one number or one per worker.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`.

    Example:
      >>> from abs_dssp import delays
      >>> model = delays.shifted_exponential(1.0, mean=0.5, num_workers=2)
      >>> bool(delays.table(model, 100).min() >= 1.0)
      True
    """
    return build("shifted_exponential", _shifted, num_workers, shift=shift, mean=mean)


def pareto(minimum: Seconds, shape: Seconds, num_workers: int | None = None) -> Delays:
    """Heavy-tailed durations: P(X > x) = (minimum / x)^shape for x >= minimum.

    Args:
      minimum: least duration in seconds; one number or one per worker.
      shape: tail index, above 0; the mean is infinite at 1 and below.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`, or for a shape not above 0.

    Example:
      >>> from abs_dssp import delays
      >>> model = delays.pareto(1.0, shape=2.0, num_workers=2)
      >>> bool(delays.table(model, 100).min() >= 1.0)
      True
    """
    require_positive("pareto", "shape", shape)
    return build("pareto", _pareto, num_workers, minimum=minimum, shape=shape)


def lognormal(
    median: Seconds, sigma: Seconds, num_workers: int | None = None
) -> Delays:
    """Durations whose logarithm is normal: median * exp(sigma * Z).

    Args:
      median: median in seconds; one number or one per worker.
      sigma: standard deviation of the logarithm; small sigma is relative jitter.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`.

    Example:
      >>> from abs_dssp import delays
      >>> delays.table(delays.lognormal([3.0, 5.0], sigma=0.0), 2).tolist()
      [[3.0, 3.0], [5.0, 5.0]]
    """
    return build("lognormal", _lognormal, num_workers, median=median, sigma=sigma)


def markov(
    fast: Seconds,
    slow: Seconds,
    slows: Seconds = 0.01,
    recovers: Seconds = 0.1,
    num_workers: int | None = None,
) -> Delays:
    """A worker that turns slow and recovers: a two-state Markov chain.

    Every worker starts fast; the state changes between two computations.

    Args:
      fast: duration in the fast state, in seconds; one number or one per worker.
      slow: duration in the slow state, in seconds; one number or one per worker.
      slows: probability that a fast computation is followed by a slow one.
      recovers: probability that a slow computation is followed by a fast one.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`, or for a probability outside 0..1.

    Example:
      >>> from abs_dssp import delays
      >>> model = delays.markov(1.0, 4.0, slows=1.0, recovers=1.0, num_workers=1)
      >>> delays.table(model, 4).tolist()  # alternates
      [[1.0, 4.0, 1.0, 4.0]]
    """
    for name, value in (("slows", slows), ("recovers", recovers)):
        if not is_traced(value) and np.any(checks.numbers("markov", name, value) > 1):
            raise ValueError(f"markov: {name} must be in 0..1, got {value}.")
    states = {"fast": fast, "slow": slow, "slows": slows, "recovers": recovers}
    return build("markov", _markov, num_workers, _starts_fast, **states)


def per_step(delays: Delays | str, local_steps: int, redraw: bool = True) -> Delays:
    """Durations of pushes of U local steps, where `delays` times a single step.

    The n-th computation takes the sum of the steps n U up to n U + U - 1. So the
    commands read their `--delays`; `schedule` and `train` take durations of whole
    computations.

    Args:
      delays: durations of single local steps, or their text.
      local_steps: U.
      redraw: whether every local step has a duration of its own; otherwise all U take
        as long as the n-th of `delays`.

    Raises:
      ValueError: if `local_steps` is not at least 1.

    Example:
      >>> from abs_dssp import delays
      >>> steps = delays.recorded([[1.0, 2.0, 3.0, 4.0]])
      >>> delays.table(delays.per_step(steps, 2), 2).tolist()  # 1 + 2, 3 + 4
      [[3.0, 7.0]]
      >>> delays.table(delays.per_step(steps, 2, redraw=False), 2).tolist()
      [[2.0, 4.0]]
    """
    delays = resolve(delays, None, "per_step")
    local_steps = checks.whole("per_step", "local_steps", local_steps, least=1)
    if local_steps == 1:
        return delays
    whole = _summed if redraw else _multiplied
    return dataclasses.replace(delays, block=whole(delays.block, local_steps))


@functools.lru_cache(maxsize=64)  # jit compiles each function object once
def _multiplied(block: Block, local_steps: int) -> Block:
    def multiplied(parameters, key, index, chain):
        steps, chain = block(parameters, key, index, chain)
        return local_steps * steps, chain

    return multiplied


@functools.lru_cache(maxsize=64)
def _summed(block: Block, local_steps: int) -> Block:
    def summed(parameters, key, index, chain):
        def one(chain, number):
            steps, chain = block(parameters, key, index * local_steps + number, chain)
            return chain, steps

        numbers = jnp.arange(local_steps, dtype=jnp.int32)
        chain, steps = jax.lax.scan(one, chain, numbers)
        return steps.reshape(BLOCK, local_steps).sum(axis=1), chain

    return summed


def abandoned(model: Delays, seconds: Seconds) -> Delays:
    """Computations that are given up after a time: min(duration, seconds).

    So does a worker that stops by itself. `policies.mindflayer` discards a push that
    took this long, and gives up longer ones without this.

    Args:
      model: the durations of computations that are never given up.
      seconds: t_i, above 0; one number or one per worker.

    Raises:
      ValueError: for seconds not above 0, or a list of the wrong length.

    Example:
      >>> from abs_dssp import delays
      >>> model = delays.abandoned(delays.recorded([[1.0, 5.0]]), seconds=2.0)
      >>> delays.table(model, 2).tolist()
      [[1.0, 2.0]]
    """
    checks.kind("abandoned", "model", model, Delays, "delays.constant([1.0, 2.5])")
    require_positive("abandoned", "seconds", seconds)
    limit = constant(seconds, model.num_workers).parameters["seconds"]
    parameters = {"limit": limit, "model": model.parameters}
    spec = f"abandoned({model.spec}, seconds={shown(seconds)})"
    start, block = _cut_short(model.start, model.block)
    return Delays(parameters, start, block, spec)


@functools.lru_cache(maxsize=64)  # jit compiles each function object once
def _cut_short(start: Start, block: Block) -> tuple[Start, Block]:
    def begin(parameters):
        return start(parameters["model"])

    def cut(parameters, key, index, chain):
        durations, chain = block(parameters["model"], key, index, chain)
        return jnp.minimum(durations, parameters["limit"]), chain

    return begin, cut


_PLAIN = (constant, exponential, lognormal, markov, pareto, shifted_exponential)
MODELS: dict[str, Callable[..., Delays]] = {
    made.__name__: made for made in (abandoned, csv, measured, recorded, *_PLAIN)
}


def parse(text: str, num_workers: int | None = None) -> Delays:
    """The model that `text` describes, e.g. `"constant(seconds=[1,1,2.7])"`.

    Args:
      text: a call of one of `MODELS` with literal arguments.
      num_workers: number of workers N; None for those that the text has: as many as
        its lists are long, its file or its cluster has.

    Raises:
      TypeError: if `text` is none.
      ValueError: for an unknown model or argument, a list of the wrong length, a
        text that does not say how many workers it has, or what the constructor refuses.

    Example:
      >>> from abs_dssp import delays
      >>> delays.table(delays.parse("constant(seconds=[1,2.5])", 2), 1).tolist()
      [[1.0], [2.5]]
    """
    checks.text("delays.parse", text, "'constant(seconds=[1,1,2.7])'")
    if text.strip().endswith((".csv", ".parquet")):
        raise ValueError(
            f"delays.parse: {text!r} is the name of a file; give "
            f"'csv(\"{text.strip()}\")' for the times in it."
        )
    model = literals.build(text, "delays.parse", MODELS, num_workers=num_workers)
    return dataclasses.replace(model, spec=text.strip())


def resolve(
    delays: Delays | str, num_workers: int | None, where: str = "delays.resolve"
) -> Delays:
    """A model of worker speed, or the one that a text describes.

    Args:
      delays: what was given.
      num_workers: number of workers N of a text's model, if anything else tells it.
      where: the caller's name, for messages.

    Raises:
      TypeError: if it is neither.
      ValueError: as `parse`.

    Example:
      >>> from abs_dssp import delays
      >>> delays.resolve("constant(2.0)", num_workers=3).num_workers
      3
    """
    if isinstance(delays, str):
        delays = parse(delays, num_workers)
    example = "delays.constant([1.0, 2.7]) or the text 'constant([1.0, 2.7])'"
    checks.kind(where, "delays", delays, Delays, example)
    return delays


def _constant(parameters, key, index, chain):
    del key, index
    return jnp.broadcast_to(parameters["seconds"], (BLOCK,)), chain


def _exponential(parameters, key, index, chain):
    draws = jax.random.exponential(jax.random.fold_in(key, index), (BLOCK,), float)
    return parameters["mean"] * draws, chain


def _shifted(parameters, key, index, chain):
    draws, chain = _exponential(parameters, key, index, chain)
    return parameters["shift"] + draws, chain


def _pareto(parameters, key, index, chain):
    draws = jax.random.exponential(jax.random.fold_in(key, index), (BLOCK,), float)
    return parameters["minimum"] * jnp.exp(draws / parameters["shape"]), chain


def _lognormal(parameters, key, index, chain):
    draws = jax.random.normal(jax.random.fold_in(key, index), (BLOCK,), float)
    return parameters["median"] * jnp.exp(parameters["sigma"] * draws), chain


def _starts_fast(parameters):
    del parameters
    return jnp.bool_(False)


def _markov(parameters, key, index, slow):
    draws = jax.random.uniform(jax.random.fold_in(key, index), (BLOCK,), float)

    def step(slow, draw):
        turns = draw < jnp.where(slow, parameters["recovers"], parameters["slows"])
        seconds = jnp.where(slow, parameters["slow"], parameters["fast"])
        return slow ^ turns, seconds

    slow, durations = jax.lax.scan(step, slow, draws)
    return durations, slow
