"""What a push and a commit compute: the formulas shared by replay and cluster.

A push is the sum over U local steps of mini-batch gradients, or how far these steps
went (`UpdateConfig.push`). A commit applies what the aggregator makes of the pushes
since the last one. BatchNorm statistics travel with a push and are averaged at the
commit like the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training.config import UpdateConfig

PyTree = Any
rule = UpdateConfig


class PushContext(NamedTuple):
    """Where a push comes from: everything that its gradients depend on."""

    worker: Int[Array, ""]  # 0..N-1
    clock: Int[Array, ""]  # 1-based, this push included
    version: Int[Array, ""]  # the version it is computed from
    epoch: Float[Array, ""]  # samples processed when that version was made, in epochs


class Push(NamedTuple):
    """A worker's result."""

    # Like the parameters: the sum of the gradients of the local steps, or the pulled
    # parameters minus those after the last local step.
    gradient: PyTree
    stats: PyTree  # BatchNorm statistics after the last local step
    loss: Float[Array, ""]  # mean over the local steps
    local: PyTree = ()  # the local optimiser's state after the last step, if it is kept


class LocalState(NamedTuple):
    """A computation between two local steps."""

    variables: Variables
    optimizer: PyTree  # state of the local optimiser
    gradient: PyTree  # sum of the gradients so far; () where displacements are pushed
    pulled: PyTree  # parameters at the start; () where gradients are pushed
    losses: Float[Array, " U"]  # of the local steps; 0 before their turn


def compute_push(
    config: UpdateConfig,
    task: Task,
    data: PyTree,
    key: Any,
    variables: Variables,
    context: PushContext,
    local: PyTree = None,
) -> Push:
    """One push: U local steps from a pulled version. Pure.

    Args:
      config: how pushes become updates.
      task: model; its own `data` is not read.
      data: the task's arrays.
      key: of the run's seed.
      variables: the pulled version.
      context: worker, clock and version.
      local: state of the worker's local optimiser; None starts it anew.

    Returns:
      Gradients summed over the local steps, taken at `variables` first and then along
      the local optimiser's path; or how far that path went, from its end to its start.
    """
    if not config.moves_locally:
        return single_step(task, data, key, variables, context)

    def step(state, number):
        return local_step(config, task, data, key, state, context, number), None

    steps = jnp.arange(config.local_steps, dtype=jnp.int32)
    state, _ = jax.lax.scan(step, begin(config, variables, local), steps)
    return finish(config, state)


def single_step(
    task: Task, data: PyTree, key: Any, variables: Variables, context: PushContext
) -> Push:
    """The push of one gradient; the arguments are those of `compute_push`."""
    return Push(*_gradient(1, task, data, key, variables, context, jnp.int32(0)))


def begin(
    config: UpdateConfig, variables: Variables, local: PyTree = None
) -> LocalState:
    """The state before the first local step; `local` as in `compute_push`.

    Example:
      >>> import optax
      >>> start = Variables({"w": jnp.ones(2)}, {})
      >>> state = begin(UpdateConfig(optax.sgd(0.1), local_steps=3), start)
      >>> state.gradient["w"].tolist(), state.losses.shape
      ([0.0, 0.0], (3,))
    """
    params, gradient, pulled = variables.params, (), ()
    if config.push == "gradients":
        gradient = jax.tree.map(jnp.zeros_like, params)
    else:  # a copy: the steps may write over the parameters' own memory
        pulled = jax.tree.map(jnp.copy, params)
    return LocalState(
        variables,
        config.local.init(params) if local is None else local,
        gradient,
        pulled,
        jnp.zeros(config.local_steps, jnp.float32),
    )


def local_step(
    config: UpdateConfig,
    task: Task,
    data: PyTree,
    key: Any,
    state: LocalState,
    context: PushContext,
    number: Int[Array, ""],
) -> LocalState:
    """Local step `number`, 0..U-1: the local optimiser moves along one gradient."""
    variables, steps = state.variables, config.local_steps
    made = _gradient(steps, task, data, key, variables, context, number)
    gradient, stats, loss = made
    clocks = {"epoch": context.epoch, "server_updates": context.version}
    change, optimizer = config.local.update(
        gradient, state.optimizer, variables.params, **clocks
    )
    total: PyTree = ()
    if config.push == "gradients":
        total = jax.tree.map(jnp.add, state.gradient, gradient)
    return LocalState(
        Variables(optax.apply_updates(variables.params, change), stats),
        optimizer,
        total,
        state.pulled,
        state.losses.at[number].set(loss.astype(jnp.float32)),
    )


def finish(config: UpdateConfig, state: LocalState) -> Push:
    """The push after the last local step.

    Example:
      >>> import optax
      >>> config = UpdateConfig(optax.sgd(1.0), optax.sgd(0.1), push="displacement")
      >>> state = begin(config, Variables(jnp.array([3.0]), {}))
      >>> moved = state._replace(variables=Variables(jnp.array([2.5]), {}))
      >>> finish(config, moved).gradient.tolist()
      [0.5]
    """
    gradient = state.gradient
    if config.push == "displacement":
        gradient = jax.tree.map(jnp.subtract, state.pulled, state.variables.params)
    local = state.optimizer if config.keeps_local_state else ()
    return Push(gradient, state.variables.stats, jnp.mean(state.losses), local)


def _gradient(
    local_steps: int,
    task: Task,
    data: PyTree,
    key: Any,
    variables: Variables,
    context: PushContext,
    step: Int[Array, ""],
) -> tuple[PyTree, PyTree, Float[Array, ""]]:
    """Gradient, statistics and loss of one mini-batch."""
    index = (context.clock - 1) * local_steps + step
    batch = task.batch(data, key, context.worker, index)
    key = jax.random.fold_in(jax.random.fold_in(key, context.worker), context.clock)

    def loss(params):
        own = jax.random.fold_in(key, step)
        return task.loss(variables._replace(params=params), batch, own)

    (value, stats), slope = jax.value_and_grad(loss, has_aux=True)(variables.params)
    return slope, stats, value


def apply(
    config: UpdateConfig,
    variables: Variables,
    state: PyTree,
    gradient: PyTree,
    stats: PyTree,
    epoch: Float[Array, ""],
    version: Int[Array, ""],
) -> tuple[Variables, PyTree]:
    """One step of the server's optimiser: the formula of a commit. Pure.

    Args:
      config: how pushes become updates.
      variables: the present version.
      state: the optimiser's.
      gradient: what the aggregator made of the pushes; like `variables.params`.
      stats: statistics of the next version.
      epoch: samples processed when the present version was made, in epochs.
      version: the present version's number.

    Returns:
      The next version and the optimiser's next state.
    """
    change, state = config.server.update(
        gradient, state, variables.params, epoch=epoch, server_updates=version
    )
    return Variables(optax.apply_updates(variables.params, change), stats), state
