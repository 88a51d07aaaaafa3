"""What a policy answers, made into arrays of the right types, or refused.

Happens while the policy is traced, so that a compiled run pays nothing for it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp.policies import analysis, base


def ask(
    decide: Callable[..., Any], state: base.State, clocks: base.Clocks, *event: Any
) -> tuple[base.State, base.Decision]:
    """Calls a function of a policy; Python's numbers in the decision become arrays.

    Args:
      decide: the function.
      state: of the policy.
      clocks: what it is told.
      *event: worker (int32 scalar) and time (seconds); for `on_time` the time alone.

    Returns:
      The policy's state and a decision of float32, bool, (N,) bool, (N,) bool, and,
      unless it is None, a deadline of the dtype of times.

    Raises:
      TypeError: if it answers anything else than a state and a `Decision`.
      ValueError: if a part of the decision has another shape or kind.

    Example:
      >>> import jax.numpy as jnp
      >>> def push(state, clocks, worker, now):
      ...     none = jnp.zeros(2, bool)
      ...     return state, policies.Decision(1, True, policies.only(worker, 2), none)
      >>> _, decision = ask(push, (), policies.initial_clocks(2), 0, 1.0)
      >>> decision.weight.dtype, decision.commit.dtype
      (dtype('float32'), dtype('bool'))
    """
    made = decide(state, clocks, *event)
    if not (isinstance(made, tuple) and len(made) == 2):
        raise TypeError("a policy must return (state, Decision).")
    state, decision = made
    if not isinstance(decision, base.Decision):
        raise TypeError(
            "a policy must return (state, Decision), got a "
            f"{type(decision).__name__} instead of the Decision."
        )
    count, wake = clocks.clock.shape[0], decision.wake
    if wake is not None:
        wake = _part("wake", wake, (), jnp.float32, clocks.latest.dtype)
    return state, base.Decision(
        weight=_part("weight", decision.weight, (), jnp.float32),
        commit=_part("commit", decision.commit, (), jnp.bool_),
        release=_part("release", decision.release, (count,), jnp.bool_),
        restart=_part("restart", decision.restart, (count,), jnp.bool_),
        wake=wake,
    )


def _part(
    name: str, value: Any, shape: tuple[int, ...], dtype: Any, made: Any = None
) -> jax.Array:
    """A part of a decision, as an array of `made`, which is `dtype` by default."""
    made = dtype if made is None else made
    if isinstance(value, jax.Array) and (value.shape, value.dtype) == (shape, made):
        return value
    words = "one number" if dtype == jnp.float32 else "True or False"
    wanted = f"{words}, as an array of shape {shape}" if shape else words
    kinds = "biuf" if dtype == jnp.float32 else "b" if shape else "biu"
    made_of = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    found = np.shape(value), made_of
    if found[0] != shape or np.dtype(found[1]).kind not in kinds:
        raise ValueError(
            f"a Decision's {name} must be {wanted}, got {found[1]} of shape {found[0]}."
        )
    return jnp.asarray(value).astype(made)


def require_fit(where: str, policy: base.Policy, num_workers: int) -> None:
    """Refuses a rule that cannot decide for so many workers, in one sentence.

    Args:
      where: the caller's name.
      policy: the rule.
      num_workers: N.

    Raises:
      ValueError: if the rule is made for another N, fails, or answers what it must not.

    Example:
      >>> require_fit("schedule", policies.bsp(3), 4)
      Traceback (most recent call last):
      ValueError: schedule: the policy bsp() is for 3 workers, the others for 4; make \
them for one number.
    """
    own, text = base.workers(policy), base.describe(policy)
    if own not in (None, num_workers):
        raise ValueError(
            f"{where}: the policy {text} is for {own} workers, the others for "
            f"{num_workers}; make them for one number."
        )
    problem = _problem(policy, num_workers)
    if problem:
        raise ValueError(f"{where}: {text}{problem}")


@functools.lru_cache(maxsize=256)
def _problem(policy: base.Policy, num_workers: int) -> str:
    """What is wrong with a rule's answers; empty if nothing is."""
    clocks = analysis.initial_clocks(num_workers)
    for name, function in analysis.functions(policy).items():
        decide = functools.partial(ask, function)
        try:
            start = jax.eval_shape(policy.init)
            end, decision = jax.eval_shape(
                decide, start, clocks, jnp.int32(0), jnp.float32(0)
            )
        except jax.errors.ConcretizationTypeError:
            return (
                f": {name} runs under jit, where a value is not known yet: no `if`, "
                "`while` or `int()` on arrays; take jnp.where."
            )
        except Exception as error:  # whatever a rule of one's own may raise
            first = str(error).strip().partition("\n")[0].rstrip(".")
            return (
                f": {name} fails for {num_workers} workers with "
                f"{type(error).__name__}: {first}."
            )
        if _shapes(end) != _shapes(start):
            return (
                f": {name} must give its state back with the structure, shapes and "
                "dtypes it came with."
            )
        if decision.wake is not None and policy.on_time is None:
            return f": {name} sets a deadline, and the policy has no on_time to ask."
    return ""


def _shapes(state: Any) -> Any:
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
