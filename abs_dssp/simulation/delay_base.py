"""What a model of worker speed is, and how one is made of checked arguments.

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
from jaxtyping import Array, Float, Float64, Int, Key

from abs_dssp import checks

BLOCK = 64  # durations drawn at a time
_SHOWN = 70  # characters of a model in its repr

Seconds = float | Sequence[float] | np.ndarray | Array  # for all workers, or (N,)
Chain = Any  # what a model with memory carries from block to block
Start = Callable[[dict[str, Any]], Chain]
Block = Callable[
    [dict[str, Any], Any, Int[Array, ""], Chain], tuple[Float[Array, " B"], Chain]
]


@dataclasses.dataclass(frozen=True)
class Delays:
    """A model of worker speed; a pytree of its parameters.

    Attributes:
      parameters: arrays with the N workers as first axis.
      start: parameters -> chain state before a worker's first block.
      block: (parameters, key, index, chain) -> the durations `index * BLOCK` up to
        `(index + 1) * BLOCK - 1` in seconds, and the next chain state. Both functions
        see one worker's parameters and key. Blocks are asked for in order.
      spec: the model as `delays.parse` reads it.
    """

    parameters: dict[str, Any]
    start: Start
    block: Block
    spec: str = "delays"

    @property
    def num_workers(self) -> int:
        """Number of workers N."""
        return int(jax.tree.leaves(self.parameters)[0].shape[0])

    def __repr__(self) -> str:
        long = len(self.spec) > _SHOWN
        return f"<Delays {self.spec[:_SHOWN]}{'...' if long else ''}>"


jax.tree_util.register_dataclass(
    Delays,
    data_fields=["parameters"],
    meta_fields=["start", "block"],
    drop_fields=["spec"],  # models that differ only in spelling share a program
)


def table(delays: Delays, count: int, seed: int = 0) -> Float64[np.ndarray, "N M"]:
    """The first durations of every worker.

    `recorded(table(delays, ...))` has the same schedule as `delays`, for as many
    computations as the table holds.

    Args:
      delays: the model.
      count: M, durations per worker.
      seed: for the durations.

    Returns:
      (N, M) seconds, float64.

    Example:
      >>> from abs_dssp import delays
      >>> delays.table(delays.constant([1.0, 2.5]), 3).tolist()
      [[1.0, 1.0, 1.0], [2.5, 2.5, 2.5]]
    """
    checks.kind("table", "delays", delays, Delays, "delays.constant([1.0, 2.5])")
    count = checks.whole("table", "count", count)
    with jax.enable_x64(True):
        given = jax.tree.map(jnp.asarray, delays)
        keys = worker_keys(seed, delays.num_workers)
        return np.asarray(_drawn(given, keys, -(-count // BLOCK)))[:, :count]


@functools.partial(jax.jit, static_argnums=(2,))
def _drawn(delays: Delays, keys, blocks: int):
    """The first blocks of every worker's durations, (N, blocks * BLOCK)."""

    def worker(parameters, key):
        def step(chain, index):
            durations, chain = delays.block(parameters, key, index, chain)
            return chain, durations

        indices = jnp.arange(blocks, dtype=jnp.int32)
        _, drawn = jax.lax.scan(step, delays.start(parameters), indices)
        return drawn.reshape(-1)

    return jax.vmap(worker)(delays.parameters, keys)


def worker_keys(
    seed: int | np.integer | Int[Array, ""], num_workers: int
) -> Key[Array, " N"]:
    """One random key per worker; that of a worker does not depend on N.

    Example:
      >>> from abs_dssp import delays
      >>> delays.worker_keys(seed=0, num_workers=3).shape
      (3,)
    """
    key = jax.random.fold_in(jax.random.key(seed), 0xDE1A)
    workers = jnp.arange(num_workers, dtype=jnp.uint32)
    return jax.vmap(lambda worker: jax.random.fold_in(key, worker))(workers)


def without_memory(parameters: dict[str, Any]) -> Chain:
    """The chain state of a model whose durations are independent."""
    del parameters
    return ()


def build(
    name: str,
    block: Block,
    num_workers: int | None,
    start: Start = without_memory,
    **arguments: Any,
) -> Delays:
    """Checks the arguments of a constructor and gives each worker its value.

    Args:
      name: of the constructor, for messages and `Delays.spec`.
      block: see `Delays`.
      num_workers: number of workers N; None where an argument has one value per worker.
      start: see `Delays`.
      **arguments: numbers or arrays whose first axis is the workers'.

    Raises:
      ValueError: for arguments that are no numbers, negative or infinite, or not as
        many as there are workers.
    """
    arrays: dict[str, Any] = {
        key: value if is_traced(value) else _numbers(name, key, value)
        for key, value in arguments.items()
    }
    lengths = {array.shape[0] for array in arrays.values() if array.ndim > 0}
    if num_workers is not None:
        num_workers = checks.whole(name, "num_workers", num_workers, least=1)
    else:
        if not lengths:
            raise ValueError(
                f"{name}: num_workers must be given where every argument is one number;"
                " or give one number per worker, as in [1, 1, 2.7]."
            )
        num_workers = max(lengths)
    for key, array in arrays.items():
        if array.ndim > 0 and array.shape[0] != num_workers:
            raise ValueError(
                f"{name}: {key} must have one value per worker "
                f"({num_workers}), got {array.shape[0]}."
            )
        if array.ndim == 0:
            repeat = jnp.broadcast_to if is_traced(array) else np.broadcast_to
            arrays[key] = repeat(array, (num_workers,))
    given = ",".join(f"{k}={shown(v)}" for k, v in arguments.items() if k != "lengths")
    return Delays(arrays, start, block, f"{name}({given})")


def _numbers(name: str, key: str, value) -> Any:
    array = checks.numbers(name, key, value)
    if key == "lengths":
        array = array.astype(np.int32)
    elif array.ndim > 1 and key != "durations":
        raise ValueError(
            f"{name}: {key} must be one number or one per worker, got an array of "
            f"shape {array.shape}; delays.recorded takes tables."
        )
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        bad = array[~(np.isfinite(array) & (array >= 0))].flat[0]
        raise ValueError(f"{name}: {key} must be finite and at least 0, got {bad}.")
    return array


def require_positive(name: str, argument: str, value: Seconds) -> None:
    """Raises ValueError unless all numbers are above 0; tracers cannot be checked."""
    if not is_traced(value) and np.any(checks.numbers(name, argument, value) <= 0):
        raise ValueError(f"{name}: {argument} must be above 0, got {value}.")


def is_traced(value: Any) -> bool:
    """Whether the values are not known yet, as inside jit or vmap."""
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value))


def shown(value: Any) -> str:
    """The value as `delays.parse` reads it; `...` for long or unknown ones."""
    if is_traced(value) or np.size(value) > 64:
        return "..."
    return repr(np.asarray(value).tolist())
