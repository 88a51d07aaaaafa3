"""What a task is: pure functions around a model and its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

PyTree = Any


class Variables(NamedTuple):
    """What a model consists of."""

    params: PyTree  # what gradients are taken of, float32
    stats: PyTree  # BatchNorm statistics; {} for models without


class Constants(NamedTuple):
    """What the theory asks of an objective F; None where unknown."""

    smoothness: float | None = None  # L
    noise_variance: float | None = None  # E||g - grad F||^2 of one sample's gradient
    optimum: float | None = None  # F*


class Task(NamedTuple):
    """A model, its data and their distribution over workers.

    The functions take `data` as an argument and never close over it, so that no array
    is baked into a compiled program.
    """

    name: str
    num_workers: int
    batch_size: int
    samples_per_epoch: int  # training examples in all
    data: PyTree  # arrays
    init: Callable[[Any], Variables]  # (key)
    batch: Callable[[PyTree, Any, Any, Any], PyTree]  # (data, key, worker, index)
    loss: Callable[[Variables, PyTree, Any], tuple[Float[Array, ""], PyTree]]
    evaluate: Callable[[PyTree, Variables], dict[str, Float[Array, ""]]]
    objective: Callable[[PyTree, Variables], Float[Array, ""]]
    constants: Constants | None = None
