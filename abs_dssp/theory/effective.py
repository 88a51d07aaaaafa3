"""The theorems' steps of a run whose workers push gradients or displacements."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from abs_dssp.training.config import UpdateConfig

__all__ = ["EffectiveSteps", "effective_steps"]

# What turns a gradient into a multiple of itself, if the other factor is a constant.
_SCALINGS = {"mul", "neg", "copy", "convert_element_type", "broadcast_in_dim"}


class EffectiveSteps(NamedTuple):
    """The steps that Theorems A and B speak of."""

    step: float  # eta, the server's step per gradient
    local_step: float  # gamma, of the local steps; eta where there is but one


def effective_steps(config: UpdateConfig) -> EffectiveSteps:
    """eta and gamma of a run, if its optimisers are plain SGD with constant steps.

    A displacement by U steps of SGD is gamma times the sum of the gradients, so a
    server that steps by s along displacements steps by eta = s gamma along gradients:
    Theorem A holds with it for U = 1, and Theorem B for s of at least 1, which is its
    condition gamma <= eta. For any other optimiser inside or outside, DiLoCo's among
    them, no theorem of this package says anything.

    Args:
      config: how pushes become updates.

    Returns:
      The steps, for `theorem_a`, `theorem_b` and their largest steps.

    Raises:
      ValueError: where no theorem covers the optimisers.

    Example:
      >>> from abs_dssp import optimizers, theory
      >>> from abs_dssp.training.config import UpdateConfig
      >>> config = UpdateConfig(
      ...     optimizers.sgd(2.0), optimizers.sgd(0.125), 5, push="displacement")
      >>> theory.effective_steps(config)
      EffectiveSteps(step=0.25, local_step=0.125)
    """
    server = _plain(config.server, "server's optimizer")
    if not config.moves_locally:
        return EffectiveSteps(server, server)
    local = _plain(config.local, "local optimizer")
    step = server * local if config.push == "displacement" else server
    if local > step and config.local_steps > 1:
        raise ValueError(
            "theory.effective_steps: Theorem B needs local steps that are no larger "
            f"than the server's step per gradient, got gamma={local:g} and "
            f"eta={step:g}; there is no guarantee for this run."
        )
    return EffectiveSteps(step, local if config.local_steps > 1 else step)


def _plain(optimizer: optax.GradientTransformationExtraArgs, what: str) -> float:
    """The constant step of plain SGD, read from the program that it traces to."""
    params, clocks = jnp.ones(1), (jnp.float32(0), jnp.int32(0))
    state = optimizer.init(params)

    def step(gradient, params, epoch, version):
        more = {"epoch": epoch, "server_updates": version}
        return optimizer.update(gradient, state, params, **more)[0]

    if not jax.tree.leaves(state):
        program = jax.make_jaxpr(step)(params, params, *clocks).jaxpr
        if _scales(program):
            return -float(np.asarray(step(jnp.ones(1), params, *clocks))[0])
    raise ValueError(
        f"theory.effective_steps: the {what} is not plain SGD with a constant step, "
        "and no theorem here covers another; there is no guarantee for this run."
    )


def _scales(program: Any) -> bool:
    """Whether a program multiplies its first argument by constants, and only that."""
    scaled, constant = {program.invars[0]}, set(program.constvars)
    for equation in program.eqns:
        inputs = [v for v in equation.invars if not isinstance(v, core.Literal)]
        moving = [v for v in inputs if v in scaled]
        if all(v in constant for v in inputs):
            constant.update(equation.outvars)
        elif (
            len(moving) == 1
            and equation.primitive.name in _SCALINGS
            and all(v in constant for v in inputs if v not in scaled)
        ):
            scaled.update(equation.outvars)
        else:
            return False
    return program.outvars[0] in scaled
