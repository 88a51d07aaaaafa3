"""Objectives with known constants, a target for each, and what gradient descent needs.

The noise of one gradient is R times the target eps: so many gradients' mean is as noisy
as the target.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from abs_dssp import tasks

_LARGE = 500  # parameters
_STEPS = 100_000  # of gradient descent, at most


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective, its target, and what gradient descent needs for it."""

    label: str
    task: Callable[[int], tasks.Task]  # of N workers
    ratio: float  # R = sigma^2 / eps
    target: float  # eps, of the squared gradient norm
    gap: float  # F(w0) - F*
    smoothness: float  # L
    variance: float  # of a gradient of one batch, near the target
    steps: float  # iterations of gradient descent at the step 1 / L to eps / 2
    large: bool  # too large for dozens of runs that keep a gradient for each worker


def parse(text: str, dim: int, target: float) -> Problem:
    """Reads `NAME:R`.

    Args:
      text: a name of `KINDS` and a ratio above 0.
      dim: of the tridiagonal quadratic.
      target: eps.

    Raises:
      ValueError: for another name, or a ratio that is not above 0.
    """
    name, _, number = text.partition(":")
    try:
        ratio = float(number)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise ValueError(
            f"--problems: expected a name and a ratio above 0, such as "
            f"tridiagonal:10, got {text!r}."
        )
    if name not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"--problems: unknown {name!r}; known: {known}.")
    return KINDS[name](ratio, dim, target)


def tridiagonal(ratio: float, dim: int, target: float) -> Problem:
    """The quadratic on which first-order methods are slowest."""

    def make(n: int) -> tasks.Task:
        return tasks.tridiagonal(n, dim=dim, noise=ratio * target)

    return _problem(f"tridiagonal quadratic, d = {dim}", make, ratio, target)


def logistic(ratio: float, dim: int, target: float) -> Problem:
    """Logistic regression, with the batch size that makes sigma^2 / B about R eps."""
    del dim
    settings: dict[str, Any] = {
        "samples": 5000,
        "dim": 20,
        "l2": 1e-3,
        "partition": "shared",
    }
    single = tasks.logistic(1, batch_size=1, **settings)
    assert single.constants is not None and single.constants.noise_variance is not None
    batch = max(1, round(single.constants.noise_variance / (ratio * target)))

    def make(n: int) -> tasks.Task:
        return tasks.logistic(n, batch_size=batch, **settings)

    return _problem("logistic regression, d = 20", make, ratio, target)


def strongly_convex(ratio: float, dim: int, target: float) -> Problem:
    """Curvatures from 0.1 to 1."""
    del dim

    def make(n: int) -> tasks.Task:
        return tasks.quadratic(n, dim=100, condition=10.0, noise=ratio * target)

    return _problem("strongly convex quadratic, condition 10", make, ratio, target)


def fading(ratio: float, dim: int, target: float) -> Problem:
    """The same, whose noise is R times the squared gradient, wherever that is."""
    del dim

    def make(n: int) -> tasks.Task:
        return tasks.quadratic(
            n, dim=100, condition=10.0, noise=0.0, relative_noise=ratio
        )

    return _problem("quadratic whose noise fades", make, ratio, target)


def different(ratio: float, dim: int, target: float) -> Problem:
    """The same, where workers have optima of their own and F is the mean over them.

    The squared gradients of the workers at the optimum of F are 100 eps on average.
    """
    del dim
    size = 100
    shift = math.sqrt(100 * target / size / 0.5)  # times a sine, of mean square 1 / 2

    def make(n: int) -> tasks.Task:
        return tasks.quadratic(
            n, dim=size, condition=10.0, noise=ratio * target, heterogeneity=shift
        )

    return _problem("quadratic, different data per worker", make, ratio, target)


# (R, d, eps) -> problem
KINDS: dict[str, Callable[[float, int, float], Problem]] = {
    "tridiagonal": tridiagonal,
    "logistic": logistic,
    "strongly_convex": strongly_convex,
    "fading": fading,
    "different": different,
}


def _problem(label, make, ratio: float, target: float) -> Problem:
    """Measures gap and gradient descent's iterations on a task of one worker."""
    task = make(1)
    known = task.constants
    assert known is not None and known.smoothness and known.optimum is not None
    variance = ratio * target
    if known.noise_variance is not None:
        variance = known.noise_variance / task.batch_size
    variables = task.init(jax.random.key(0))
    gap = float(task.objective(task.data, variables)) - known.optimum
    slope = jax.jit(jax.grad(lambda p, d, v: task.objective(d, v._replace(params=p))))
    evaluate = jax.jit(task.evaluate)
    rate = 1 / known.smoothness
    count = 0
    while count < _STEPS:
        norm = evaluate(task.data, variables)["gradient_norm_squared"]
        if float(norm) <= target / 2:
            break
        change = slope(variables.params, task.data, variables)
        variables = variables._replace(
            params=jax.tree.map(lambda w, g: w - rate * g, variables.params, change)
        )
        count += 1
    return Problem(
        label,
        functools.cache(make),  # one task, so that what it compiled is found again
        ratio,
        target,
        gap,
        known.smoothness,
        variance,
        float(max(count, 1)),
        large=sum(leaf.size for leaf in jax.tree.leaves(variables.params)) > _LARGE,
    )
