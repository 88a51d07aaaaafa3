"""The chain on which every method must find one coordinate after another.

The hard instance of Arjevani et al., "Lower Bounds for Non-Convex Stochastic
Optimization", 2019 (https://arxiv.org/abs/1912.02365), which Tyurin and Richtárik
(https://arxiv.org/abs/2305.12387) use for parallel methods. Coordinate i + 1 has a
gradient only where coordinate i is above 1/2, and a stochastic gradient shows the next
one with probability p.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from abs_dssp import checks
from abs_dssp.tasks import sampling
from abs_dssp.tasks.base import Constants, Task, Variables

_FOUND = 0.25  # a coordinate at least this large is shown by every gradient


def zero_chain(
    num_workers: int,
    length: int = 20,
    probability: float = 0.1,
    samples_per_epoch: int = 1000,
) -> Task:
    """A function whose coordinates can be moved only one after another.

    F(x) = -psi(1) phi(x_1) + sum_i (psi(-x_i) phi(-x_{i+1}) - psi(x_i) phi(x_{i+1})),
    psi(x) = exp(1 - 1 / (2x - 1)^2) above 1/2 and 0 elsewhere; phi(x) = sqrt(e) times
    the integral of exp(-t^2 / 2) up to x. A stochastic gradient is grad F, but the
    coordinates behind the last one of at least 1/4 are multiplied by z / p, where z is
    1 with probability p and else 0: unbiased, and mostly blind for what comes next.
    From x = 0, ||grad F|| is above 1 until all coordinates have reached 1.

    Args:
      num_workers: number of workers N.
      length: T, the number of coordinates; the parameters are one (T,) float32 array.
      probability: p, in (0, 1].
      samples_per_epoch: what is called an epoch; there are no data.

    Returns:
      A `Task` that evaluates `"loss"`, `"gradient_norm_squared"` and `"progress"`, the
      number of the last coordinate that is not 0.

    Raises:
      ValueError: for sizes below 1 or a probability outside (0, 1].

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.zero_chain(num_workers=2, length=3)
      >>> measured = task.evaluate(task.data, task.init(jax.random.key(0)))
      >>> float(measured["gradient_norm_squared"]) > 1, int(measured["progress"])
      (True, 0)
    """
    sizes = {"length": length, "samples_per_epoch": samples_per_epoch}
    checks.wholes("zero_chain", num_workers=num_workers, **sizes)
    if not 0 < probability <= 1:
        raise ValueError(
            f"zero_chain: probability must be above 0 and at most 1, got {probability}."
        )

    def init(key):
        del key
        return Variables(jnp.zeros(length, jnp.float32), {})

    def batch(data, key, worker, index):
        del data
        own = sampling.stream(key, 0x2C4A, worker, index)
        return jax.random.bernoulli(own, probability).astype(jnp.float32) / probability

    def loss(variables, batch, key):
        del key
        x = variables.params
        objective, slope = jax.value_and_grad(chain)(x)
        behind = jnp.arange(length) >= _last(jnp.abs(x) >= _FOUND)
        shown = jax.lax.stop_gradient(jnp.where(behind, batch * slope, slope))
        # Its value is F, its gradient what the oracle shows.
        line = jnp.dot(shown, x)
        return jax.lax.stop_gradient(objective - line) + line, {}

    def evaluate(data, variables):
        del data
        x = variables.params
        objective, slope = jax.value_and_grad(chain)(x)
        return {
            "loss": objective,
            "gradient_norm_squared": jnp.sum(slope**2),
            "progress": _last(x != 0).astype(jnp.float32),
        }

    return Task(
        name="zero_chain",
        num_workers=num_workers,
        batch_size=1,
        samples_per_epoch=samples_per_epoch,
        data=(),
        init=init,
        batch=batch,
        loss=loss,
        evaluate=evaluate,
        objective=lambda data, variables: chain(variables.params),
        constants=Constants(),
    )


def chain(x: Float[Array, " T"]) -> Float[Array, ""]:
    """F at a point.

    Example:
      >>> round(float(chain(jnp.zeros(3))), 3)  # -phi(0)
      -2.066
    """
    before = jnp.concatenate([jnp.ones(1, x.dtype), x[:-1]])
    terms = _psi(-before) * _phi(-x) - _psi(before) * _phi(x)
    return terms.sum()


def _psi(x):
    inside = x > 0.5
    safe = jnp.where(inside, 2 * x - 1, 1.0)
    return jnp.where(inside, jnp.exp(1 - 1 / safe**2), 0.0)


def _phi(x):
    return math.sqrt(2 * math.pi * math.e) * jax.scipy.stats.norm.cdf(x)


def _last(flags):
    """The number of the last flag that is set, counted from 1; 0 if none is."""
    return jnp.max(jnp.where(flags, jnp.arange(1, flags.shape[0] + 1), 0), initial=0)
