"""Optax optimisers whose schedule may follow either clock of a stale run.

`server_updates` counts commits: what a parameter server's own schedule sees, and N
times as fast under ASP as under BSP. `epoch` counts samples processed, whoever
processed them. Which of the two drives a learning-rate drop can decide a comparison.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

CLOCKS = ("epoch", "server_updates")

Schedule = Callable[[Float[Array, ""]], Float[Array, ""]]  # clock -> learning rate


def on_clock(
    schedule: Schedule | float, clock: str = "epoch"
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by minus the learning rate at the run's clock. Stateless.

    Args:
      schedule: learning rate as a function of the clock, such as any optax schedule,
        or a number.
      clock: `"epoch"` (samples processed / samples per epoch, a float) or
        `"server_updates"` (commits made).

    Raises:
      ValueError: for an unknown clock.
    """
    if clock not in CLOCKS:
        known = ", ".join(CLOCKS)
        raise ValueError(f"optimizers: unknown clock {clock!r}; known: {known}.")

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, *, epoch, server_updates, **extra):
        del params, extra
        time = epoch if clock == "epoch" else server_updates
        rate = schedule(time) if callable(schedule) else schedule
        rate = jnp.asarray(rate, jnp.float32)
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def sgd(
    learning_rate: Schedule | float,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clock: str = "epoch",
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and L2 weight decay, as the papers' frameworks define them.

    Args:
      learning_rate: a number, or a schedule on `clock`.
      momentum: heavy-ball momentum; 0 keeps no state.
      nesterov: Nesterov's variant.
      weight_decay: added to the gradient, times the parameters, before momentum.
      clock: what the schedule follows, `"epoch"` or `"server_updates"`.
    """
    parts: list[optax.GradientTransformation] = []
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay))
    if momentum:
        parts.append(optax.trace(momentum, nesterov))
    return optax.with_extra_args_support(
        optax.chain(*parts, on_clock(learning_rate, clock))
    )


def drops(
    learning_rate: float, at: Sequence[float] = (), factor: float = 0.1
) -> Schedule:
    """A constant rate, multiplied by `factor` at each of `at` (in units of the clock).

    Raises:
      ValueError: if `at` is not increasing, or `factor` not above 0.
    """
    if any(b <= a for a, b in zip(at[:-1], at[1:], strict=True)) or any(
        a <= 0 for a in at
    ):
        raise ValueError(f"drops: at must be positive and increasing, got {list(at)}.")
    if factor <= 0:
        raise ValueError(f"drops: factor must be above 0, got {factor}.")
    edges = tuple(float(a) for a in at)

    def schedule(time):
        time = jnp.asarray(time, jnp.float32)
        past = jnp.sum(time >= jnp.asarray(edges, jnp.float32)).astype(jnp.float32)
        return learning_rate * jnp.float32(factor) ** past

    return schedule
