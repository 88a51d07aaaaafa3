"""Optax optimisers whose schedule may follow either clock of a stale run.

`server_updates` counts commits, as a parameter server's own schedule does; under ASP it
grows N times as fast as under BSP. `epoch` counts the samples that all workers have
processed. Which of the two drives a learning-rate drop can decide a comparison.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from abs_dssp import checks
from abs_dssp.training.elementwise import mark as elementwise

__all__ = ["CLOCKS", "on_clock", "sgd", "drops", "step_decay", "elementwise"]
__all__ += ["DelayedNesterovState", "delayed_nesterov"]

CLOCKS = ("epoch", "server_updates")

Schedule = Callable[[Float[Array, ""]], Float[Array, ""]]  # clock -> learning rate
Rate = Schedule | float | Float[Array, ""]


def on_clock(
    schedule: Rate, clock: str = "epoch"
) -> optax.GradientTransformationExtraArgs:
    """Scales updates by minus the learning rate at the run's clock. Stateless.

    Args:
      schedule: learning rate as a function of the clock, such as any optax schedule,
        or a number.
      clock: `"epoch"` (samples processed / samples per epoch, a float) or
        `"server_updates"` (commits made).

    Raises:
      ValueError: for an unknown clock.

    Example:

      >>> import jax.numpy as jnp
      >>> from abs_dssp import optimizers
      >>> halved = optimizers.on_clock(lambda epoch: 0.5**epoch)
      >>> step, _ = halved.update(
      ...     jnp.ones(2), halved.init(jnp.ones(2)), epoch=2.0, server_updates=7
      ... )
      >>> print(step)
      [-0.25 -0.25]
    """
    if clock not in CLOCKS:
        known = ", ".join(CLOCKS)
        raise ValueError(f"optimizers: unknown clock {clock!r}; known: {known}.")
    if not callable(schedule):
        checks.number("optimizers", "learning_rate", schedule)

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, *, epoch, server_updates, **extra):
        del params, extra
        time = epoch if clock == "epoch" else server_updates
        rate = schedule(time) if callable(schedule) else schedule
        rate = jnp.asarray(rate, jnp.float32)
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), state

    return elementwise(optax.GradientTransformationExtraArgs(init, update))


def sgd(
    learning_rate: Rate,
    momentum: float | Float[Array, ""] = 0.0,
    nesterov: bool = False,
    weight_decay: float | Float[Array, ""] = 0.0,
    clock: str = "epoch",
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and L2 weight decay, as the papers' frameworks define them.

    Args:
      learning_rate: a number, or a schedule on `clock`.
      momentum: heavy-ball momentum; 0 keeps no state.
      nesterov: Nesterov's variant.
      weight_decay: added to the gradient, times the parameters, before momentum.
      clock: what the schedule follows, `"epoch"` or `"server_updates"`.

    Raises:
      ValueError: for an unknown clock, or a number that is negative or not finite.

    Example:

      >>> from abs_dssp import optimizers
      >>> rate = optimizers.step_decay(0.1, at=[60, 120])
      >>> optimizer = optimizers.sgd(rate, momentum=0.9, weight_decay=1e-4)
    """
    checks.number("sgd", "momentum", momentum)
    checks.number("sgd", "weight_decay", weight_decay)

    def some(value) -> bool:  # of a sweep it is known when the program runs
        return isinstance(value, jax.core.Tracer) or bool(value)

    parts: list[optax.GradientTransformation] = []
    if some(weight_decay):
        parts.append(optax.add_decayed_weights(weight_decay))
    if some(momentum):
        parts.append(optax.trace(momentum, nesterov))
    parts.append(on_clock(learning_rate, clock))
    return optax.with_extra_args_support(optax.chain(*parts))


class DelayedNesterovState(NamedTuple):
    """The state of `delayed_nesterov`."""

    momentum: optax.Updates  # like the parameters
    total: optax.Updates  # sum of the gradients since the momentum's last move
    pending: Int[Array, ""]  # how many these are


def delayed_nesterov(
    learning_rate: Rate,
    every: int,
    momentum: float = 0.9,
    share: float = 0.0,
    clock: str = "epoch",
) -> optax.GradientTransformationExtraArgs:
    """Outer momentum that moves at every N-th push only, for asynchronous Local SGD.

    Liu et al., "Asynchronous Local-SGD Training for Language Modeling", 2024 (arXiv
    2401.09135), from memory: with gradients g_1, g_2, ... of the commits, N = `every`,

        n a multiple of N:  m <- momentum m + (sum of the last N g) / N
                            step = (1 - share N + share) momentum m + g / N
        otherwise:          step = share momentum m + g / N

    So a stale push does not act through the momentum at once. The paper also makes the
    number of local steps follow a worker's speed; here U is one number.

    Args:
      learning_rate: a number, or a schedule on `clock`.
      every: N, commits between two moves of the momentum; at least 1.
      momentum: at least 0 and below 1.
      share: c, of the momentum's step that every commit takes; 0..1/N.
      clock: see `sgd`.

    Raises:
      ValueError: for numbers out of range.

    Example:

      >>> from abs_dssp import optimizers
      >>> optimizer = optimizers.delayed_nesterov(0.7, every=4, share=0.1)
    """
    checks.whole("delayed_nesterov", "every", every, least=1)
    checks.number("delayed_nesterov", "momentum", momentum)
    checks.number("delayed_nesterov", "share", share)
    if not 0 <= momentum < 1:
        raise ValueError(
            f"delayed_nesterov: momentum must be in 0..1 and below 1, got {momentum}."
        )
    if not 0 <= share <= 1 / every:
        raise ValueError(f"delayed_nesterov: share must be in 0..1/every, got {share}.")

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return DelayedNesterovState(zeros, zeros, jnp.int32(0))

    def update(updates, state, params=None, **extra):
        del params, extra
        count = state.pending + 1
        moves = count == every
        total = jax.tree.map(jnp.add, state.total, updates)
        moved = jax.tree.map(
            lambda m, t: jnp.where(moves, momentum * m + t / every, m),
            state.momentum,
            total,
        )
        part = jnp.where(moves, 1 - share * every + share, share) * momentum
        step = jax.tree.map(
            lambda m, g: part.astype(g.dtype) * m + g / every, moved, updates
        )
        total = jax.tree.map(lambda t: jnp.where(moves, 0, t), total)
        return step, DelayedNesterovState(moved, total, jnp.where(moves, 0, count))

    first = elementwise(optax.GradientTransformation(init, update))
    both = optax.chain(first, on_clock(learning_rate, clock))
    return optax.with_extra_args_support(both)


def step_decay(
    learning_rate: float,
    at: Sequence[float] = (),
    factor: float = 0.1,
    warmup: float = 0.0,
) -> Schedule:
    """A constant rate that is multiplied by `factor` at each of `at`.

    Args:
      learning_rate: the rate at the start.
      at: times in units of the clock, above 0 and increasing.
      factor: above 0.
      warmup: time in which the rate rises from 0 to `learning_rate`, on a line.

    Returns:
      The schedule: a function of the clock, float32.

    Raises:
      ValueError: if `at` is not increasing, `factor` not above 0, or `warmup` below 0.

    Example:

      >>> from abs_dssp import optimizers
      >>> rate = optimizers.step_decay(0.5, at=[10, 20], factor=0.5)
      >>> print(rate(0), rate(10), rate(25))
      0.5 0.25 0.125
    """
    checks.number("step_decay", "learning_rate", learning_rate)
    checks.number("step_decay", "factor", factor, above=0)
    checks.number("step_decay", "warmup", warmup)
    if np.ndim(at) != 1:
        raise ValueError(f"step_decay: at must be a list of times, got {at!r}.")
    for time in at:
        checks.number("step_decay", "at", time, above=0)
    edges = tuple(float(time) for time in at)
    if any(b <= a for a, b in zip((0.0, *edges), edges, strict=False)):
        raise ValueError(
            f"step_decay: at must be positive and increasing, got {list(at)}."
        )

    def schedule(time):
        time = jnp.asarray(time, jnp.float32)
        past = jnp.sum(time >= jnp.asarray(edges, jnp.float32)).astype(jnp.float32)
        rate = learning_rate * jnp.float32(factor) ** past
        return rate * jnp.minimum(1.0, time / warmup) if warmup else rate

    return schedule


drops = step_decay
