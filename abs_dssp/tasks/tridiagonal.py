"""The tridiagonal quadratic on which first-order methods are slowest.

Nesterov's worst function ("Lectures on Convex Optimization", 2018, section 2.1.2), used
with additive noise by Tyurin and Richtárik (https://arxiv.org/abs/2305.12387) and the
papers that follow them to compare asynchronous methods.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import checks
from abs_dssp.tasks import sampling
from abs_dssp.tasks.base import Constants, Task, Variables


def tridiagonal(
    num_workers: int,
    dim: int = 1000,
    noise: float = 1.0,
    batch_size: int = 1,
    samples_per_epoch: int = 1000,
) -> Task:
    """F(w) = 1/2 w.A w - b.w, A = 1/4 tridiag(-1, 2, -1), b = (-1/4, 0, ..., 0).

    L = (1 + cos(pi / (d + 1))) / 2, F* = -d / (8 (d + 1)), w^0 = (sqrt(d), 0, ..., 0).
    A stochastic gradient is grad F(w) plus isotropic Gaussian noise of total variance
    `noise / batch_size`, fresh for every (worker, batch).

    Args:
      num_workers: number of workers N.
      dim: dimension d, at least 2; the parameters are one (d,) float32 array.
      noise: sigma^2, the total variance E||g - grad F||^2 of one sample's gradient.
      batch_size: samples per gradient.
      samples_per_epoch: what is called an epoch; there are no data.

    Returns:
      A `Task` with known constants, which evaluates `"loss"` and
      `"gradient_norm_squared"`.

    Raises:
      ValueError: for sizes out of range or a noise that is negative or not finite.

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.tridiagonal(num_workers=2, dim=4)
      >>> variables = task.init(jax.random.key(0))
      >>> variables.params.tolist()
      [2.0, 0.0, 0.0, 0.0]
      >>> float(task.objective(task.data, variables))  # 1/8 (4 + 4) + 2/4
      1.5
      >>> task.constants.optimum  # -4 / (8 * 5)
      -0.1
    """
    checks.whole("tridiagonal", "dim", dim, least=2)
    sizes = {"batch_size": batch_size, "samples_per_epoch": samples_per_epoch}
    checks.wholes("tridiagonal", num_workers=num_workers, **sizes)
    checks.number("tridiagonal", "noise", noise)
    deviation = np.float32(math.sqrt(noise / dim / batch_size))

    def value(w):
        steps = jnp.sum(jnp.diff(w) ** 2)
        return (w[0] ** 2 + w[-1] ** 2 + steps) / 8 + w[0] / 4

    def init(key):
        del key
        return Variables(jnp.zeros(dim, jnp.float32).at[0].set(math.sqrt(dim)), {})

    def batch(data, key, worker, index):
        del data
        own = sampling.stream(key, 0x7D1A, worker, index)
        return deviation * jax.random.normal(own, (dim,), jnp.float32)

    def loss(variables, batch, key):
        del key
        return value(variables.params) + jnp.sum(batch * variables.params), {}

    def evaluate(data, variables):
        del data
        objective, slope = jax.value_and_grad(value)(variables.params)
        return {"loss": objective, "gradient_norm_squared": jnp.sum(slope**2)}

    smoothness = (1 + math.cos(math.pi / (dim + 1))) / 2
    return Task(
        name="tridiagonal",
        num_workers=num_workers,
        batch_size=batch_size,
        samples_per_epoch=samples_per_epoch,
        data=(),
        init=init,
        batch=batch,
        loss=loss,
        evaluate=evaluate,
        objective=lambda data, variables: value(variables.params),
        constants=Constants(smoothness, float(noise), -dim / (8 * (dim + 1))),
    )
