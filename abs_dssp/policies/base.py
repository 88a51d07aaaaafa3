"""What a policy is: pure functions over the clocks, and what they guarantee.

A policy decides, push by push, whether a push counts, when the server applies what
it has accumulated, and who may run, waits, or starts again. It never sees a
gradient, a socket or a thread, so one file drives the compiled simulator, the real
cluster and the tests of the theory.

A policy may also ask to be woken. Its deadline is a time of the run, set by decisions
(`Decision.wake`); at it the policy's `on_time` is asked, which is an event like a push:

* Where a push, a departure or a join and the deadline are at the same time, the
  deadline comes last: who pushes at the deadline is in time.
* A deadline that lies in the past when it is set is at once, at the time of the event
  that set it. One that `on_time` sets must lie after its own time, or there is none: no
  policy can hold the time still.
* A deadline that has come is gone. While there is none, nothing happens.
* The event has the time of the deadline, however late a real server notices. It
  handles nothing of a later time before.
* The first deadline is time 0, when everybody begins: a policy may set one before any
  push. At joins and at refused pushes no policy is asked, and the deadline stays.
* There is no push to weigh: as at a departure, a commit with nothing accumulated does
  not happen.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import checks

State = Any  # what a policy remembers between pushes: any pytree of arrays
Whole = int | Int[Array, ""]  # a hyper-parameter that vmap may sweep
P = ParamSpec("P")
T = TypeVar("T")


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
    """What the server does at one event."""

    weight: Float[Array, ""]  # the push's weight in the next commit; 0 discards it
    commit: Bool[Array, ""]  # apply what has been accumulated; version += 1
    release: Bool[Array, " N"]  # these get current parameters and compute
    restart: Bool[Array, " N"]  # these drop their computation and start again
    # Seconds of the run; when to ask `on_time`. inf: never; NaN or None: as it was.
    wake: Float[Array, ""] | None = None


# "" nobody's, "slow" what takes too long (in seconds, so that there may be no commit
# either), "any" some worker's: each promises less than the one before.
STARVES = ("", "slow", "any")


class Properties(NamedTuple):
    """What a rule guarantees for every order of events, as numbers.

    A constructor states them where its parameters are; a rule of one's own states what
    it likes, and `abs_dssp.verify` checks it. The defaults guarantee nothing.
    """

    # Of an accepted push, in versions; None: no bound.
    max_staleness: Whole | None = None
    # Of any computation that goes on after an event, in versions; None: no bound.
    max_computing: Whole | None = None
    # Of a worker at its release, in clocks; None: no bound.
    max_gap: Whole | None = None
    # Accepted pushes in a commit, fewer only if nobody else computes; None: not stated.
    min_commit: Whole | None = None
    # Accepted pushes in a commit; None: no bound.
    max_commit: Whole | None = None
    # Whether every push is accepted and committed alone.
    commits_every_push: bool = False
    # Whether a pusher may be kept waiting.
    waits: bool = True
    # Whether computations may be cancelled.
    restarts: bool = True
    # Whether decisions depend on the loss estimate; None: found by tracing the rule.
    reads_loss: bool | None = None
    # The aggregator that the rule is meant for, as `--aggregate` names it.
    aggregate: str = "mean"
    # By how much `max_staleness` and `max_commit` grow with each life of a worker that
    # joins again.
    staleness_per_join: Whole = 0
    commit_per_join: Whole = 0
    # Fields of the rule's state that never decrease, and that never increase.
    never_falls: tuple[str, ...] = ()
    never_rises: tuple[str, ...] = ()
    # Field of the rule's state that is the number of pushes in a commit.
    commit_field: str = ""
    # Whose pushes may all be discarded, on purpose; one of STARVES.
    starves: str = ""

    def after_joins(self, joins: int) -> "Properties":
        """The same where workers may join again `joins` times."""

        def grown(bound, step):
            return None if bound is None else bound + step * joins

        return self._replace(
            max_staleness=grown(self.max_staleness, self.staleness_per_join),
            max_commit=grown(self.max_commit, self.commit_per_join),
        )


# Of rules that commit every push alone.
EVERY_PUSH = Properties(
    min_commit=1,
    max_commit=1,
    commits_every_push=True,
    restarts=False,
    reads_loss=False,
)


class Policy(NamedTuple):
    """Pure functions, their initial state, and what they guarantee.

    `on_push(state, clocks, worker, now)` is asked at every push, `on_leave` with the
    same arguments when a worker dies or finishes (its `alive` is already False), so
    that nobody waits for it. `on_time(state, clocks, now)`, if there is one, is asked
    at the deadline that decisions set. All return `(state, Decision)`, run under jit
    and vmap, and give the state back with the structure, shapes and dtypes it came
    with.
    """

    init: Callable[[], State]
    on_push: Callable[[State, Clocks, Any, Any], tuple[State, Decision]]
    on_leave: Callable[[State, Clocks, Any, Any], tuple[State, Decision]]
    properties: Properties = Properties()
    on_time: Callable[[State, Clocks, Any], tuple[State, Decision]] | None = None

    def __repr__(self) -> str:
        return f"<Policy {describe(self)}>"


def constructor(function: Callable[P, T], name: str | None = None) -> Callable[P, T]:
    """Remembers what a constructor made, and how each was written.

    Equal calls give the same object, so that jit recognises a policy it has compiled
    before; `describe` gives back the text that `parse` reads. Calls are equal if every
    parameter has the same value of the same type, however it was passed.

    Args:
      function: the constructor of a policy or of a weighting.
      name: the name that `parse` knows it by; the function's own by default.
    """
    made: dict[Any, T] = {}
    name = name or function.__name__
    signature = inspect.signature(function)

    @functools.wraps(function)
    def construct(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = _bound(name, signature, args, kwargs)
        given = {key: _identity(value) for key, value in bound.arguments.items()}
        call = tuple(given.items())
        try:
            if call in made:
                return made[call]
        except TypeError:  # a traced argument (vmap over it)
            return _called(name, function, bound)
        result: Any = _called(name, function, bound)
        if isinstance(result, Policy) and result.on_push in _TEXTS:
            # Another constructor's policy gets a function, hence a text, of its own.
            result = result._replace(on_push=functools.partial(result.on_push))
        shown = [
            f"{key}={_written(value)}"
            for key, value in bound.arguments.items()
            if key != "num_workers"
            and given[key] != _identity(signature.parameters[key].default)
        ]
        named = result.on_push if isinstance(result, Policy) else result
        _TEXTS[named] = f"{name}({','.join(shown)})"
        _WORKERS[named] = bound.arguments.get("num_workers")
        made[call] = result
        return result

    return construct


# By function; what constructors made lives for ever.
_TEXTS: dict[Callable[..., Any], str] = {}
_WORKERS: dict[Callable[..., Any], int | None] = {}


def _bound(name: str, signature: inspect.Signature, args, kwargs):
    """The arguments of a call by name, with defaults; their workers are checked."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "no arguments"
        raise TypeError(f"{name}: {error}; it takes {known}.") from None
    bound.apply_defaults()
    if "num_workers" not in bound.arguments:
        return bound
    count = bound.arguments["num_workers"]
    bound.arguments["num_workers"] = checks.whole(name, "num_workers", count, least=1)
    for key, value in bound.arguments.items():
        own = workers(value)
        if own not in (None, count):
            raise ValueError(
                f"{name}: {key} must be for num_workers={count}, got "
                f"{describe(value)} for {own}."
            )
    return bound


def _called(name: str, function: Callable[..., T], bound: inspect.BoundArguments) -> T:
    try:
        return function(*bound.args, **bound.kwargs)
    except TypeError as error:
        if str(error).startswith(f"{name}: "):
            raise  # a sentence of the constructor's own
        shown = [
            f"{key}={checks.shown(value)}"
            for key, value in bound.arguments.items()
            if key != "num_workers"
        ]
        raise TypeError(
            f"{name}: cannot be made with {', '.join(shown)}: {error}."
        ) from error


def workers(policy: Any) -> int | None:
    """The number of workers that a constructor made a policy for; None if unknown.

    Example:
      >>> policies.workers(policies.asp(4))
      4
    """
    return _WORKERS.get(policy.on_push) if isinstance(policy, Policy) else None


def describe(policy: Policy) -> str:
    """The policy as `parse` reads it, e.g. `ssp(s=3)`; else its function's name.

    Arguments that have their default value are left out.

    Example:
      >>> policies.describe(policies.dssp(4, s_lower=3, s_upper=8))
      'dssp(s_upper=8)'
    """
    return _written(policy.on_push)


def _identity(value: Any) -> Any:
    """What tells arguments apart: 1, 1.0 and True are equal, yet not the same."""
    if isinstance(value, (list, tuple)) and not isinstance(value, Policy):
        return type(value), tuple(_identity(item) for item in value)
    return type(value), value


def _written(value: Any) -> str:
    if isinstance(value, Policy):
        return describe(value)
    if isinstance(value, np.generic):
        return repr(value.item())
    if not callable(value):
        return repr(value)
    if value in _TEXTS:
        return _TEXTS[value]
    module = getattr(value, "__module__", type(value).__module__)
    return f"{module}:{getattr(value, '__qualname__', repr(value))}"


def require(holds: Any, message: str) -> None:
    """Raises `ValueError(message)` unless `holds`; lets traced arguments pass.

    A hyper-parameter under vmap has no value to check at construction.
    """
    if not isinstance(holds, jax.core.Tracer) and not holds:
        raise ValueError(message)


def require_weights(where: str, policy: Policy) -> None:
    """Refuses a rule whose weights are numbers of rounds, which nothing may change."""
    if policy.properties.aggregate == "table":
        raise ValueError(
            f"{where}: the weights of a rule for aggregate='table' are the numbers of "
            f"its rounds and cannot be changed, got {describe(policy)}."
        )


def whole(value: Any) -> bool:
    """Whether `value` is a whole number (or traced, which cannot be told)."""
    if isinstance(value, jax.core.Tracer):
        return True
    return not isinstance(value, bool) and isinstance(value, (int, np.integer))


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


def commit_alone(release: Bool[Array, " N"], weight: Any = 1) -> Decision:
    """The decision of `on_push` that commits the push alone and restarts nobody."""
    restart = jnp.zeros_like(release)
    return Decision(jnp.float32(weight), jnp.bool_(True), release, restart)


def no_push(
    commit: Bool[Array, ""] | bool,
    release: Bool[Array, " N"],
    wake: Float[Array, ""] | None = None,
) -> Decision:
    """The decision of `on_leave` or `on_time`, where there is no push to weigh."""
    restart = jnp.zeros_like(release)
    return Decision(jnp.float32(0), jnp.bool_(commit), release, restart, wake)
