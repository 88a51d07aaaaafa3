"""The state machine on the host: compiled once per policy, asked event by event."""

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import compilation
from abs_dssp.history import transition
from abs_dssp.history.events import Entry, Event
from abs_dssp.history.transition import State
from abs_dssp.policies import Clocks, Policy

_KINDS = {"push": transition.push, "leave": transition.leave}
_HEAD = 7  # int32 values before the masks: five numbers and a float64
_NUMBERS = struct.Struct("=fiiiid")  # the same as they lie in memory


class HostTransition(NamedTuple):
    """A `Transition` in Python numbers."""

    weight: float
    commit: bool
    version: int  # before the commit
    pulled: int  # version that the event's worker was computing from
    released: float  # seconds; since when it computed; NaN if it waited
    cancelled: int  # its computations cancelled since its latest push
    release: tuple[int, ...]  # workers
    restart: tuple[int, ...]  # workers
    grants: dict[int, int]  # of the workers that begin a computation: their grants' ids

    def entry(self, event: Event) -> Entry:
        """The event with this decision, as a log holds it."""
        return Entry(
            event,
            pulled=self.pulled if event.kind == "push" else 0,
            version=self.version if event.kind in ("push", "leave") else 0,
            weight=self.weight,
            commit=self.commit,
            release=self.release,
            restart=self.restart,
        )


class Machine:
    """A policy with the state of a run. Not thread-safe. Times are float64 seconds.

    Example:
      >>> from abs_dssp import policies
      >>> machine = Machine(policies.bsp(2), 2)
      >>> machine.apply(Event("push", 0, 1.0)).commit
      False
      >>> done = machine.apply(Event("push", 1, 2.5))
      >>> done.commit, done.release, done.grants
      (True, (0, 1), {0: 2, 1: 2})
    """

    def __init__(self, policy: Policy, num_workers: int):
        """Compiles what an event needs, so that none waits for it.

        Args:
          policy: the rule.
          num_workers: N.
        """
        self.policy, self.num_workers = policy, num_workers
        self._step = _compiled(policy, num_workers)
        with jax.enable_x64(True):
            self._state = _placed(transition.initial(policy, num_workers))

    def apply(self, event: Event, loss: float = float("nan")) -> HostTransition:
        """Takes an event into the state.

        Args:
          event: what happened; times must not fall.
          loss: the present estimate of the training loss, for the policy.

        Returns:
          What was decided.
        """
        numbers = np.array([event.worker, event.time, loss])
        with jax.enable_x64(True):
            self._state, flat = self._step[event.kind](self._state, numbers)
        return _decode(np.asarray(flat))

    @property
    def clocks(self) -> Clocks:
        """A copy of the clocks, NumPy arrays."""
        return jax.tree.map(np.array, self._state.clocks)

    @property
    def state(self) -> State:
        """A copy of the whole state, NumPy arrays."""
        return jax.tree.map(np.array, self._state)

    def leaves(self) -> list[np.ndarray]:
        """The state for a checkpoint."""
        return [np.array(leaf) for leaf in jax.tree.leaves(self._state)]

    def restore(self, leaves: Sequence[np.ndarray]) -> None:
        """Goes on from the state that `leaves` returned."""
        structure = jax.tree.structure(self._state)
        with jax.enable_x64(True):
            self._state = _placed(jax.tree.unflatten(structure, leaves))


def _placed(state: State) -> State:
    return jax.device_put(state, jax.local_devices(backend="cpu")[0])


@functools.lru_cache(maxsize=64)
def _compiled(policy: Policy, num_workers: int) -> dict[str, Callable[..., Any]]:
    """The step of every kind of event; `(state, numbers) -> (state, int32 array)`."""

    def of(kind: str):
        def step(state: State, numbers):
            worker, now = numbers[0].astype(jnp.int32), numbers[1]
            loss = numbers[2].astype(jnp.float32)
            state = state._replace(clocks=state.clocks._replace(loss=loss))
            if kind in _KINDS:
                state, done = _KINDS[kind](policy, state, worker, now)
            else:
                state, done = getattr(transition, kind)(state, worker, now)
            return state, _encode(done, state.grants)

        return step

    with jax.enable_x64(True):
        state = _placed(transition.initial(policy, num_workers))
        options = compilation.many_small_operations()

        def compile_(kind):
            jitted = jax.jit(of(kind), compiler_options=options)
            return jitted.lower(state, np.zeros(3)).compile()

        return {kind: compile_(kind) for kind in ("push", "leave", "join", "refuse")}


def _encode(done: transition.Transition, grants):
    # XLA runs a program on several threads, which is slower here, if one of its
    # buffers exceeds 512 bytes: hence one narrow array.
    weight = jax.lax.bitcast_convert_type(done.weight.astype(jnp.float32), jnp.int32)
    head = [weight, done.commit, done.version, done.pulled, done.cancelled]
    masks = (done.release, done.restart, done.begin)
    return jnp.concatenate(
        [
            jnp.stack([jnp.asarray(value).astype(jnp.int32) for value in head]),
            jax.lax.bitcast_convert_type(done.released, jnp.int32),
            (grants << len(masks))
            + sum(mask.astype(jnp.int32) << bit for bit, mask in enumerate(masks)),
        ]
    )


def _decode(flat: np.ndarray) -> HostTransition:
    weight, commit, version, pulled, cancelled, released = _NUMBERS.unpack_from(
        flat.data
    )
    masks = flat[_HEAD:]
    release, restart, grants = [], [], {}
    for worker in np.flatnonzero(masks & 7).tolist():
        mask = int(masks[worker])
        if mask & 1:
            release.append(worker)
        if mask & 2:
            restart.append(worker)
        if mask & 4:
            grants[worker] = mask >> 3
    return HostTransition(
        weight,
        bool(commit),
        version,
        pulled,
        released,
        cancelled,
        tuple(release),
        tuple(restart),
        grants,
    )
