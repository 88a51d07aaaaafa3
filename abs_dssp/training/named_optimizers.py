"""Optimisers as text: those of optax, of this package, and of one's own modules."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from abs_dssp import checks, literals
from abs_dssp.training import optimizers

__all__ = ["names", "parse", "resolve"]

# What optax has under these names, as far as it can be written with literals. Those
# that want the loss besides the gradient, such as line searches, are left out.
_OPTIMIZERS = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage
    lamb lars lion nadam nadamw novograd optimistic_adam_v2 optimistic_gradient_descent
    radam rmsprop rprop sign_sgd sm3 yogi
""".split()
_PARTS = """
    adaptive_grad_clip add_decayed_weights add_noise apply_every apply_if_finite
    centralize clip clip_by_block_rms clip_by_global_norm ema
    normalize_by_update_norm scale scale_by_adam scale_by_learning_rate trace zero_nans
""".split()
_SCHEDULES = """
    constant_schedule cosine_decay_schedule cosine_onecycle_schedule exponential_decay
    linear_onecycle_schedule linear_schedule piecewise_constant_schedule
    polynomial_schedule warmup_constant_schedule warmup_cosine_decay_schedule
    warmup_exponential_decay_schedule
""".split()


def _chain(*parts: Any) -> optax.GradientTransformation:
    for part in parts:
        if not isinstance(part, optax.GradientTransformation):
            raise ValueError(f"chain: expected optimizers and parts, got {part!r}.")
    return optax.chain(*parts)


# Ours follow the clocks of a run; optax's schedules count the server's updates.
_OURS: dict[str, Callable[..., Any]] = {
    made.__name__: made
    for made in (optimizers.delayed_nesterov, optimizers.on_clock, optimizers.sgd)
}
_OURS |= {name: optimizers.step_decay for name in ("drops", "step_decay")}
_OURS |= {"chain": _chain}


def _known() -> dict[str, Callable[..., Any]]:
    wanted = [*_OPTIMIZERS, *_PARTS, *_SCHEDULES]
    return {n: getattr(optax, n) for n in wanted if hasattr(optax, n)} | _OURS


def names() -> tuple[str, ...]:
    """The names that `parse` knows, in alphabetical order.

    Example:
      >>> from abs_dssp import optimizers
      >>> "adamw" in optimizers.names()
      True
    """
    return tuple(sorted(_known()))


def parse(
    text: str, learning_rate: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimiser that `text` describes, e.g. `"adam(learning_rate=0.001)"`.

    `sgd`, `delayed_nesterov` and `step_decay` are those of this package, all other
    names those of optax: optimisers, parts for `chain(...)`, and schedules, which count
    the server's updates. Nothing is evaluated.

    Args:
      text: a call with literal arguments or calls, such as
        `"chain(clip_by_global_norm(1.0), adamw(0.001, weight_decay=0.1))"`; what is not
        known by its name is named with its module: `"my_module:make(rate=0.1)"`,
        `"optax.contrib:muon(0.02)"`.
      learning_rate: given to the optimisers in `text` that take one; then `text` must
        leave it out.

    Raises:
      ValueError: for an unknown name or argument, a missing one, a second learning
        rate, or what is no optimiser.

    Example:
      >>> import jax.numpy as jnp
      >>> from abs_dssp import optimizers
      >>> optimizer = optimizers.parse("sign_sgd(learning_rate=0.5)")
      >>> gradient = jnp.array([3.0, -1.0])
      >>> change, _ = optimizer.update(gradient, optimizer.init(gradient))
      >>> change.tolist()
      [-0.5, 0.5]
    """
    where = "optimizers.parse"
    checks.text(where, text, "'sgd(0.1)' or 'adam(learning_rate=0.001)'")
    if learning_rate is not None:
        checks.number(where, "learning_rate", learning_rate)
    call, known = literals.parse_call(text, where), _known()
    for inner in literals.calls(call):
        if ":" in inner.name:
            known[inner.name] = literals.load(inner.name, where)
    fixed = {}
    if learning_rate is not None:
        _require_room(text, call, known, learning_rate)
        fixed = {"learning_rate": learning_rate}
    made = literals.build(call, where, known, **fixed)
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"{where}: {text!r} must make an optax optimizer "
            f"(optax.GradientTransformation), got {type(made).__name__}."
        )
    made = optax.with_extra_args_support(made)
    _try(text, made, where)
    return made


def resolve(
    optimizer: optax.GradientTransformation | str,
    where: str = "optimizers.resolve",
    name: str = "optimizer",
) -> optax.GradientTransformation:
    """An optimiser, or the one that a text describes; the same one for the same text.

    Args:
      optimizer: what was given.
      where: the caller's name, for messages.
      name: of the caller's argument.

    Raises:
      TypeError: if it is neither.
      ValueError: as `parse`.

    Example:
      >>> from abs_dssp import optimizers
      >>> optimizers.resolve("sgd(0.1)") is optimizers.resolve("sgd(0.1)")
      True
    """
    if isinstance(optimizer, str):
        return _parsed(optimizer)
    wanted = optax.GradientTransformation
    example = "optimizers.sgd(0.1) or the text 'sgd(0.1)'"
    checks.kind(where, name, optimizer, wanted, example)
    return optimizer


@functools.lru_cache(maxsize=64)  # a compiled program is found by its optimiser
def _parsed(text: str) -> optax.GradientTransformation:
    return parse(text)


def named(name: str) -> Callable[..., Any]:
    """What `parse` calls for a name: `optimizers.adam` is that of optax.

    Raises:
      AttributeError: for a name that it does not know.
    """
    known = _known()
    if name not in known:
        raise AttributeError(
            f"module 'abs_dssp.optimizers' has no attribute {name!r}; see its names()."
        )
    return known[name]


def _require_room(
    text: str, call: literals.Call, known: Mapping[str, Any], rate: float
) -> None:
    """Refuses a learning rate that nothing takes, or that `text` gives itself."""
    taking = [
        each
        for each in literals.calls(call)
        if each.name in known
        and "learning_rate" in inspect.signature(known[each.name]).parameters
    ]
    if any(each.args or "learning_rate" in each.kwargs for each in taking):
        raise ValueError(
            f"optimizers.parse: learning_rate={rate:g} is given beside {text!r}, which "
            "gives its own (or an argument without a name); leave one of them out."
        )
    if not taking:
        raise ValueError(
            f"optimizers.parse: nothing in {text!r} takes learning_rate={rate:g}; "
            "leave it out."
        )


def _try(text: str, optimizer, where: str) -> None:
    """One step of shapes, in which wrong kinds of arguments are found."""
    params = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    clocks = {"epoch": jnp.float32(0), "server_updates": jnp.int32(0)}

    def step(params):
        state = optimizer.init(params)
        return optimizer.update(params, state, params, **clocks)

    try:
        change, _ = jax.eval_shape(step, params)
    except (TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(f"{where}: {text!r} makes no step: {reason}") from error
    structure: Any = jax.tree.structure(change)
    if structure != jax.tree.structure(params):
        raise ValueError(f"{where}: {text!r} changes the structure of the parameters.")
