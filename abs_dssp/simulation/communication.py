"""The time of a push between worker and server: bytes, bandwidth, queues, updates."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from abs_dssp import checks, literals

__all__ = ["Communication", "link", "none", "parse", "per_worker", "resolve"]


@dataclasses.dataclass(frozen=True)
class Communication:
    """Seconds between the end of a computation and its arrival at the server.

    Attributes:
      seconds: of a transfer; one number or (N,), one per worker.
      shared: whether the server's link carries one transfer at a time, in the order in
        which the computations end (ties: lowest worker index), as when all traffic goes
        through one network card. Otherwise transfers do not slow each other down.
      update: seconds for which the server is busy after every commit; None for none.
        Workers that the commit releases start when the server is done, and pushes that
        arrive meanwhile are taken then, in order. A rule that commits every push alone
        pays this N times where a barrier pays it once.
    """

    seconds: Real[Array | np.ndarray, "..."] | float
    shared: bool = False
    update: Real[Array, ""] | float | None = None


jax.tree_util.register_dataclass(
    Communication, data_fields=["seconds", "update"], meta_fields=["shared"]
)


def none() -> Communication:
    """Pushes arrive as soon as they are computed.

    Example:
      >>> from abs_dssp import communication
      >>> communication.none()
      Communication(seconds=0.0, shared=False, update=None)
    """
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
      latency: seconds that every push takes in addition.
      shared: whether all transfers queue at one link of the server.
      update: seconds for which every commit keeps the server busy.

    Raises:
      ValueError: for negative bytes, latency or update, or a bandwidth not above 0.

    Example:
      >>> from abs_dssp import communication
      >>> link = communication.link(num_bytes=100, bandwidth=[50, 200], latency=0.5)
      >>> communication.per_worker(link, num_workers=2).tolist()
      [2.5, 1.0]
    """
    given = {"num_bytes": num_bytes, "latency": latency, "update": update}
    for name, value in given.items():
        checks.number("communication", name, value)
    rate = checks.numbers("communication", "bandwidth", bandwidth)
    if not np.all(rate > 0) or rate.ndim > 1:
        what = "one number or one per worker" if rate.ndim > 1 else "above 0"
        raise ValueError(f"communication: bandwidth must be {what}, got {bandwidth}.")
    if not isinstance(shared, bool):
        raise ValueError(
            f"communication: shared must be True or False, got {shared!r}."
        )
    return Communication(latency + num_bytes / rate, shared, update or None)


def parse(text: str, num_bytes: float | None = None) -> Communication:
    """Reads `"none()"` or `"link(bandwidth=1e9,shared=True)"`.

    Args:
      text: a call with literal arguments; without names they are in `link`'s order.
      num_bytes: bytes per push, where the text does not say.

    Raises:
      ValueError: for an unknown name or argument, or what `link` refuses.

    Example:
      >>> from abs_dssp import communication
      >>> link = communication.parse("link(bandwidth=50,shared=True)", num_bytes=100)
      >>> float(link.seconds), link.shared
      (2.0, True)
    """
    where = "communication.parse"
    checks.text(where, text, "'link(bandwidth=1e9)'")
    call = literals.parse_call(text, where)
    if call.name == "link" and not call.args and num_bytes is not None:
        call = dataclasses.replace(call, kwargs={"num_bytes": num_bytes, **call.kwargs})
    known: dict[str, Callable[..., Communication]]
    known = {"none": none, "link": link}
    return literals.build(call, where, known)


def resolve(
    communication: Communication | str | None,
    num_bytes: float | None = None,
    where: str = "communication.resolve",
) -> Communication:
    """A model of the network, that of a text, or none.

    Args:
      communication: what was given.
      num_bytes: bytes per push, where a text does not say.
      where: the caller's name, for messages.

    Raises:
      TypeError: if it is something else.
      ValueError: as `parse`.

    Example:
      >>> from abs_dssp import communication
      >>> float(communication.resolve("link(bandwidth=50)", num_bytes=100).seconds)
      2.0
    """
    if communication is None:
        return none()
    if isinstance(communication, str):
        communication = parse(communication, num_bytes)
    example = "communication.link(1e6, 1e9) or the text 'link(bandwidth=1e9)'"
    checks.kind(where, "communication", communication, Communication, example)
    return communication


def per_worker(
    communication: Communication, num_workers: int
) -> Float[Array, " {num_workers}"]:
    """Seconds per push of every worker.

    Args:
      communication: with one number or one per worker.
      num_workers: number of workers N.

    Returns:
      (N,) seconds, float64 where x64 is enabled.

    Raises:
      ValueError: if there is neither one number nor one per worker.

    Example:
      >>> from abs_dssp import communication
      >>> communication.per_worker(communication.none(), num_workers=2).tolist()
      [0.0, 0.0]
    """
    example = "communication.none()"
    checks.kind("per_worker", "communication", communication, Communication, example)
    seconds = jnp.asarray(communication.seconds, float)
    if seconds.ndim > 0 and seconds.shape != (num_workers,):
        raise ValueError(
            "communication: bandwidth must be one number or one per worker "
            f"({num_workers}), got {seconds.shape[0]}."
        )
    return jnp.broadcast_to(seconds, (num_workers,))
