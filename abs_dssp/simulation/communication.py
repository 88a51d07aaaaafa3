"""How long a push takes on its way: bytes, bandwidth, the server's link and updates."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from abs_dssp import literals


@dataclasses.dataclass(frozen=True)
class Communication:
    """Seconds between the end of a computation and its arrival at the server.

    With `shared`, the server's link carries one transfer at a time, in the order in
    which the computations end (ties: lowest worker index), as when everybody's
    traffic meets at one network card; otherwise transfers do not hinder each other.

    With `update`, the server is busy for so long after every commit: what it releases
    starts when it is done, and pushes that arrive meanwhile are taken then, in order. A
    rule that commits every push alone pays it N times where a barrier pays it once.
    """

    seconds: Array | np.ndarray | float  # per push; one number or one per worker
    shared: bool = False
    update: Array | float | None = None  # seconds per commit; None costs nothing


jax.tree_util.register_dataclass(
    Communication, data_fields=["seconds", "update"], meta_fields=["shared"]
)


def none() -> Communication:
    """Pushes arrive as soon as they are computed."""
    return Communication(0.0)


def link(
    num_bytes: float,
    bandwidth: float | Sequence[float],
    latency: float = 0.0,
    shared: bool = False,
    update: float = 0.0,
) -> Communication:
    """The time of one push: `latency + num_bytes / bandwidth`.

    Args:
      num_bytes: bytes moved per push, gradients up and parameters down together.
      bandwidth: bytes per second; one number or one per worker.
      latency: seconds that every push takes besides.
      shared: whether all transfers queue at one link of the server.
      update: seconds for which every commit keeps the server busy.

    Raises:
      ValueError: for negative bytes, latency or update, or a bandwidth not above 0.
    """
    given = {"num_bytes": num_bytes, "latency": latency, "update": update}
    for name, value in given.items():
        if not value >= 0:
            raise ValueError(f"communication: {name} must be at least 0, got {value}.")
    rate = np.asarray(bandwidth, float)
    if np.any(rate <= 0):
        raise ValueError(f"communication: bandwidth must be above 0, got {bandwidth}.")
    return Communication(latency + num_bytes / rate, shared, update or None)


def parse(text: str, num_bytes: float) -> Communication:
    """Reads `"none()"` or `"link(bandwidth=1e9,shared=True)"`.

    Args:
      text: a call with literal arguments.
      num_bytes: bytes per push, where the text does not say.

    Raises:
      ValueError: for an unknown name or argument, or what `link` refuses.
    """

    def default_link(
        bandwidth,
        latency: float = 0.0,
        shared: bool = False,
        update: float = 0.0,
        num_bytes=num_bytes,
    ):
        return link(num_bytes, bandwidth, latency, shared, update)

    known: dict[str, Callable[..., Communication]]
    known = {"none": none, "link": default_link}
    return literals.build(text, "communication.parse", known)


def per_worker(communication: Communication, num_workers: int) -> Array:
    """Seconds per push of every worker, (N,) float64 under x64.

    Raises:
      ValueError: if there is neither one number nor one per worker.
    """
    seconds = jnp.asarray(communication.seconds, float)
    if seconds.ndim > 0 and seconds.shape != (num_workers,):
        raise ValueError(
            "communication: bandwidth must be one number or one per worker "
            f"({num_workers}), got {seconds.shape[0]}."
        )
    return jnp.broadcast_to(seconds, (num_workers,))
