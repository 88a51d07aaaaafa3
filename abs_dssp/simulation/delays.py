"""How long computations take: pure models of worker speed.

The duration of a computation is a function of (seed, worker, n), n counting the
computations that the worker has started, cancelled ones included. Durations are drawn
in blocks of `BLOCK` consecutive n, which costs one random number per computation and
still lets every sampler of `jax.random` be used.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from abs_dssp import literals

BLOCK = 64  # durations drawn at a time

Seconds = float | Sequence[float] | np.ndarray | Array  # for all workers, or of each
Chain = Any  # what a model with memory carries from block to block
Start = Callable[[dict[str, Any]], Chain]
Block = Callable[
    [dict[str, Any], Any, Int[Array, ""], Chain], tuple[Float[Array, " B"], Chain]
]


@dataclasses.dataclass(frozen=True)
class Delays:
    """A model of worker speed.

    `start(parameters)` gives the chain state before a worker's first block and
    `block(parameters, key, index, chain)` its durations `index * BLOCK` up to
    `(index + 1) * BLOCK - 1` with the next chain state; both see one worker's
    parameters and key. Blocks are asked for in order.
    """

    parameters: dict[str, Any]  # each with the workers as first axis
    start: Start
    block: Block
    spec: str = "delays"  # as `parse` reads it

    @property
    def num_workers(self) -> int:
        """Number of workers N."""
        return int(jax.tree.leaves(self.parameters)[0].shape[0])


jax.tree_util.register_dataclass(
    Delays,
    data_fields=["parameters"],
    meta_fields=["start", "block"],
    drop_fields=["spec"],  # two models that differ in words alone share a program
)


def table(delays: Delays, count: int, seed: int = 0) -> Float[np.ndarray, "N M"]:
    """The first `count` durations of every worker, in seconds, float64.

    `recorded(table(delays, ...))` has the same schedule as `delays`, for as many
    computations as the table holds.
    """
    blocks = -(-count // BLOCK)

    def worker(parameters, key):
        def step(chain, index):
            durations, chain = delays.block(parameters, key, index, chain)
            return chain, durations

        indices = jnp.arange(blocks, dtype=jnp.int32)
        _, drawn = jax.lax.scan(step, delays.start(parameters), indices)
        return drawn.reshape(-1)[:count]

    with jax.enable_x64(True):
        parameters = jax.tree.map(jnp.asarray, delays.parameters)
        keys = worker_keys(seed, delays.num_workers)
        return np.asarray(jax.jit(jax.vmap(worker))(parameters, keys))


def worker_keys(seed, num_workers: int):
    """One random key per worker."""
    key = jax.random.fold_in(jax.random.key(seed), 0xDE1A)
    workers = jnp.arange(num_workers, dtype=jnp.uint32)
    return jax.vmap(lambda worker: jax.random.fold_in(key, worker))(workers)


def constant(seconds: Seconds, num_workers: int | None = None) -> Delays:
    """Every computation of a worker takes the same time.

    Args:
      seconds: duration; one number for all workers, or one per worker.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: for negative or infinite seconds, or a list of the wrong length.
    """
    return _model("constant", _constant, num_workers, seconds=seconds)


def exponential(mean: Seconds, num_workers: int | None = None) -> Delays:
    """Independent exponential durations.

    Args:
      mean: mean in seconds; one number or one per worker.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`.
    """
    return _model("exponential", _exponential, num_workers, mean=mean)


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
    """
    return _model("shifted_exponential", _shifted, num_workers, shift=shift, mean=mean)


def pareto(minimum: Seconds, shape: Seconds, num_workers: int | None = None) -> Delays:
    """Heavy-tailed durations: P(X > x) = (minimum / x)^shape for x >= minimum.

    Args:
      minimum: least duration in seconds; one number or one per worker.
      shape: tail index, above 0; the mean is infinite at 1 and below.
      num_workers: number of workers N; needed where no argument has one per worker.

    Raises:
      ValueError: as for `constant`, or for a shape not above 0.
    """
    _positive("pareto", "shape", shape)
    return _model("pareto", _pareto, num_workers, minimum=minimum, shape=shape)


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
    """
    return _model("lognormal", _lognormal, num_workers, median=median, sigma=sigma)


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
    """
    for name, value in (("slows", slows), ("recovers", recovers)):
        if not _traced(value) and np.any(np.asarray(value, float) > 1):
            raise ValueError(f"markov: {name} must be in 0..1, got {value}.")
    model = _model(
        "markov",
        _markov,
        num_workers,
        fast=fast,
        slow=slow,
        slows=slows,
        recovers=recovers,
    )
    return dataclasses.replace(model, start=_starts_fast)


def recorded(durations: Any, num_workers: int | None = None) -> Delays:
    """Measured durations, taken in order and from the start again at the end.

    Args:
      durations: (N, M) seconds, row i for the computations that worker i starts,
        restarted ones included; rows may differ in length.
      num_workers: number of workers N, to be checked against the rows.

    Raises:
      ValueError: for negative or infinite seconds, an empty row or the wrong N.
    """
    if _traced(durations):
        rows, columns = durations.shape
        lengths = np.full(rows, columns)
        cells = durations
    else:
        try:
            lists = [np.asarray(row, float) for row in durations]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"recorded: durations must be a table of seconds: {error}."
            ) from error
        if not lists or any(row.ndim != 1 or row.size == 0 for row in lists):
            raise ValueError(
                "recorded: durations must be an (N, M) table with M at least 1."
            )
        lengths = np.array([row.size for row in lists])
        cells = np.zeros((len(lists), lengths.max()))
        for i, row in enumerate(lists):
            cells[i, : row.size] = row
    return _model("recorded", _recorded, num_workers, durations=cells, lengths=lengths)


def per_step(delays: Delays, local_steps: int) -> Delays:
    """Durations of pushes of U local steps, where `delays` times a single step.

    The n-th computation takes the sum of the steps n U up to n U + U - 1.

    Raises:
      ValueError: if `local_steps` is not at least 1.
    """
    if local_steps < 1:
        raise ValueError(
            f"per_step: local_steps must be at least 1, got {local_steps}."
        )
    if local_steps == 1:
        return delays
    return dataclasses.replace(delays, block=_summed(delays.block, local_steps))


@functools.lru_cache(maxsize=64)  # the same function again, so that jit knows it
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
    """Computations that are given up after `seconds`: min(duration, seconds).

    For `policies.mindflayer`, which discards a push that took so long.

    Args:
      model: the durations of computations that may finish.
      seconds: t_i, one number or one per worker; above 0.

    Raises:
      ValueError: for seconds not above 0, or a list of the wrong length.
    """
    _positive("abandoned", "seconds", seconds)
    limit = constant(seconds, model.num_workers).parameters["seconds"]
    parameters = {"limit": limit, "model": model.parameters}
    spec = f"abandoned({model.spec}, seconds={_shown(seconds)})"
    start, block = _cut_short(model.start, model.block)
    return Delays(parameters, start, block, spec)


@functools.lru_cache(maxsize=64)  # the same functions again, so that jit knows them
def _cut_short(start: Start, block: Block) -> tuple[Start, Block]:
    def begin(parameters):
        return start(parameters["model"])

    def cut(parameters, key, index, chain):
        durations, chain = block(parameters["model"], key, index, chain)
        return jnp.minimum(durations, parameters["limit"]), chain

    return begin, cut


MODELS: dict[str, Callable[..., Delays]] = {
    "abandoned": abandoned,
    "constant": constant,
    "exponential": exponential,
    "lognormal": lognormal,
    "markov": markov,
    "pareto": pareto,
    "recorded": recorded,
    "shifted_exponential": shifted_exponential,
}


def parse(text: str, num_workers: int) -> Delays:
    """The model that `text` describes, e.g. `"constant(seconds=[1,1,2.7])"`.

    Raises:
      ValueError: for an unknown model or argument, a list of the wrong length, or
        what the constructor refuses.
    """
    model = literals.build(text, "delays.parse", MODELS, num_workers=num_workers)
    return dataclasses.replace(model, spec=text.strip())


def _traced(value) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value))


def _positive(name: str, argument: str, value) -> None:
    if not _traced(value) and np.any(np.asarray(value, float) <= 0):
        raise ValueError(f"{name}: {argument} must be above 0, got {value}.")


def _model(name: str, block: Block, num_workers: int | None, **arguments) -> Delays:
    """Checks the arguments and spreads each over the workers."""
    arrays: dict[str, Any] = {
        key: value if _traced(value) else _numbers(name, key, value)
        for key, value in arguments.items()
    }
    lengths = {a.shape[0] for a in arrays.values() if a.ndim > 0}
    if num_workers is None:
        if not lengths:
            raise ValueError(
                f"{name}: num_workers must be given where every argument is one number."
            )
        num_workers = max(lengths)
    for key, array in arrays.items():
        if array.ndim > 0 and array.shape[0] != num_workers:
            raise ValueError(
                f"{name}: {key} must have one value per worker "
                f"({num_workers}), got {array.shape[0]}."
            )
    spread = {
        key: array if array.ndim > 0 else _repeat(array, num_workers)
        for key, array in arrays.items()
    }
    shown = ",".join(f"{k}={_shown(v)}" for k, v in arguments.items() if k != "lengths")
    return Delays(spread, _without_memory, block, f"{name}({shown})")


def _numbers(name: str, key: str, value) -> Any:
    array: Any
    try:
        array = np.asarray(value, np.int32 if key == "lengths" else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {key} must be a number or a list of numbers, got {value!r}."
        ) from error
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        bad = array[~(np.isfinite(array) & (array >= 0))].flat[0]
        raise ValueError(f"{name}: {key} must be finite and at least 0, got {bad}.")
    return array


def _repeat(value, num_workers: int):
    repeat = jnp.broadcast_to if _traced(value) else np.broadcast_to
    return repeat(value, (num_workers,))


def _shown(value) -> str:
    if _traced(value) or np.size(value) > 64:
        return "..."
    return repr(np.asarray(value).tolist())


def _without_memory(parameters) -> Chain:
    del parameters
    return ()


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


def _starts_fast(parameters) -> Chain:
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


def _recorded(parameters, key, index, chain):
    del key
    places = index * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
    return parameters["durations"][places % parameters["lengths"]], chain
