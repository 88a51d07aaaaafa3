"""What a task is: pure functions around a model and its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, PRNGKeyArray

PyTree = Any


class Variables(NamedTuple):
    """What a model consists of.

    Attributes:
      params: pytree of float32 arrays, of which gradients are taken.
      stats: pytree of float32 arrays, the BatchNorm statistics; {} for models without.
    """

    params: PyTree
    stats: PyTree


class Constants(NamedTuple):
    """The constants of an objective F in the theorems; None where unknown.

    Attributes:
      smoothness: L, the Lipschitz constant of the gradient.
      noise_variance: E||g - grad F||^2 of one sample's gradient g.
      optimum: F*, the least value of F.
    """

    smoothness: float | None = None
    noise_variance: float | None = None
    optimum: float | None = None


class Task(NamedTuple):
    """A model, its data and their distribution over workers.

    The functions are pure and can be jitted. They take `data` as an argument and never
    close over it, so that no array is baked into a compiled program. Floating-point
    arrays are float32 whatever JAX's default.

    Attributes:
      name: for traces and reports.
      num_workers: N.
      batch_size: samples per gradient.
      samples_per_epoch: training samples of all workers together.
      data: pytree of arrays, handed to the functions below.
      init: key -> `Variables`, the initial ones.
      batch: (data, key, worker, index) -> pytree of arrays, the mini-batch number
        `index` of a worker. The key is that of the run; worker and index are int32
        scalars.
      loss: (variables, batch, key) -> mean loss of the batch and new statistics. The
        key is for dropout.
      evaluate: (data, variables) -> scalars by name, on held-out data where there are
        any; `"loss"` is one of them.
      objective: (data, variables) -> F, the mean loss over training data.
      constants: those of F; None for models without theory.

    Example:
      >>> import jax
      >>> from abs_dssp import tasks
      >>> task = tasks.quadratic(num_workers=2, dim=3, noise=0.0)
      >>> variables = task.init(jax.random.key(0))
      >>> variables.params.tolist()
      [1.0, 1.0, 1.0]
      >>> float(task.objective(task.data, variables))  # 1/2 |w|^2
      1.5
    """

    name: str
    num_workers: int
    batch_size: int
    samples_per_epoch: int
    data: PyTree
    init: Callable[[PRNGKeyArray], Variables]
    batch: Callable[[PyTree, PRNGKeyArray, Int[Array, ""], Int[Array, ""]], PyTree]
    loss: Callable[[Variables, PyTree, Any], tuple[Float[Array, ""], PyTree]]
    evaluate: Callable[[PyTree, Variables], dict[str, Float[Array, ""]]]
    objective: Callable[[PyTree, Variables], Float[Array, ""]]
    constants: Constants | None = None
