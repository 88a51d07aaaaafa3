"""Logistic regression with an l2 penalty on synthetic data, with known constants."""

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.tasks import partition as partition_lib
from abs_dssp.tasks import sampling
from abs_dssp.tasks.base import Constants, Task, Variables


def logistic(
    num_workers: int,
    *,
    samples: int = 1000,
    dim: int = 20,
    l2: float = 0.01,
    batch_size: int = 10,
    partition: str = "equal",
    seed: int = 0,
) -> Task:
    """F(w) = mean_i log(1 + exp(-y_i x_i.w)) + l2/2 |w|^2, labels y in {-1, 1}.

    The x_i are standard normal, the y_i are drawn from a logistic model. The constants
    are computed in float64: L is the largest eigenvalue of X^T X / (4 n) plus l2, the
    optimum comes from Newton's method, and the noise variance is that of one sample's
    gradient at the optimum (elsewhere it differs).

    Args:
      num_workers: number of workers N.
      samples: n.
      dim: d.
      l2: penalty, above 0.
      batch_size: samples per gradient.
      partition: which worker has which samples; see `partition.make`.
      seed: of the data and the partition.

    Returns:
      A `Task` with known constants, whose parameters are one (d,) float32 array and
      which evaluates `"loss"`, `"accuracy"` and `"gradient_norm_squared"` on all n
      samples.

    Raises:
      ValueError: for sizes below 1 or a penalty not above 0.

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.logistic(num_workers=2, samples=8, dim=3)
      >>> variables = task.init(jax.random.key(0))
      >>> round(float(task.objective(task.data, variables)), 4)  # log 2 at w = 0
      0.6931
    """
    if samples < 1 or dim < 1 or batch_size < 1:
        raise ValueError("logistic: samples, dim and batch_size must be at least 1.")
    if not l2 > 0:
        raise ValueError(f"logistic: l2 must be above 0, got {l2}.")
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(samples, dim))
    model = generator.normal(size=dim) * 2 / np.sqrt(dim)
    y = np.where(generator.random(samples) < 1 / (1 + np.exp(-x @ model)), 1.0, -1.0)
    signed = x * y[:, None]
    parts = partition_lib.make(partition, y, num_workers, seed)
    data = {
        "signed": jnp.asarray(signed, jnp.float32),
        "indices": jnp.asarray(parts.indices),
        "sizes": jnp.asarray(parts.sizes),
    }

    def value(params, rows):
        return jnp.mean(jax.nn.softplus(-rows @ params)) + 0.5 * l2 * jnp.sum(params**2)

    def batch(data, key, worker, index):
        mine = sampling.draw(key, worker, index, batch_size, data["sizes"][worker])
        return data["signed"][data["indices"][worker, mine]]

    def loss(variables, batch, key):
        del key
        return value(variables.params, batch), {}

    def objective(data, variables):
        return value(variables.params, data["signed"])

    def evaluate(data, variables):
        slope = jax.grad(value)(variables.params, data["signed"])
        hits = (data["signed"] @ variables.params > 0).astype(jnp.float32)
        return {
            "loss": objective(data, variables),
            "accuracy": jnp.mean(hits),
            "gradient_norm_squared": jnp.sum(slope**2),
        }

    return Task(
        name="logistic",
        num_workers=num_workers,
        batch_size=batch_size,
        samples_per_epoch=samples,
        data=data,
        init=lambda key: Variables(jnp.zeros(dim, jnp.float32), {}),
        batch=batch,
        loss=loss,
        evaluate=evaluate,
        objective=objective,
        constants=_constants(signed, l2),
    )


def _constants(signed: np.ndarray, l2: float) -> Constants:
    samples, dim = signed.shape
    gram = signed.T @ signed / samples
    w = np.zeros(dim)
    for _ in range(50):
        miss = 1 / (1 + np.exp(signed @ w))  # probability of the wrong label
        slope = -signed.T @ miss / samples + l2 * w
        if np.linalg.norm(slope) < 1e-14:
            break
        hessian = (signed * (miss * (1 - miss))[:, None]).T @ signed / samples
        w = w - np.linalg.solve(hessian + l2 * np.eye(dim), slope)
    miss = 1 / (1 + np.exp(signed @ w))
    slopes = -signed * miss[:, None] + l2 * w  # of the samples
    noise = float(np.mean(np.sum((slopes - slopes.mean(axis=0)) ** 2, axis=1)))
    optimum = np.mean(np.logaddexp(0, -signed @ w)) + l2 / 2 * w @ w
    smoothness = float(np.linalg.eigvalsh(gram)[-1] / 4 + l2)
    return Constants(smoothness, noise, float(optimum))
