"""How a commit combines its pushes, where a weighted mean or sum will not do.

`"mean"` and `"sum"` are built into `update` and `flat`; an `Aggregate` sees more of a
push: who made it, and the version it was computed from. All functions are pure and work
on pytrees, of which one flat vector is one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from abs_dssp import literals

PyTree = Any
BUILT_IN = ("mean", "sum")


class Arrival(NamedTuple):
    """A push as it reaches the server."""

    gradient: PyTree
    stats: PyTree  # BatchNorm statistics; averaged, never compensated
    weight: Float[Array, ""]
    worker: Int[Array, ""]
    committed: Bool[Array, ""]  # whether it causes a commit
    present: PyTree  # parameters of the present version
    pulled: PyTree  # parameters it was computed from


class Aggregate(NamedTuple):
    """What the server keeps between commits, and what a commit applies; static."""

    init: Callable[[PyTree, PyTree, int], PyTree]  # (params, stats, N) -> state
    receive: Callable[[PyTree, Arrival], PyTree]
    commit: Callable[[PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]
    # (state, present stats) -> (gradient, stats, state)


class Table(NamedTuple):
    """Sums by worker."""

    gradient: PyTree  # leaves (N, ...)
    stats: PyTree  # leaves (N, ...)
    weight: Float[Array, " N"]


class Tables(NamedTuple):
    """Ringleader's present and coming table, and who has moved in this round."""

    now: Table
    coming: Table
    moved: Bool[Array, " N"]


class Compensated(NamedTuple):
    """Sums of compensated pushes, and the running mean square of the gradients."""

    gradient: PyTree
    stats: PyTree
    weight: Float[Array, ""]
    square: PyTree  # 0-d where lambda is constant


@functools.cache
def parse(text: str) -> Aggregate | None:
    """The aggregate that `text` names; None for `"mean"` and `"sum"`.

    Raises:
      ValueError: for an unknown name or argument (the known ones are listed).
    """
    if text in BUILT_IN:
        return None
    try:
        name = literals.parse_call(text, "aggregate").name
    except ValueError:
        name = ""
    if name not in KNOWN:
        known = ", ".join([*(repr(name) for name in BUILT_IN), *KNOWN])
        raise ValueError(f"aggregate must be one of {known}, got {text!r}.")
    return literals.build(text, "aggregate", KNOWN)


def workers() -> Aggregate:
    """The mean over workers of each one's weighted mean since the last commit.

    Malenia SGD's: unbiased for the mean of the workers' objectives, however many pushes
    each made. Workers without a push do not count.
    """

    def init(params, stats, num_workers):
        return _table(params, stats, num_workers)

    def commit(table, stats):
        gradient, stats = _mean_of_means(table, stats)
        return gradient, stats, jax.tree.map(jnp.zeros_like, table)

    return Aggregate(init, _add, commit)


def table() -> Aggregate:
    """Ringleader ASGD's two tables: a commit applies the mean of means of the first.

    A commit's push goes into the present table; one without a commit into the present
    table while nobody has moved, and else into the next one. A commit by a worker that
    has moved already begins a new round: the next table becomes the present one.
    """

    def init(params, stats, num_workers):
        empty = _table(params, stats, num_workers)
        return Tables(empty, empty, jnp.zeros(num_workers, bool))

    def receive(tables, arrival):
        new = arrival.committed & tables.moved[arrival.worker]
        empty = jax.tree.map(jnp.zeros_like, tables.coming)
        now = _choose(new, tables.coming, tables.now)
        coming = _choose(new, empty, tables.coming)
        moved = tables.moved & ~new
        later = ~arrival.committed & jnp.any(moved)
        mine = jnp.arange(moved.shape[0], dtype=jnp.int32) == arrival.worker
        return Tables(
            _choose(later, now, _add(now, arrival)),
            _choose(later, _add(coming, arrival), coming),
            moved | (mine & arrival.committed),
        )

    def commit(tables, stats):
        gradient, stats = _mean_of_means(tables.now, stats)
        return gradient, stats, tables

    return Aggregate(init, receive, commit)


def compensated(strength: float = 0.04, adaptive: bool = False) -> Aggregate:
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
    if strength < 0:
        raise ValueError(f"compensated: strength must be at least 0, got {strength}.")

    def init(params, stats, num_workers):
        del num_workers
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        square = zeros(params) if adaptive else jnp.float32(0)
        return Compensated(zeros(params), zeros(stats), jnp.float32(0), square)

    def receive(state, arrival):
        gradient, square = arrival.gradient, state.square
        if adaptive:
            square = jax.tree.map(
                lambda old, g: 0.95 * old + 0.05 * g * g, square, gradient
            )
            strengths = jax.tree.map(
                lambda mean: strength * jax.lax.rsqrt(mean + 1e-7), square
            )
        else:
            strengths = jax.tree.map(lambda g: jnp.full_like(g, strength), gradient)
        moved = jax.tree.map(
            lambda g, by, w, old: g + by * g * g * (w - old),
            gradient, strengths, arrival.present, arrival.pulled,
        )  # fmt: skip
        used = arrival.weight > 0
        return Compensated(
            _weighted(state.gradient, moved, arrival.weight),
            _weighted(state.stats, arrival.stats, arrival.weight),
            state.weight + arrival.weight,
            _choose(used, square, state.square),
        )

    def commit(state, stats):
        positive = state.weight > 0
        scale = jnp.where(positive, 1 / jnp.where(positive, state.weight, 1), 0)
        gradient = jax.tree.map(lambda total: total * scale, state.gradient)
        mean = jax.tree.map(lambda total: total * scale, state.stats)
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        return (
            gradient,
            _choose(positive, mean, stats),
            Compensated(
                zeros(state.gradient),
                zeros(state.stats),
                jnp.float32(0),
                state.square,
            ),
        )

    return Aggregate(init, receive, commit)


KNOWN: dict[str, Callable[..., Aggregate]] = {
    "compensated": compensated,
    "table": table,
    "workers": workers,
}


def _table(params, stats, num_workers: int) -> Table:
    def rows(leaf):
        return jnp.zeros((num_workers, *leaf.shape), leaf.dtype)

    return Table(
        jax.tree.map(rows, params),
        jax.tree.map(rows, stats),
        jnp.zeros(num_workers, jnp.float32),
    )


def _add(table: Table, arrival: Arrival) -> Table:
    def add(rows, value):
        share = jnp.where(arrival.weight > 0, arrival.weight * value, 0)
        return rows.at[arrival.worker].add(share.astype(rows.dtype))

    return Table(
        jax.tree.map(add, table.gradient, arrival.gradient),
        jax.tree.map(add, table.stats, arrival.stats),
        table.weight.at[arrival.worker].add(arrival.weight),
    )


def _mean_of_means(table: Table, stats):
    filled = table.weight > 0
    count = jnp.maximum(jnp.sum(filled), 1).astype(jnp.float32)
    scale = jnp.where(filled, 1 / jnp.where(filled, table.weight, 1), 0) / count

    def mean(rows):
        return jnp.tensordot(scale.astype(rows.dtype), rows, axes=1)

    gradient = jax.tree.map(mean, table.gradient)
    averaged = jax.tree.map(mean, table.stats)
    return gradient, _choose(jnp.any(filled), averaged, stats)


def _weighted(total, value, weight):
    return jax.tree.map(
        lambda t, v: t + jnp.where(weight > 0, weight * v, 0).astype(t.dtype),
        total, value,
    )  # fmt: skip


def _choose(condition, one, other):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
