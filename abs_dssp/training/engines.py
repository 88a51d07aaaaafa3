"""The two engines of a replay, and the choice between them."""

import jax
import jax.numpy as jnp

from abs_dssp.tasks.base import Task
from abs_dssp.training import flat
from abs_dssp.training.compiled import CompiledEngine
from abs_dssp.training.config import EngineConfig, UpdateConfig
from abs_dssp.training.row_by_row import HostEngine

Engine = CompiledEngine | HostEngine  # with the same methods


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
        wanted, and on a CPU if the loss has XLA's convolutions.
    """
    cpu = jax.default_backend() == "cpu"
    loop, sequential = config.loop, config.width in (None, 1)
    if loop == "auto":
        exact = config.recorded or config.formats != flat.Wire()
        slow = exact or (cpu and _has_convolutions(task))
        loop = "host" if slow and sequential else "compiled"
    if loop == "host":
        formats = config.formats, config.split
        return HostEngine(task, update, seed, config.num_versions, *formats)
    width = config.width or (1 if cpu else task.num_workers)
    sizes = (config.num_versions, num_pushes)
    return CompiledEngine(task, update, seed, *sizes, commits_every_push, width)


def _has_convolutions(task: Task) -> bool:
    """Whether the loss of a task uses convolutions of XLA; built-in models do not."""
    functions, data = task._replace(data=None, constants=None), task.data

    def value(data, key):
        variables = functions.init(key)
        batch = functions.batch(data, key, jnp.int32(0), jnp.int32(0))
        return functions.loss(variables, batch, key)

    return "conv_general_dilated" in str(jax.make_jaxpr(value)(data, jax.random.key(0)))
