"""What a policy is: two pure functions over the clocks of the workers.

A policy decides, push by push, whether a push counts, when the server applies what
it has accumulated, and who may run, waits, or starts again. It never sees a
gradient, a socket or a thread, so one file drives the compiled simulator, the real
cluster and the tests of the theory.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

State = Any  # what a policy remembers between pushes: any pytree of arrays
Whole = int | Int[Array, ""]  # a hyper-parameter that vmap may sweep
P = ParamSpec("P")


class Clocks(NamedTuple):
    """What the server knows, already updated for the push that is being decided."""

    clock: Int[Array, " N"]  # pushes received from each worker
    pulled: Int[Array, " N"]  # version each worker is computing from
    version: Int[Array, ""]  # parameter updates made so far
    pending: Int[Array, ""]  # pushes accepted since the last commit, before this one
    latest: Float[Array, " N"]  # seconds; time of the latest push (0 before the first)
    previous: Float[Array, " N"]  # seconds; time of the push before the latest
    waiting: Bool[Array, " N"]  # pushed and not released; the pusher is not marked
    alive: Bool[Array, " N"]  # members; nobody may ever wait for a dead worker
    loss: Float[Array, ""]  # latest training-loss estimate; NaN while there is none


class Decision(NamedTuple):
    """What the server does with one push."""

    weight: Float[Array, ""]  # the push's weight in the next commit; 0 discards it
    commit: Bool[Array, ""]  # apply what has been accumulated; version += 1
    release: Bool[Array, " N"]  # these get current parameters and compute
    restart: Bool[Array, " N"]  # these drop their computation and start again


class Policy(NamedTuple):
    """A pair of pure functions and their initial state.

    `on_push(state, clocks, worker, now)` is asked at every push, `on_leave` with the
    same arguments when a worker dies or finishes (its `alive` is already False), so
    that nobody waits for it. Both return `(state, Decision)`, run under jit and vmap,
    and give the state back with the structure, shapes and dtypes it came with.
    """

    init: Callable[[], State]
    on_push: Callable[[State, Clocks, Any, Any], tuple[State, Decision]]
    on_leave: Callable[[State, Clocks, Any, Any], tuple[State, Decision]]


def constructor(
    function: Callable[P, Policy], name: str | None = None
) -> Callable[P, Policy]:
    """Remembers the policies a constructor made, and how each was written.

    The same arguments give the same object, so that jit recognises a policy it has
    compiled before; `describe` gives back the text that `parse` reads.

    Args:
      function: the constructor; its first parameter is `num_workers`.
      name: the name that `parse` knows it by; the function's own by default.
    """
    made: dict[Any, Policy] = {}
    name = name or function.__name__

    @functools.wraps(function)
    def construct(*args: P.args, **kwargs: P.kwargs) -> Policy:
        # 1, 1.0 and True are equal, yet not the same argument.
        kinds = tuple(map(type, (*args, *kwargs.values())))
        call = (args, tuple(sorted(kwargs.items())), kinds)
        try:
            if call in made:
                return made[call]
        except TypeError:  # a traced argument (vmap over it), or a list
            return function(*args, **kwargs)
        policy = function(*args, **kwargs)
        shown = [_written(a) for a in args[1:]]
        shown += [f"{k}={_written(v)}" for k, v in kwargs.items() if k != "num_workers"]
        _SPECS[policy.on_push] = f"{name}({','.join(shown)})"
        made[call] = policy
        return policy

    return construct


_SPECS: dict[Callable[..., Any], str] = {}  # constructors' policies live for ever


def describe(policy: Policy) -> str:
    """The policy as `parse` reads it, e.g. `ssp(s=3)`; else its function's name."""
    spec = _SPECS.get(policy.on_push)
    if spec is not None:
        return spec
    function = policy.on_push
    return f"{function.__module__}:{function.__qualname__}"


def _written(value: Any) -> str:
    if isinstance(value, Policy):
        return describe(value)
    if callable(value):
        return getattr(value, "spec", getattr(value, "__qualname__", repr(value)))
    return repr(value)


def require(holds: Any, message: str) -> None:
    """Raises `ValueError(message)` unless `holds`; lets traced arguments pass.

    A hyper-parameter under vmap has no value to check at construction.
    """
    if not isinstance(holds, jax.core.Tracer) and not holds:
        raise ValueError(message)


def whole(value: Any) -> bool:
    """Whether `value` is a whole number (or traced, which cannot be told)."""
    if isinstance(value, jax.core.Tracer):
        return True
    return not isinstance(value, bool) and isinstance(value, int)


def gap(clocks: Clocks) -> Int[Array, " N"]:
    """Clocks by which each worker leads the slowest living one."""
    unreachable = jnp.iinfo(clocks.clock.dtype).max
    slowest = jnp.min(clocks.clock, where=clocks.alive, initial=unreachable)
    return clocks.clock - slowest


def only(worker: Any, num_workers: int) -> Bool[Array, " N"]:
    """The mask with `worker` alone."""
    return jnp.arange(num_workers, dtype=jnp.int32) == worker


def nobody(num_workers: int) -> Bool[Array, " N"]:
    """The empty mask."""
    return jnp.zeros(num_workers, bool)


def no_push(
    commit: Bool[Array, ""], release: Bool[Array, " N"], restart: Bool[Array, " N"]
) -> Decision:
    """The decision of `on_leave`, where there is no push to weigh."""
    return Decision(jnp.float32(0), commit, release, restart)
