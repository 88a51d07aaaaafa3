"""Logistic regression with an l2 penalty on synthetic data, with known constants."""

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import checks
from abs_dssp.tasks import partition as partition_lib
from abs_dssp.tasks import sampling
from abs_dssp.tasks.base import Constants, Task, Variables
from abs_dssp.tasks.partition import Partition


def logistic(
    num_workers: int,
    samples: int = 1000,
    dim: int = 20,
    l2: float = 0.01,
    batch_size: int = 10,
    partition: str = "equal",
    mean_over: str = "samples",
    seed: int = 0,
) -> Task:
    """F(w) = mean_i log(1 + exp(-y_i x_i.w)) + l2/2 |w|^2, labels y in {-1, 1}.

    The x_i are standard normal, the y_i are drawn from a logistic model. The mean is
    over all samples, or over the workers' own means: these differ where workers have
    different numbers of samples. A rule under which everybody's pushes count the same,
    such as `bsp` or `malenia`, minimises the latter; pushes in proportion to a worker's
    samples minimise the former.

    The constants follow the mean and are computed in float64: L is the largest
    eigenvalue of X^T A X / 4 plus l2, A the samples' shares of the mean, the optimum
    comes from Newton's method, and the noise variance is that of one sample's gradient
    at the optimum (elsewhere it differs), of a sample drawn by its share: what workers
    differ by counts as noise.

    Args:
      num_workers: number of workers N.
      samples: n.
      dim: d.
      l2: penalty, above 0.
      batch_size: samples per gradient.
      partition: which worker has which samples; see `partition.make`.
      mean_over: `"samples"` or `"workers"`: of which F, its constants and all that is
        evaluated are the mean. Batches are the same for both.
      seed: of the data and the partition.

    Returns:
      A `Task` with known constants, whose parameters are one (d,) float32 array and
      which evaluates `"loss"`, `"accuracy"` and `"gradient_norm_squared"` on all n
      samples.

    Raises:
      ValueError: for sizes below 1, a penalty not above 0 or another mean.

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.logistic(num_workers=2, samples=8, dim=3)
      >>> variables = task.init(jax.random.key(0))
      >>> round(float(task.objective(task.data, variables)), 4)  # log 2 at w = 0
      0.6931
    """
    sizes = {"samples": samples, "dim": dim, "batch_size": batch_size}
    checks.wholes("logistic", num_workers=num_workers, **sizes)
    checks.whole("logistic", "seed", seed)
    checks.number("logistic", "l2", l2, above=0)
    if mean_over not in ("samples", "workers"):
        raise ValueError(
            f'logistic: mean_over must be "samples" or "workers", got {mean_over!r}.'
        )
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
    shares = np.full(samples, 1 / samples)
    if mean_over == "workers":
        shares = _shares(parts, samples)
        data["shares"] = jnp.asarray(shares, jnp.float32)

    def value(params, rows, shares=None):
        losses = jax.nn.softplus(-rows @ params)
        mean = jnp.average(losses, weights=shares)
        return mean + 0.5 * l2 * jnp.sum(params**2)

    def batch(data, key, worker, index):
        mine = sampling.draw(key, worker, index, batch_size, data["sizes"][worker])
        return data["signed"][data["indices"][worker, mine]]

    def loss(variables, batch, key):
        del key
        return value(variables.params, batch), {}

    def objective(data, variables):
        return value(variables.params, data["signed"], data.get("shares"))

    def evaluate(data, variables):
        shares = data.get("shares")
        slope = jax.grad(value)(variables.params, data["signed"], shares)
        hits = (data["signed"] @ variables.params > 0).astype(jnp.float32)
        return {
            "loss": objective(data, variables),
            "accuracy": jnp.average(hits, weights=shares),
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
        constants=_constants(signed, shares, l2),
    )


def _shares(parts: Partition, samples: int) -> np.ndarray:
    """Of each sample in the mean over workers: 1 / (N n_i) from all that have it."""
    each = 1 / (len(parts.sizes) * parts.sizes)
    shares = np.zeros(samples)
    for row, size, share in zip(parts.indices, parts.sizes, each, strict=True):
        np.add.at(shares, row[:size], share)
    return shares


def _constants(signed: np.ndarray, shares: np.ndarray, l2: float) -> Constants:
    dim = signed.shape[1]
    shared = signed * shares[:, None]
    w = np.zeros(dim)
    for _ in range(50):
        miss = 1 / (1 + np.exp(signed @ w))  # probability of the wrong label
        slope = -shared.T @ miss + l2 * w
        if np.linalg.norm(slope) < 1e-14:
            break
        hessian = (shared * (miss * (1 - miss))[:, None]).T @ signed
        w = w - np.linalg.solve(hessian + l2 * np.eye(dim), slope)
    miss = 1 / (1 + np.exp(signed @ w))
    slopes = -signed * miss[:, None] + l2 * w  # of the samples
    noise = float(shares @ np.sum((slopes - shares @ slopes) ** 2, axis=1))
    optimum = shares @ np.logaddexp(0, -signed @ w) + l2 / 2 * w @ w
    smoothness = float(np.linalg.eigvalsh(shared.T @ signed)[-1] / 4 + l2)
    return Constants(smoothness, noise, float(optimum))
