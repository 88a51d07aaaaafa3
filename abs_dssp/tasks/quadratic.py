"""A quadratic with known constants and exactly known gradient noise."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import checks
from abs_dssp.tasks import sampling
from abs_dssp.tasks.base import Constants, Task, Variables


def quadratic(
    num_workers: int,
    dim: int = 10,
    smoothness: float = 1.0,
    condition: float = 1.0,
    eigenvalues: Sequence[float] | None = None,
    noise: float = 1.0,
    relative_noise: float = 0.0,
    start: float = 1.0,
    heterogeneity: float = 0.0,
    batch_size: int = 1,
    samples_per_epoch: int = 1000,
) -> Task:
    """F(w) = 1/2 sum_j lambda_j w_j^2, with Gaussian gradient noise.

    F* = 0 at w = 0. A stochastic gradient is grad F(w) plus isotropic noise of total
    variance `noise / batch_size`, fresh for every (worker, batch). With
    `relative_noise` coordinate j also has noise in proportion to lambda_j w_j, of total
    variance `relative_noise / batch_size` times ||grad F(w)||^2, which vanishes at the
    optimum.

    Args:
      num_workers: number of workers N.
      dim: dimension d.
      smoothness: L, the largest eigenvalue.
      condition: L over the smallest eigenvalue; those between are spaced evenly in
        the logarithm.
      eigenvalues: all lambda_j, in place of `dim`, `smoothness` and `condition`.
      noise: sigma^2, the total variance E||g - grad F||^2 of one sample's gradient.
      relative_noise: the same in units of ||grad F||^2, on top; the constants then have
        no noise variance, since there is no bound.
      start: every coordinate of w^0.
      heterogeneity: how far the workers' own optima lie apart. They average to w = 0,
        so that F is unchanged: worker i's gradient has the constant shift
        `heterogeneity * sin(2 pi (i + 1/4) / N)`, less its mean, in every coordinate.
      batch_size: samples per gradient.
      samples_per_epoch: what is called an epoch; there are no data.

    Returns:
      A `Task` with known constants, whose parameters are one (d,) float32 array and
      which evaluates `"loss"` and `"gradient_norm_squared"`.

    Raises:
      ValueError: for a number of workers, dimension, condition, batch size or epoch
        below 1, a smoothness not above 0, or eigenvalues or a noise that are negative
        or not finite.

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.quadratic(num_workers=2, eigenvalues=[1.0, 3.0], start=2.0)
      >>> variables = task.init(jax.random.key(0))
      >>> values = task.evaluate(task.data, variables)
      >>> float(values["loss"])  # 1/2 (1 * 4 + 3 * 4)
      8.0
      >>> float(values["gradient_norm_squared"])  # 2^2 + 6^2
      40.0
      >>> task.constants
      Constants(smoothness=3.0, noise_variance=1.0, optimum=0.0)
    """
    sizes = {"num_workers": num_workers, "dim": dim, "batch_size": batch_size}
    checks.wholes("quadratic", **sizes, samples_per_epoch=samples_per_epoch)
    checks.number("quadratic", "smoothness", smoothness, above=0)
    checks.number("quadratic", "condition", condition)
    if condition < 1:
        raise ValueError(f"quadratic: condition must be at least 1, got {condition}.")
    if eigenvalues is None:
        curvature = np.geomspace(smoothness / condition, smoothness, dim)
    else:
        curvature = np.asarray(eigenvalues, float)
    checked = np.append(curvature, [noise, relative_noise])
    if not curvature.size or not np.all(np.isfinite(checked) & (checked >= 0)):
        raise ValueError(
            "quadratic: eigenvalues, noise and relative_noise must be at least 0 and "
            f"finite, got {curvature.tolist()}, {noise} and {relative_noise}."
        )
    size = len(curvature)
    angle = 2 * np.pi * (np.arange(num_workers) + 0.25) / num_workers
    shifts = heterogeneity * (np.sin(angle) - np.sin(angle).mean())
    data = {
        "curvature": jnp.asarray(curvature, jnp.float32),
        "shifts": jnp.asarray(shifts, jnp.float32),
    }
    deviation = np.float32(np.sqrt(noise / size / batch_size))
    relative = np.float32(np.sqrt(relative_noise / batch_size))

    def objective(data, variables):
        return 0.5 * jnp.sum(data["curvature"] * variables.params**2)

    def batch(data, key, worker, index):
        own = sampling.stream(key, 0x9A4D, worker, index)
        draws = jax.random.normal(own, (size,), jnp.float32)
        # The curvature travels with the batch: `loss` sees no data.
        shift = jnp.broadcast_to(data["shifts"][worker], (size,))
        scales = jnp.ones((), jnp.float32)
        if relative_noise:
            other = sampling.stream(key, 0x9A4E, worker, index)
            scales += relative * jax.random.normal(other, (size,), jnp.float32)
        return data["curvature"], deviation * draws + shift, scales

    def loss(variables, batch, key):
        del key
        curvature, noise, scales = batch
        params = variables.params
        value = 0.5 * jnp.sum(scales * curvature * params**2)
        return value + jnp.sum(noise * params), {}

    def evaluate(data, variables):
        slope = data["curvature"] * variables.params
        value = objective(data, variables)
        return {"loss": value, "gradient_norm_squared": jnp.sum(slope**2)}

    return Task(
        name="quadratic",
        num_workers=num_workers,
        batch_size=batch_size,
        samples_per_epoch=samples_per_epoch,
        data=data,
        init=lambda key: Variables(jnp.full((size,), start, jnp.float32), {}),
        batch=batch,
        loss=loss,
        evaluate=evaluate,
        objective=objective,
        constants=Constants(
            float(curvature.max()), None if relative_noise else float(noise), 0.0
        ),
    )
