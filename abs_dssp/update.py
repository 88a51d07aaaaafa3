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
    aggregate: str  # "mean" or "sum"
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
        (`"sum"`).

    Raises:
      ValueError: for `local_steps` below 1 or an unknown `aggregate`.
    """
    if local_steps < 1:
        raise ValueError(f"local_steps must be at least 1, got {local_steps}.")
    if aggregate not in ("mean", "sum"):
        raise ValueError(f"aggregate must be 'mean' or 'sum', got {aggregate!r}.")
    return Rule(optimizer, local_optimizer or optimizer, local_steps, aggregate)


def compute_push(
    rule: Rule, task: Task, data: PyTree, key: Any, variables: Variables, origin: Origin
) -> Push:
    """The gradients of one push, taken at `variables` and after."""
    work_key = jax.random.fold_in(jax.random.fold_in(key, origin.worker), origin.clock)

    def gradient(variables, step):
        index = (origin.clock - 1) * rule.local_steps + step
        batch = task.batch(data, key, origin.worker, index)

        def loss(params):
            return task.loss(
                variables._replace(params=params),
                batch,
                jax.random.fold_in(work_key, step),
            )

        (value, stats), slope = jax.value_and_grad(loss, has_aux=True)(variables.params)
        return slope, stats, value

    if rule.local_steps == 1:
        return Push(*gradient(variables, jnp.int32(0)))

    local = optax.with_extra_args_support(rule.local_optimizer)

    def step(carry, number):
        variables, state, total = carry
        slope, stats, loss = gradient(variables, number)
        change, state = local.update(
            slope,
            state,
            variables.params,
            epoch=origin.epoch,
            server_updates=origin.version,
        )
        moved = Variables(optax.apply_updates(variables.params, change), stats)
        return (moved, state, jax.tree.map(jnp.add, total, slope)), loss

    zeros = jax.tree.map(jnp.zeros_like, variables.params)
    steps = jnp.arange(rule.local_steps, dtype=jnp.int32)
    (moved, _, total), losses = jax.lax.scan(
        step,
        (variables, local.init(variables.params), zeros),
        steps,
        unroll=rule.unroll,
    )
    return Push(total, moved.stats, jnp.mean(losses))


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
