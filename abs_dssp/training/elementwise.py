"""Which optimisers treat every number alone, so that one vector can hold all leaves.

An optax transformation does not say so itself, and trying it on examples proves
nothing. So there is a list of those of optax that do, and a mark for all others.
"""

from typing import Any

import jax
import numpy as np
import optax

_COMBINE = {  # elementwise if their parts are
    "optax._src.base.with_extra_args_support.<locals>.update",
    "optax.transforms._combining.chain.<locals>.update_fn",
}
_BY = "adadelta adam adamax amsgrad belief lion radam rms rprop rss schedule sign"
_KNOWN = {
    "optax._src.base.identity.<locals>.update_fn",
    "optax._src.base.set_to_zero.<locals>.update_fn",
    "optax.transforms._accumulation.ema.<locals>.update_fn",
    "optax.transforms._accumulation.trace.<locals>.update_fn",
    "optax.transforms._adding.add_decayed_weights.<locals>.update_fn",
    "optax.transforms._clipping.clip.<locals>.update_fn",
    "optax._src.transform.scale.<locals>.update_fn",
    *(
        f"optax._src.transform.scale_by_{name}.<locals>.update_fn"
        for name in [*_BY.split(), "stddev", "yogi"]
    ),
}


def mark(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Says that an optimiser treats every number of the parameters alone.

    The server then runs it over one buffer that holds all parameters, instead of leaf
    by leaf: faster for models of many leaves. For an optimiser that looks at a whole
    leaf, such as its norm or its shape, the statement is wrong, and so is the result.

    Args:
      optimizer: any optax optimiser.

    Returns:
      The same optimiser, marked.

    Example:

      >>> import jax, optax
      >>> from abs_dssp import optimizers
      >>> signs = optax.stateless(lambda g, _: jax.tree.map(jax.numpy.sign, g))
      >>> signs = optimizers.elementwise(signs)
    """
    inner = optax.with_extra_args_support(optimizer).update

    def update(updates, state, params=None, **extra):
        return inner(updates, state, params, **extra)

    update.elementwise = True  # type: ignore[attr-defined]  # the mark
    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def is_elementwise(optimizer: optax.GradientTransformation) -> bool:
    """Whether an optimiser is known to treat every number of the parameters alone.

    True for what `mark` returned, for the transformations of optax listed here, and
    for chains of these. False for anything else: nothing is guessed.
    """
    return _known(optimizer.update)


def _known(function: Any) -> bool:
    if getattr(function, "elementwise", False):
        return True
    module = getattr(function, "__module__", "")
    name = f"{module}.{getattr(function, '__qualname__', '')}"
    cells = getattr(function, "__closure__", None) or ()
    values = jax.tree.leaves(
        [cell.cell_contents for cell in cells],
        is_leaf=lambda value: isinstance(value, optax.GradientTransformation),
    )
    if name in _COMBINE:
        return all(_known(getattr(value, "update", value)) for value in values)
    # Hyper-parameters: one number for all parameters, or a schedule of the count.
    return name in _KNOWN and all(callable(v) or np.ndim(v) == 0 for v in values)
