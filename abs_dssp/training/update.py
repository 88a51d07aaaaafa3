"""What a push and a commit compute: the arithmetic shared by replay and cluster.

A push is the sum over U local steps of mini-batch gradients; a commit applies the
weighted mean (or sum) of the pushes since the one before. BatchNorm statistics travel
with a push and are averaged at the commit like the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import aggregators

PyTree = Any


class Origin(NamedTuple):
    """Where a push comes from: everything that its gradients depend on."""

    worker: Int[Array, ""]  # 0..N-1
    clock: Int[Array, ""]  # 1-based, this push included
    version: Int[Array, ""]  # the version it was computed from
    epoch: Float[Array, ""]  # samples processed when that version was made, in epochs


class Push(NamedTuple):
    """A worker's result."""

    gradient: PyTree  # sum over the local steps
    stats: PyTree  # BatchNorm statistics after the last local step
    loss: Float[Array, ""]  # mean over the local steps


class Accumulated(NamedTuple):
    """The server's sums since the last commit."""

    gradient: PyTree
    stats: PyTree
    weight: Float[Array, ""]  # sum of the weights


class Rule(NamedTuple):
    """How pushes become updates; static."""

    optimizer: optax.GradientTransformation
    local_optimizer: optax.GradientTransformation
    local_steps: int
    aggregate: str  # "mean", "sum", or what `aggregates.parse` reads
    unroll: bool = False  # whether local steps are written out instead of looped over


def rule(
    optimizer: optax.GradientTransformation,
    local_optimizer: optax.GradientTransformation | None = None,
    local_steps: int = 1,
    aggregate: str = "mean",
) -> Rule:
    """Checks and bundles the settings of push and commit.

    Args:
      optimizer: the server's; its `update` is given `epoch` and `server_updates` as
        extra arguments (see `optimizers.on_clock`).
      local_optimizer: makes the local steps within a push, from a fresh state at every
        pull; the server's by default, so that plain SGD has the same step size in both
        places (gamma = eta).
      local_steps: U, at least 1.
      aggregate: divide a commit's weighted sum by the sum of weights (`"mean"`) or not
        (`"sum"`); or one of `aggregates.KNOWN`, such as `"compensated(strength=0.04)"`.

    Raises:
      ValueError: for `local_steps` below 1 or an unknown `aggregate`.
    """
    if local_steps < 1:
        raise ValueError(f"local_steps must be at least 1, got {local_steps}.")
    aggregators.parse(aggregate)  # refuses what it does not know
    return Rule(optimizer, local_optimizer or optimizer, local_steps, aggregate)


class Work(NamedTuple):
    """A computation between two local steps."""

    variables: Variables
    optimizer: PyTree  # state of the local optimiser
    total: PyTree  # gradients so far, summed
    losses: Float[Array, " U"]


def compute_push(
    rule: Rule, task: Task, data: PyTree, key: Any, variables: Variables, origin: Origin
) -> Push:
    """The gradients of one push, taken at `variables` and after."""
    if rule.local_steps == 1:
        return single(rule, task, data, key, variables, origin)

    def step(work, number):
        return local_step(rule, task, data, key, work, origin, number), None

    steps = jnp.arange(rule.local_steps, dtype=jnp.int32)
    work, _ = jax.lax.scan(step, begin(rule, variables), steps, unroll=rule.unroll)
    return finish(work)


def single(
    rule: Rule, task: Task, data: PyTree, key: Any, variables: Variables, origin: Origin
) -> Push:
    """A push of one local step."""
    return Push(*_gradient(rule, task, data, key, variables, origin, jnp.int32(0)))


def begin(rule: Rule, variables: Variables) -> Work:
    """A computation of several local steps, before the first."""
    local = optax.with_extra_args_support(rule.local_optimizer)
    return Work(
        variables,
        local.init(variables.params),
        jax.tree.map(jnp.zeros_like, variables.params),
        jnp.zeros(rule.local_steps, jnp.float32),
    )


def local_step(
    rule: Rule, task: Task, data: PyTree, key: Any, work: Work, origin: Origin, number
) -> Work:
    """Local step `number`, 0..U-1: the local optimiser moves along one gradient."""
    local = optax.with_extra_args_support(rule.local_optimizer)
    variables = work.variables
    slope, stats, loss = _gradient(rule, task, data, key, variables, origin, number)
    change, state = local.update(
        slope,
        work.optimizer,
        variables.params,
        epoch=origin.epoch,
        server_updates=origin.version,
    )
    moved = Variables(optax.apply_updates(variables.params, change), stats)
    total = jax.tree.map(jnp.add, work.total, slope)
    losses = work.losses.at[number].set(loss.astype(jnp.float32))
    return Work(moved, state, total, losses)


def finish(work: Work) -> Push:
    """The push after the last local step."""
    return Push(work.total, work.variables.stats, jnp.mean(work.losses))


def _gradient(rule, task, data, key, variables: Variables, origin: Origin, step):
    """Gradient, statistics and loss of one mini-batch."""
    index = (origin.clock - 1) * rule.local_steps + step
    batch = task.batch(data, key, origin.worker, index)
    work_key = jax.random.fold_in(jax.random.fold_in(key, origin.worker), origin.clock)

    def loss(params):
        return task.loss(
            variables._replace(params=params), batch, jax.random.fold_in(work_key, step)
        )

    (value, stats), slope = jax.value_and_grad(loss, has_aux=True)(variables.params)
    return slope, stats, value


def nothing(variables: Variables) -> Accumulated:
    """The sums right after a commit."""
    zeros = jax.tree.map(jnp.zeros_like, variables)
    return Accumulated(zeros.params, zeros.stats, jnp.float32(0))


def accumulate(sums: Accumulated, push: Push, weight: Float[Array, ""]) -> Accumulated:
    """Adds a push; one of weight 0 adds nothing, whatever it holds."""

    def add(total, value):
        share = jnp.where(weight > 0, weight.astype(value.dtype) * value, 0)
        return total + share

    return Accumulated(
        jax.tree.map(add, sums.gradient, push.gradient),
        jax.tree.map(add, sums.stats, push.stats),
        sums.weight + weight,
    )


def commit(
    rule: Rule,
    variables: Variables,
    state: PyTree,
    sums: Accumulated,
    epoch: Float[Array, ""],
    version: Int[Array, ""],
) -> tuple[Variables, PyTree]:
    """The next version, and the optimiser's state.

    Args:
      rule: settings.
      variables: the present version.
      state: the optimiser's.
      sums: what was accumulated; with a weight of 0 nothing moves but the version.
      epoch: samples processed when the present version was made, in epochs.
      version: the present version's number.
    """
    positive = sums.weight > 0
    scale = jnp.where(positive, 1 / jnp.where(positive, sums.weight, 1), 0)

    def mean(total):
        return total * scale.astype(total.dtype)

    gradient = sums.gradient
    if rule.aggregate == "mean":
        gradient = jax.tree.map(mean, gradient)
    return apply(
        rule, variables, state, gradient,
        jax.tree.map(
            lambda total, old: jnp.where(positive, mean(total), old),
            sums.stats, variables.stats,
        ),
        epoch, version,
    )  # fmt: skip


def apply(
    rule: Rule,
    variables: Variables,
    state: PyTree,
    gradient: PyTree,
    stats: PyTree,
    epoch: Float[Array, ""],
    version: Int[Array, ""],
) -> tuple[Variables, PyTree]:
    """One step of the server's optimiser along an aggregated gradient."""
    server = optax.with_extra_args_support(rule.optimizer)
    change, state = server.update(
        gradient, state, variables.params, epoch=epoch, server_updates=version
    )
    return Variables(optax.apply_updates(variables.params, change), stats), state
