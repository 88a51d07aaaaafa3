"""Objectives with known constants, and many noise seeds in one replay.

The parameters of the task are one (runs, seeds, dimension) array, a run being an
objective at a step size. Loss and noise are sums over runs and seeds, so that each row
is SGD of its own; they share the timing, as a mean over noise seeds asks for.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp import policies, replay, theory
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.traces import Trace

DIM = 10


# One object for one text: jit compiles a schedule once per policy object.
policy = functools.cache(policies.parse)


class Problem(NamedTuple):
    """F(w) = sum_j value_j(w_j) of smoothness 1 and F* = 0, from w^0 = start."""

    value: Callable[[jax.Array], jax.Array]  # (..., d) -> (..., d)
    slope: Callable[[np.ndarray], np.ndarray]  # its derivative, by hand
    start: float
    gap: float  # F(w^0) - F*
    equal: bool = False  # whether all curvatures equal L at the optimum


class Run(NamedTuple):
    """One objective at one step size."""

    problem: Problem
    step: float
    noise: float = 1.0  # scale of the gradient noise; 0 for none


class Measure(NamedTuple):
    """Mean over rounds and seeds of ||grad F(w^t)||^2, t < T."""

    mean: float
    error: float  # its standard error over the seeds


_CURVATURE = np.geomspace(0.01, 1.0, DIM).astype(np.float32)


def _rows(w):
    return jnp.broadcast_to(jnp.asarray(_CURVATURE), w.shape)


def _rational(w):
    return 0.5 * _rows(w) * w**2 / (1 + w**2)  # second derivative lambda_j at 0


def _log_cosh(w):
    return jnp.logaddexp(w, -w) - math.log(2)


EQUAL = Problem(lambda w: 0.5 * w**2, lambda w: w, 1.0, 0.5 * DIM, True)
COSINE = Problem(lambda w: 1 - jnp.cos(w), np.sin, 2.0, DIM * (1 - math.cos(2)), True)
RATIONAL = Problem(
    _rational, lambda w: _CURVATURE * w / (1 + w**2) ** 2,
    2.0, float(0.4 * _CURVATURE.sum()),
)  # fmt: skip
SPREAD = Problem(
    lambda w: 0.5 * _rows(w) * w**2, lambda w: _CURVATURE * w,
    1.0, float(0.5 * _CURVATURE.sum()),
)  # fmt: skip
CONVEX = Problem(_log_cosh, np.tanh, 2.0, DIM * math.log(math.cosh(2)), True)
PROBLEMS = {
    "strongly convex": EQUAL,
    "strongly convex, spread": SPREAD,
    "convex": CONVEX,
    "non-convex": COSINE,
    "non-convex, spread": RATIONAL,
}


def first_rounds(trace: Trace, rounds: int) -> Trace:
    """The trace up to its commit number `rounds`."""
    assert trace.commits >= rounds, f"only {trace.commits} commits"
    return trace[: int(np.flatnonzero(trace.committed)[rounds - 1]) + 1]


def task(
    runs: Sequence[Run], trace: Trace, variance: float, seeds: int, seed: int, dim=DIM
) -> Task:
    """A task whose gradients carry Gaussian noise of total variance `variance`.

    The noise is a table by (worker, batch index): fresh for every local step, and
    cheaper than a random number generator inside the loop.
    """
    draws = int(trace.clock.max()) * trace.local_steps
    shape = (trace.num_workers, draws, seeds, dim)
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    problems = [run.problem for run in runs]
    scale = np.array([run.noise for run in runs], np.float32)

    def total(params):
        return sum(jnp.sum(p.value(params[i])) for i, p in enumerate(problems))

    def init(key):
        start = [jnp.full((seeds, dim), p.start, jnp.float32) for p in problems]
        # XLA would fold the stack of all versions, seconds of compilation, if it could
        # see that the key does not matter.
        zero = jnp.minimum(jax.random.uniform(key), 0.0)
        return Variables(jnp.stack(start) + zero, {})

    def loss(variables, noise, key):
        del key
        params = variables.params
        linear = jnp.einsum("rsd,sd->r", params, noise)
        return total(params) + jnp.sum(jnp.asarray(scale) * linear), {}

    return Task(
        name="known",
        num_workers=trace.num_workers,
        batch_size=1,
        samples_per_epoch=1000,
        data=jnp.asarray(math.sqrt(variance / dim) * noise),
        init=init,
        batch=lambda data, key, worker, index: data[worker, index],
        loss=loss,
        evaluate=lambda data, variables: {"loss": total(variables.params)},
        objective=lambda data, variables: total(variables.params),
    )


def sgd(steps: Sequence[float]) -> optax.GradientTransformation:
    """SGD with a step size of its own for every run."""
    each = np.asarray(steps, np.float32)[:, None, None]
    return optax.stateless(
        lambda gradients, params=None: -jnp.asarray(each) * gradients
    )


def versions(
    runs: Sequence[Run], trace: Trace, variance: float, seeds=16, seed=0, dim=DIM
) -> list[np.ndarray]:
    """w^0, ..., w^T of every run, (T + 1, seeds, d), by the package's replay."""
    made = replay.trajectory(
        task(runs, trace, variance, seeds, seed, dim),
        sgd([run.step for run in runs]),
        trace,
    )
    return list(np.moveaxis(np.asarray(made.params), 1, 0))


def measure(
    runs: Sequence[Run], trace: Trace, variance: float, seeds=16, seed=0, dim=DIM
) -> list[Measure]:
    """What Theorems A and B bound, exactly from the versions of the replay."""
    found = []
    made = versions(runs, trace, variance, seeds, seed, dim)
    for run, w in zip(runs, made, strict=True):
        slope = run.problem.slope(w[:-1].astype(float))
        squares = np.sum(slope**2, axis=2).mean(axis=0)
        error = squares.std(ddof=1) / math.sqrt(seeds) if seeds > 1 else 0.0
        found.append(Measure(float(squares.mean()), float(error)))
    return found


def bound(
    run: Run, trace: Trace, promise: theory.Promise, variance: float, kappa=None
) -> float:
    """Theorem A or B for a trace: tau_bar from the promise, kappa_1 from the trace."""
    mean = theory.tau_bar(
        promise.tau_max, trace.num_workers, promise.k_min, promise.batch
    )
    steps = trace.local_steps
    given = {
        "kappa_1": theory.kappa_1(trace) if kappa is None else kappa,
        "tau_bar": mean,
        "k_min": promise.k_min,
    }
    theorem = theory.theorem_a
    if steps > 1:
        theorem, given["local_steps"] = theory.theorem_b, steps
    return float(
        theorem(run.problem.gap, 1.0, variance, run.step, trace.commits, **given)
    )
