"""A digest that identifies a run, so that a checkpoint serves no other run."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import Delays
from abs_dssp.tasks.base import Task
from abs_dssp.training.config import UpdateConfig

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def of_run(
    task: Task,
    update: UpdateConfig,
    seed: int,
    *settings: Any,
    delays: Delays | None = None,
    communication: Communication | None = None,
    absences: Absences | None = None,
) -> str:
    """A digest of everything that decides what a run computes.

    Functions are compared by the programs that they trace to, arrays by their bytes.
    What only decides when the run is evaluated, saved or ended is up to the caller.

    Args:
      task: model and data.
      update: optimisers, local steps and aggregate.
      seed: of the run.
      *settings: anything else that decides, with a `repr` that tells it apart, such as
        the fingerprint of a trace or the description of a policy.
      delays: the model of worker speed, if the run makes its own trace.
      communication: the model of the network, likewise.
      absences: the model of deaths and returns, likewise.

    Returns:
      A SHA-256 digest in hexadecimal.
    """
    digest = hashlib.sha256()
    numbers = (task.num_workers, task.batch_size, task.samples_per_epoch)
    known = (task.name, numbers, seed, update.local_steps, update.aggregate, settings)
    digest.update(repr(known).encode())
    kinds = (update.push, update.local_state)
    if kinds != ("gradients", "fresh"):  # as before there were others: runs are found
        digest.update(repr(kinds).encode())
    _add_task(digest, task, update)
    if delays is not None:
        with jax.enable_x64(True):
            _add_delays(digest, delays)
    _add_arrays(digest, communication)
    if absences is not None:  # as before there were any: runs are found
        with jax.enable_x64(True):
            _add_absences(digest, absences)
    return digest.hexdigest()


def _add_task(digest, task: Task, update: UpdateConfig) -> None:
    key = jax.random.key(0)
    index = jnp.int32(0)

    def loss(data, key):
        variables = task.init(key)
        return task.loss(variables, task.batch(data, key, index, index), key)

    _add_program(digest, loss, task.data, key)
    _add_arrays(digest, task.data)
    params = jax.eval_shape(task.init, key).params
    clocks = {"epoch": jnp.float32(0), "server_updates": jnp.int32(0)}
    for optimizer in (update.server, update.local):
        state = jax.eval_shape(optimizer.init, params)

        def step(gradient, state, params, optimizer=optimizer):
            return optimizer.update(gradient, state, params, **clocks)

        _add_program(digest, optimizer.init, params)
        _add_program(digest, step, params, state, params)


def _add_delays(digest, delays: Delays) -> None:
    _add_arrays(digest, delays.parameters)
    mine = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], delays.parameters)
    key, index = jax.random.key(0), jnp.int32(0)
    _add_program(digest, delays.start, mine)
    _add_program(digest, delays.block, mine, key, index, delays.start(mine))


def _add_absences(digest, absences: Absences) -> None:
    _add_arrays(digest, absences.parameters)
    mine = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], absences.parameters)
    _add_program(
        digest, absences.draw, mine, jax.random.key(0), jnp.int32(0), jnp.zeros(())
    )


def _add_arrays(digest, tree: Any) -> None:
    """Structure, shapes, dtypes and bytes of a pytree."""
    leaves, structure = jax.tree.flatten(tree)
    digest.update(_text(structure))
    for leaf in leaves:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)


def _add_program(digest, function: Callable[..., Any], *arguments: Any) -> None:
    """The program that a function traces to, with the constants in it."""
    program = jax.make_jaxpr(function)(*arguments)
    digest.update(_text(program))
    _add_constants(digest, program)


def _add_constants(digest, value: Any) -> None:
    """The constants of a program and of the programs within it."""
    # Newer JAX has one class for programs with and without constants.
    if isinstance(value, core.ClosedJaxpr):
        _add_arrays(digest, value.consts)
        if value.jaxpr is not value:
            value = value.jaxpr
    if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
        for equation in value.eqns:
            literals = [v.val for v in equation.invars if isinstance(v, core.Literal)]
            _add_arrays(digest, literals)
            _add_constants(digest, tuple(equation.params.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            _add_constants(digest, part)


def _text(value: Any) -> bytes:
    """What is printed, without addresses in memory."""
    return _ADDRESS.sub("", str(value)).encode()
