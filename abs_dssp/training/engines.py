"""What a replay asks of an engine, and the choice between the two."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import flat
from abs_dssp.training.checkpoints import Checkpoint
from abs_dssp.training.compiled import CompiledEngine
from abs_dssp.training.config import EngineConfig, UpdateConfig
from abs_dssp.training.row_by_row import HostEngine


@runtime_checkable
class Engine(Protocol):
    """Computes the pushes of a trace and applies them, from version 0 on.

    Attributes:
      loop: `"compiled"` or `"host"`.
      task: model and data.
      config: how pushes become updates.
      num_versions: versions of the parameters that are kept.
      version: the present version's number.
    """

    loop: str
    task: Task
    config: UpdateConfig
    num_versions: int
    version: int

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """Sets the rows: all columns of the trace that is known so far."""

    def run(self, start: int, stop: int) -> None:
        """Computes and applies the rows `start` up to, not including, `stop`."""

    def variables(self) -> Variables:
        """A copy of the present version."""
        ...

    def evaluate(self) -> dict[str, float]:
        """The task's measures at the present version."""
        ...

    def objective(self) -> float:
        """The training objective at the present version."""
        ...

    def losses(self, start: int, stop: int) -> np.ndarray:
        """Training losses of the rows `start` to `stop`, float32."""
        ...

    def reserve(self, num_pushes: int) -> None:
        """Makes room for so many rows."""

    def grow(self, num_versions: int) -> None:
        """Keeps at least so many versions from now on."""

    def checkpoint(self) -> Checkpoint:
        """The state; its arrays are those that the next rows use up."""
        ...

    def restore(self, saved: Checkpoint) -> None:
        """Continues from a state, with at least the sizes it was saved with."""


def make(
    task: Task,
    update: UpdateConfig,
    seed: int,
    num_pushes: int,
    commits_every_push: bool,
    config: EngineConfig = EngineConfig(),  # noqa: B008
) -> Engine:
    """The engine for a trace.

    Args:
      task: model and data.
      update: how pushes become updates.
      seed: of the run.
      num_pushes: rows, at least.
      commits_every_push: whether every push is accepted and committed alone.
      config: how to compute. `"auto"` goes row by row where a cluster's bits are
        wanted, and on a CPU if the loss has convolutions.
    """
    cpu = jax.default_backend() == "cpu"
    loop, sequential = config.loop, config.width in (None, 1)
    if loop == "auto":
        exact = config.recorded or config.formats != flat.Wire()
        slow = exact or (cpu and _has_convolutions(task))
        loop = "host" if slow and sequential else "compiled"
    if loop == "host":
        return HostEngine(task, update, seed, config.num_versions, config.formats)
    width = config.width or (1 if cpu else task.num_workers)
    return CompiledEngine(
        task, update, seed, config.num_versions, num_pushes, commits_every_push, width
    )


def _has_convolutions(task: Task) -> bool:
    """Whether the loss of a task uses convolutions."""
    functions, data = task._replace(data=None, constants=None), task.data

    def value(data, key):
        variables = functions.init(key)
        batch = functions.batch(data, key, jnp.int32(0), jnp.int32(0))
        return functions.loss(variables, batch, key)

    return "conv_general_dilated" in str(jax.make_jaxpr(value)(data, jax.random.key(0)))
