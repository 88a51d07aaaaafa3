"""Who is there in virtual time, and whose death or return comes next.

A worker passes through three stages: it is there; it is dead and nobody knows; it is
away, which the policy has been told. Pure functions for the event loop, under x64.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from abs_dssp.simulation import absences as absences_lib
from abs_dssp.simulation.absences import Absences

# The stages, and the event that ends each.
THERE, DEAD, AWAY = range(3)
ENDS = ("death", "leave", "join")


class Presence(NamedTuple):
    """The stages of all workers, and the times of their present absences."""

    stage: Int[Array, " N"]
    number: Int[Array, " N"]  # absences before this one
    dies: Float[Array, " N"]  # seconds; inf: never
    noticed: Float[Array, " N"]  # seconds; when the policy is told
    returns: Float[Array, " N"]  # seconds; inf: never
    keys: Any  # random key of every worker


class Change(NamedTuple):
    """The next end of a stage."""

    worker: Int[Array, ""]  # of equal ones the lowest
    moment: Float[Array, ""]  # seconds; inf: none
    stage: Int[Array, ""]  # that ends


def start(absences: Absences, seed) -> Presence:
    """Everybody is there at time 0.

    Args:
      absences: the model.
      seed: for its times; int32 scalar.
    """
    count = absences.num_workers
    keys = absences_lib.worker_keys(seed, count)
    number, zero = jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.float64)
    parameters = jax.tree.map(jnp.asarray, absences.parameters)
    one = functools.partial(_drawn, absences.draw)
    times = jax.vmap(one)(parameters, keys, number, zero)
    dies, noticed, returns = times
    return Presence(number, number, dies, noticed, returns, keys)


def upcoming(presence: Presence) -> Change:
    """What comes next; of a worker whose leave and return coincide, the leave.

    Example:
      >>> from abs_dssp import absences
      >>> model = absences.given([(1, 2.0, 3.0)], detection=5.0, num_workers=2)
      >>> with jax.enable_x64(True):
      ...     presence, told = start(model, 0), []
      ...     for _ in ENDS:  # the death, and at the return that it is noticed
      ...         change = upcoming(presence)
      ...         told.append((ENDS[int(change.stage)], float(change.moment)))
      ...         presence = passed(model, presence, change)
      >>> told, there(presence).tolist()
      ([('death', 2.0), ('leave', 3.0), ('join', 3.0)], [True, True])
    """
    ends = jnp.stack([presence.dies, presence.noticed, presence.returns])
    moments = jnp.take_along_axis(ends, presence.stage[None, :], axis=0)[0]
    worker = jnp.argmin(moments).astype(jnp.int32)
    return Change(worker, moments[worker], presence.stage[worker])


def there(presence: Presence) -> Bool[Array, " N"]:
    """Who computes if it is told to."""
    return presence.stage == THERE


def passed(absences: Absences, presence: Presence, change: Change) -> Presence:
    """The presence after a change; who returns gets the times of its next absence."""
    worker = change.worker
    back = change.stage == AWAY
    number = presence.number.at[worker].add(back.astype(jnp.int32))
    mine = jax.tree.map(lambda leaf: jnp.asarray(leaf)[worker], absences.parameters)
    drawn = _drawn(
        absences.draw, mine, presence.keys[worker], number[worker], change.moment
    )
    before = (presence.dies, presence.noticed, presence.returns)
    dies, noticed, returns = (
        old.at[worker].set(jnp.where(back, new, old[worker]))
        for new, old in zip(drawn, before, strict=True)
    )
    stage = presence.stage.at[worker].set((change.stage + 1) % len(ENDS))
    return Presence(stage, number, dies, noticed, returns, presence.keys)


def _drawn(draw, parameters, key, number, after):
    """When one worker dies, when that is noticed, and when it returns."""
    dies, returns = draw(parameters, key, number, after)
    return dies, jnp.minimum(dies + parameters["detection"], returns), returns
