"""The state machine on the host: compiled once per policy, asked event by event."""

import functools
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import compilation
from abs_dssp.history import transition
from abs_dssp.history.events import KINDS, Entry, Event
from abs_dssp.history.transition import State
from abs_dssp.policies import Clocks, Policy

_ASKED = {"push": transition.push, "leave": transition.leave}
_HEAD = 7  # int32 values before the masks: five numbers and a float64
_NUMBERS = struct.Struct("=fiiiid")  # the same as they lie in memory
_SECONDS = struct.Struct("=d")
_EVENT = struct.Struct("=difi")  # time, worker, loss estimate, and the grant or 0
_WORDS = _EVENT.size // 4
_WAKE = 2  # int32 values after the masks, for a policy with `on_time`: a float64
TOGETHER = 4  # pushes at most that one call decides


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
    wake: float = math.inf  # seconds; the policy's deadline afterwards

    def entry(self, event: Event) -> Entry:
        """The event with this decision, as a log holds it."""
        pulled = self.pulled if event.kind == "push" else 0
        version = self.version if event.kind in ("push", "leave", "timer") else 0
        decided = (self.weight, self.commit, self.release, self.restart)
        return Entry(event, pulled, version, *decided)


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
            self._packed = _pack(transition.initial(policy, num_workers))
        self._packed = _placed(self._packed)

    def apply(self, event: Event, loss: float = float("nan")) -> HostTransition:
        """Takes an event into the state.

        Args:
          event: what happened; times must not fall. A "timer" only for a policy with
            `on_time`.
          loss: the present estimate of the training loss, for the policy.

        Returns:
          What was decided.
        """
        data = _EVENT.pack(event.time, event.worker, loss, 0)
        numbers = np.frombuffer(data, np.int32)
        self._packed, flat = self._step[event.kind](self._packed, numbers)
        return _decode(np.asarray(flat).data, self.num_workers)

    def pushes(
        self, events: Sequence[Event], grants: Sequence[int], loss: float = float("nan")
    ) -> list[HostTransition]:
        """Takes pushes into the state in one call, as `apply` would one by one.

        Args:
          events: at most `TOGETHER`.
          grants: ids of the grants that they answer.
          loss: the present estimate, for all of them.

        Returns:
          What was decided, up to the first whose computation one before has cancelled:
          that one and the rest have not been taken.

        Example:
          >>> from abs_dssp import policies
          >>> machine = Machine(policies.asp(2), 2)
          >>> events = [Event("push", 0, 1.0), Event("push", 1, 1.5)]
          >>> [done.version for done in machine.pushes(events, [1, 1])]
          [0, 1]
        """
        data = b"".join(
            _EVENT.pack(event.time, event.worker, loss, grant)
            for event, grant in zip(events, grants, strict=True)
        )
        numbers = np.frombuffer(data.ljust(TOGETHER * _EVENT.size, b"\0"), np.int32)
        step = _compiled_pushes(self.policy, self.num_workers)
        self._packed, flat = step(self._packed, numbers)
        view = np.asarray(flat).data
        width = len(view) // TOGETHER
        return [
            _decode(view[i * width : (i + 1) * width], self.num_workers)
            for i in range(view[-1])
        ]

    def prepare_pushes(self) -> None:
        """Compiles what `pushes` needs, so that none waits for it."""
        _compiled_pushes(self.policy, self.num_workers)

    @property
    def wake(self) -> float:
        """Seconds; the policy's deadline, inf if there is none."""
        wake = self.state.wake
        return math.inf if wake is None else float(wake)

    @property
    def clocks(self) -> Clocks:
        """A copy of the clocks, NumPy arrays."""
        return self.state.clocks

    @property
    def state(self) -> State:
        """A copy of the whole state, NumPy arrays."""
        with jax.enable_x64(True):
            like = _shapes(self.policy, self.num_workers)
            return jax.tree.map(np.array, _unpack(jnp.asarray(self._packed), like))

    def leaves(self) -> list[np.ndarray]:
        """The state for a checkpoint."""
        return [np.array(self._packed)]

    def restore(self, leaves: Sequence[np.ndarray]) -> None:
        """Goes on from the state that `leaves` returned."""
        (packed,) = leaves
        self._packed = _placed(packed)


def _placed(packed):
    return jax.device_put(packed, jax.local_devices(backend="cpu")[0])


@functools.lru_cache(maxsize=64)
def _shapes(policy: Policy, num_workers: int) -> State:
    return jax.eval_shape(lambda: transition.initial(policy, num_workers))


# A call of a compiled program costs more for each of its arrays than for their values,
# and one with 64-bit arrays needs JAX's x64 mode: hence one of 32 bits.


def _pack(state: State):
    """The state as one int32 vector."""
    return jnp.concatenate([_bits(leaf).ravel() for leaf in jax.tree.leaves(state)])


def _bits(leaf):
    leaf = jnp.asarray(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.int32)
    return jax.lax.bitcast_convert_type(leaf, jnp.int32)


def _unpack(packed, like: State) -> State:
    """The state in a vector; the inverse of `_pack`."""
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for leaf in leaves:
        words = 2 if leaf.dtype.itemsize == 8 else 1
        stop = start + words * leaf.size
        shape = (*leaf.shape, 2) if words == 2 else leaf.shape
        bits = packed[start:stop].reshape(shape)
        if leaf.dtype == jnp.bool_:
            found.append(bits != 0)
        else:
            found.append(jax.lax.bitcast_convert_type(bits, leaf.dtype))
        start = stop
    return jax.tree.unflatten(structure, found)


@functools.lru_cache(maxsize=64)
def _compiled(policy: Policy, num_workers: int) -> dict[str, Callable[..., Any]]:
    """The step of every kind of event; `(packed, numbers) -> (packed, int32 array)`."""

    def of(kind: str):
        def step(state, numbers):
            state, worker, now, _ = _given(state, numbers)
            if kind in _ASKED:
                state, done = _ASKED[kind](policy, state, worker, now)
            elif kind == "timer":
                state, done = transition.timer(policy, state, now)
            else:
                state, done = getattr(transition, kind)(state, worker, now)
            return state, _encode(done, state)

        return step

    kinds = [kind for kind in KINDS if kind != "timer" or policy.on_time is not None]
    return {kind: _compile(policy, num_workers, of(kind), 1) for kind in kinds}


@functools.lru_cache(maxsize=64)
def _compiled_pushes(policy: Policy, num_workers: int):
    """`(packed, numbers) -> (packed, int32 rows of those taken, and how many)`."""

    def step(state, numbers):
        events = numbers.reshape(TOGETHER, -1)

        def is_answer(carry):
            count, state, _ = carry
            _, worker, _, grant = _given(state, events[count % TOGETHER])
            return (count < TOGETHER) & (state.grants[worker] == grant)

        def take(carry):
            count, state, rows = carry
            state, worker, now, _ = _given(state, events[count])
            state, done = transition.push(policy, state, worker, now)
            return count + 1, state, rows.at[count].set(_encode(done, state))

        width = _HEAD + num_workers + (0 if policy.on_time is None else _WAKE)
        rows = jnp.zeros((TOGETHER, width), jnp.int32)
        count, state, rows = jax.lax.while_loop(
            is_answer, take, (jnp.int32(0), state, rows)
        )
        return state, jnp.append(rows, count)

    return _compile(policy, num_workers, step, TOGETHER)


def _given(state: State, numbers):
    """What `_EVENT` has packed: the state with the loss, worker, time and grant."""
    now = jax.lax.bitcast_convert_type(numbers[:2], jnp.float64)
    loss = jax.lax.bitcast_convert_type(numbers[3], jnp.float32)
    state = state._replace(clocks=state.clocks._replace(loss=loss))
    return state, numbers[2], now, numbers[4]


def _compile(policy: Policy, num_workers: int, step, count: int):
    """`step` from a state and numbers, on states that are packed."""

    def packed_step(packed, numbers):
        state, flat = step(_unpack(packed, like), numbers)
        return _pack(state), flat

    with jax.enable_x64(True):
        like = _shapes(policy, num_workers)
        packed = _placed(_pack(transition.initial(policy, num_workers)))
        jitted = jax.jit(
            packed_step, compiler_options=compilation.many_small_operations()
        )
        return jitted.lower(packed, np.zeros(count * _WORDS, np.int32)).compile()


def _encode(done: transition.Transition, state: State):
    # XLA runs a program on several threads, which is slower here, if one of its
    # buffers exceeds 512 bytes: hence one narrow array.
    weight = jax.lax.bitcast_convert_type(done.weight.astype(jnp.float32), jnp.int32)
    head = [weight, done.commit, done.version, done.pulled, done.cancelled]
    masks = (done.release, done.restart, done.begin)
    parts = [
        jnp.stack([jnp.asarray(value).astype(jnp.int32) for value in head]),
        jax.lax.bitcast_convert_type(done.released, jnp.int32),
        (state.grants << len(masks))
        + sum(mask.astype(jnp.int32) << bit for bit, mask in enumerate(masks)),
    ]
    if state.wake is not None:
        parts.append(jax.lax.bitcast_convert_type(state.wake, jnp.int32))
    return jnp.concatenate(parts)


def _decode(flat: memoryview, num_workers: int) -> HostTransition:
    weight, commit, version, pulled, cancelled, released = _NUMBERS.unpack_from(flat)
    release, restart, grants = [], [], {}
    end = _HEAD + num_workers
    for worker, mask in enumerate(flat[_HEAD:end].tolist()):
        if not mask & 7:
            continue
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
        _SECONDS.unpack_from(flat, 4 * end)[0] if len(flat) > end else math.inf,
    )
