"""What a policy looks at, found by tracing it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from abs_dssp.policies import base


def initial_clocks(num_workers: int, time_dtype=jnp.float32) -> base.Clocks:
    """Clocks at time 0: everybody alive and computing from version 0."""
    count = jnp.zeros(num_workers, jnp.int32)
    time = jnp.zeros(num_workers, time_dtype)
    return base.Clocks(
        clock=count,
        pulled=count,
        version=jnp.int32(0),
        pending=jnp.int32(0),
        latest=time,
        previous=time,
        waiting=jnp.zeros(num_workers, bool),
        alive=jnp.ones(num_workers, bool),
        loss=jnp.float32(jnp.nan),
    )


def functions(policy: base.Policy) -> dict[str, Callable[..., Any]]:
    """What is asked of a policy, by name: `(state, clocks, worker, now) -> ...`."""
    found = {"on_push": policy.on_push, "on_leave": policy.on_leave}
    on_time = policy.on_time
    if on_time is not None:
        found["on_time"] = lambda state, clocks, _, now: on_time(state, clocks, now)
    return found


@functools.lru_cache(maxsize=256)
def fields_read(policy: base.Policy, num_workers: int) -> frozenset[str]:
    """Fields of `Clocks`, and `"now"`, that decisions of `policy` may depend on.

    Found by tracing all functions of the policy.
    """
    event = (jnp.int32(0), jnp.float32(0))  # worker and time
    arguments = (policy.init(), initial_clocks(num_workers), *event)
    leaves, structure = jax.tree.flatten(arguments)
    names = []
    for path, _ in jax.tree_util.tree_leaves_with_path(arguments):
        argument = path[0].idx
        names.append(path[1].name if argument == 1 else ("", "", "", "now")[argument])
    found = set()
    for decide in functions(policy).values():

        def flat(*values, decide=decide):
            return decide(*jax.tree.unflatten(structure, values))

        jaxpr = jax.make_jaxpr(flat)(*leaves).jaxpr
        used = [v for equation in jaxpr.eqns for v in equation.invars]
        used = [*used, *jaxpr.outvars]
        for name, variable in zip(names, jaxpr.invars, strict=True):
            if any(v is variable for v in used):
                found.add(name)
    return frozenset(found - {""})


def reads_loss(policy: base.Policy, num_workers: int) -> bool:
    """Whether the decisions of `policy` may depend on `Clocks.loss`.

    Such a policy cannot be scheduled ahead of the training that gives the loss. This is
    what the policy's properties state; if they state nothing, the policy is traced.

    Example:
      >>> policies.reads_loss(policies.adasync(4), 4)
      True
    """
    stated = policy.properties.reads_loss
    return "loss" in fields_read(policy, num_workers) if stated is None else stated
