"""How a commit combines its pushes: by mean, by sum, or by the rule of a paper.

An aggregator sees who made a push and the version it was computed from. All functions
are pure and work on pytrees, of which one flat vector is one: the compiled loop of a
replay calls them on the parameters' pytree, a server on its buffer.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import literals

PyTree = Any


class Arrival(NamedTuple):
    """A push as it reaches the server."""

    gradient: PyTree  # like the parameters
    stats: PyTree  # BatchNorm statistics; averaged, never compensated
    weight: Float[Array, ""]  # above 0
    worker: Int[Array, ""]  # 0..N-1
    committed: Bool[Array, ""]  # whether it causes a commit
    present: PyTree  # parameters of the present version
    pulled: PyTree  # parameters it was computed from


class Aggregator(NamedTuple):
    """How the pushes between two commits become one gradient. Static.

    A discarded push, one of weight 0, never reaches `accumulate`: not in the compiled
    loop, not row by row, and not on a server. So its values, which may be NaN, change
    nothing, and an aggregator need not look at the weight for that.

    Attributes:
      init: `(params, stats, N) -> accumulator`, before the first push; the accumulator
        is a pytree of arrays.
      accumulate: `(accumulator, arrival) -> accumulator`.
      finalize: `(accumulator, stats) -> (gradient, stats, accumulator)`: what a commit
        applies, and the accumulator after it. `stats` are the present ones, to be given
        back where nothing was accumulated.
      single: `(gradient, weight) -> gradient`: what the commit of a single push
        applies, if that takes no accumulator; only for an `accumulate` that looks at
        nothing but gradient, statistics and weight. None otherwise.
    """

    init: Callable[[PyTree, PyTree, int], PyTree]
    accumulate: Callable[[PyTree, Arrival], PyTree]
    finalize: Callable[[PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]
    single: Callable[[PyTree, Float[Array, ""]], PyTree] | None = None


class Sums(NamedTuple):
    """Weighted sums of the pushes since the last commit."""

    gradient: PyTree
    stats: PyTree
    weight: Float[Array, ""]  # sum of the weights


class Table(NamedTuple):
    """Weighted sums by worker; 0 where there was no push."""

    gradient: PyTree  # leaves (..., N, *leaf)
    stats: PyTree  # leaves (..., N, *leaf)
    weight: Float[Array, "... N"]  # sum of the weights


class Tables(NamedTuple):
    """The tables of two rounds."""

    sums: Table  # leaves with a leading axis of 2 tables
    round: Float[Array, " 2"]  # the round whose pushes each table holds; 0 for none
    latest: Int[Array, ""]  # the table of the latest push


class Counted(NamedTuple):
    """Weighted sums, and how many pushes they hold."""

    sums: Sums
    pushes: Float[Array, ""]


class Compensated(NamedTuple):
    """Sums of compensated pushes, and the running mean square of the gradients."""

    sums: Sums
    square: PyTree  # like the parameters; 0-d where lambda is constant


@functools.cache
def parse(text: str) -> Aggregator:
    """The aggregator that `text` names, with or without brackets.

    Args:
      text: for instance `"mean"`, `"table()"` or `"compensated(strength=0.04)"`.

    Raises:
      ValueError: for an unknown name or argument (the known ones are listed).
    """
    try:
        name = literals.parse_call(text, "aggregate").name
    except (ValueError, AttributeError):  # no call, or no text
        name = ""
    if name not in KNOWN:
        known = ", ".join(map(repr, KNOWN))
        raise ValueError(f"aggregate must be one of {known}, got {text!r}.")
    return literals.build(text, "aggregate", KNOWN)


def mean() -> Aggregator:
    """The weighted mean of the pushes, sum_i w_i g_i / sum_i w_i.

    A push that is committed alone is applied as it is, for any weight.

    Example:

      >>> import jax.numpy as jnp
      >>> from abs_dssp.training import aggregators
      >>> mean = aggregators.mean()
      >>> sums = mean.init(jnp.zeros(2), {}, 1)
      >>> for slope, weight in (([1.0, 0.0], 1.0), ([0.0, 4.0], 3.0)):
      ...     push = aggregators.Arrival(
      ...         jnp.array(slope), {}, jnp.float32(weight), 0, False, None, None
      ...     )
      ...     sums = mean.accumulate(sums, push)
      >>> print(mean.finalize(sums, {})[0])
      [0.25 3.  ]
    """
    return _weighted(lambda total, scale: total * scale, lambda gradient, _: gradient)


def weighted_sum() -> Aggregator:
    """The weighted sum of the pushes, sum_i w_i g_i; `parse` knows it as `"sum"`.

    Statistics are averaged as under `mean`.
    """

    def single(gradient, weight):
        return jax.tree.map(lambda g: weight.astype(g.dtype) * g, gradient)

    return _weighted(lambda total, _: total, single)


def weighted_count() -> Aggregator:
    """The weighted sum over the number of pushes, sum_i w_i g_i / K.

    `parse` knows it as `"count"`. Weights do not cancel where one push makes a commit,
    as they do under `mean`: staleness-aware rules need that. Statistics are averaged as
    under `mean`.

    Example:

      >>> import jax.numpy as jnp
      >>> from abs_dssp.training import aggregators
      >>> print(aggregators.weighted_count().single(jnp.ones(2), jnp.float32(0.25)))
      [0.25 0.25]
    """
    total = weighted_sum()

    def init(params, stats, num_workers):
        return Counted(total.init(params, stats, num_workers), jnp.float32(0))

    def accumulate(state, arrival):
        return Counted(total.accumulate(state.sums, arrival), state.pushes + 1)

    def finalize(state, stats):
        gradient, stats, sums = total.finalize(state.sums, stats)
        scale = 1 / jnp.maximum(state.pushes, 1)
        gradient = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)
        return gradient, stats, Counted(sums, jnp.float32(0))

    return Aggregator(init, accumulate, finalize, total.single)


def _weighted(scaled, single) -> Aggregator:
    """Sums of weighted pushes; a commit applies `scaled(sum, 1 / sum of weights)`."""

    def init(params, stats, num_workers):
        del num_workers
        return Sums(_zeros(params), _zeros(stats), jnp.float32(0))

    def accumulate(sums, arrival):
        gradient, stats = jax.tree.map(
            lambda total, value: total + arrival.weight.astype(value.dtype) * value,
            (sums.gradient, sums.stats),
            (arrival.gradient, arrival.stats),
        )
        return Sums(gradient, stats, sums.weight + arrival.weight)

    def finalize(sums, stats):
        filled = sums.weight > 0
        scale = jnp.where(filled, 1 / jnp.where(filled, sums.weight, 1), 0)
        gradient = jax.tree.map(
            lambda total: scaled(total, scale.astype(total.dtype)), sums.gradient
        )
        stats = jax.tree.map(
            lambda total, old: jnp.where(filled, total * scale.astype(old.dtype), old),
            *(sums.stats, stats),
        )
        return gradient, stats, _zeros(sums)

    return Aggregator(init, accumulate, finalize, single)


def workers() -> Aggregator:
    """The mean over workers of each one's weighted mean since the last commit.

    Malenia SGD's: unbiased for the mean of the workers' objectives, however many pushes
    each made. Workers without a push do not count. Tyurin and Richtárik, "Optimal Time
    Complexities of Parallel Stochastic Optimization Methods Under a Fixed Computation
    Model", NeurIPS 2023 (arXiv 2305.12387), Algorithm 6.
    """

    def init(params, stats, num_workers):
        return _table((num_workers,), params, stats)

    def accumulate(sums, arrival):
        return _add(sums, (arrival.worker,), arrival, arrival.weight)

    def finalize(sums, stats):
        return *_mean_of_means(sums, stats), _zeros(sums)

    return Aggregator(init, accumulate, finalize)


def table() -> Aggregator:
    """Ringleader ASGD's two tables of gradients, each of one round.

    The weight of a push is the number of its round, 1, 2, 3, ...: the policy decides
    which round a push belongs to, and this aggregator infers nothing else. A push of
    round r goes into the table of round r; if there is none, that table takes the place
    of the one with the lower round. A commit applies the mean over workers of each
    one's (unweighted) mean in the table of the latest push, and empties nothing.

    Maranjyan and Richtárik, "Ringleader ASGD", 2025 (arXiv 2509.22860).
    """

    def init(params, stats, num_workers):
        sums = _table((2, num_workers), params, stats)
        return Tables(sums, jnp.zeros(2, jnp.float32), jnp.int32(0))

    def accumulate(tables, arrival):
        known = tables.round == arrival.weight
        oldest = jnp.argmin(tables.round)
        latest = jnp.where(jnp.any(known), jnp.argmax(known), oldest).astype(jnp.int32)
        sums = jax.lax.cond(
            known[latest],
            lambda sums: sums,
            lambda sums: jax.tree.map(lambda rows: rows.at[latest].set(0), sums),
            tables.sums,
        )
        sums = _add(sums, (latest, arrival.worker), arrival, jnp.float32(1))
        return Tables(sums, tables.round.at[latest].set(arrival.weight), latest)

    def finalize(tables, stats):
        chosen = jax.tree.map(lambda rows: rows[tables.latest], tables.sums)
        return *_mean_of_means(chosen, stats), tables

    return Aggregator(init, accumulate, finalize)


def compensated(strength: float = 0.04, adaptive: bool = False) -> Aggregator:
    """Delay compensation: g + lambda g * g * (w - w_pulled), then the weighted mean.

    Zheng et al., "Asynchronous Stochastic Gradient Descent with Delay Compensation",
    ICML 2017 (arXiv 1609.08326). With `adaptive`, lambda = strength / sqrt(MS + 1e-7)
    elementwise, MS <- 0.95 MS + 0.05 g * g at every push; the paper's strength is 2
    there. The epsilon is ours.

    Args:
      strength: lambda, or lambda_0; at least 0.
      adaptive: whether lambda follows the gradients' size.

    Raises:
      ValueError: for a negative strength.
    """
    if not strength >= 0:
        raise ValueError(f"compensated: strength must be at least 0, got {strength}.")
    average = mean()

    def init(params, stats, num_workers):
        square = _zeros(params) if adaptive else jnp.float32(0)
        return Compensated(average.init(params, stats, num_workers), square)

    def accumulate(state, arrival):
        gradient, square = arrival.gradient, state.square
        by = jax.tree.map(lambda g: jnp.full_like(g, strength), gradient)
        if adaptive:
            square = jax.tree.map(
                lambda old, g: 0.95 * old + 0.05 * g * g, square, gradient
            )
            by = jax.tree.map(lambda ms: strength * jax.lax.rsqrt(ms + 1e-7), square)
        moved = jax.tree.map(
            lambda g, factor, w, old: g + factor * g * g * (w - old),
            *(gradient, by, arrival.present, arrival.pulled),
        )
        sums = average.accumulate(state.sums, arrival._replace(gradient=moved))
        return Compensated(sums, square)

    def finalize(state, stats):
        gradient, stats, sums = average.finalize(state.sums, stats)
        return gradient, stats, Compensated(sums, state.square)

    return Aggregator(init, accumulate, finalize)


KNOWN: dict[str, Callable[..., Aggregator]] = {
    "mean": mean,
    "sum": weighted_sum,
    "count": weighted_count,
    "workers": workers,
    "table": table,
    "compensated": compensated,
}


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, tree)


def _table(axes: tuple[int, ...], params: PyTree, stats: PyTree) -> Table:
    def rows(leaf):
        return jnp.zeros((*axes, *leaf.shape), leaf.dtype)

    weight = jnp.zeros(axes, jnp.float32)
    return Table(jax.tree.map(rows, params), jax.tree.map(rows, stats), weight)


def _add(table: Table, row: tuple[Any, ...], arrival: Arrival, weight) -> Table:
    """Adds a push to the row at this index."""

    def add(rows, value):
        return rows.at[row].add(weight.astype(rows.dtype) * value)

    return Table(
        jax.tree.map(add, table.gradient, arrival.gradient),
        jax.tree.map(add, table.stats, arrival.stats),
        table.weight.at[row].add(weight),
    )


def _mean_of_means(table: Table, stats: PyTree) -> tuple[PyTree, PyTree]:
    """Mean of sum / weight over the filled rows; `stats` as they are if none is."""
    filled = table.weight > 0
    count = jnp.maximum(jnp.sum(filled), 1).astype(jnp.float32)
    scale = jnp.where(filled, 1 / jnp.where(filled, table.weight, 1), 0) / count

    def mean(rows):
        return jnp.tensordot(scale.astype(rows.dtype), rows, axes=1)

    def mean_or(rows, old):
        return jnp.where(jnp.any(filled), mean(rows), old)

    averaged = jax.tree.map(mean_or, table.stats, stats)
    return jax.tree.map(mean, table.gradient), averaged
