"""The server's arithmetic, compiled: rows of a trace in, parameters out.

`Engine` is one compiled loop over the rows; `make` chooses between it and `HostEngine`.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import aggregators, evaluation, flat, update
from abs_dssp.training.row_by_row import HostEngine


class Server(NamedTuple):
    """The server between two pushes."""

    ring: Variables  # each leaf with a leading axis of slots; version v at v % slots
    optimizer: Any
    sums: Any  # Accumulated, an aggregate's state, or () where all commit alone
    losses: Float[Array, " C"]  # training loss of every push; NaN before it came


class Rows(NamedTuple):
    """The trace as the compiled loop reads it, padded to its capacity C."""

    worker: Int[Array, " C"]
    clock: Int[Array, " C"]
    pulled: Int[Array, " C"]
    version: Int[Array, " C"]
    weight: Float[Array, " C"]
    committed: Array  # bool (C,)
    epoch: Float[Array, " C"]  # of `version`
    pulled_epoch: Float[Array, " C"]  # of `pulled`


class Engine:
    """Compiled loop, its rows and the server's state. Owns device buffers it donates.

    Not thread-safe; the caller's thread uses it.
    """

    on_host = False

    def __init__(
        self,
        task: Task,
        rule: update.Rule,
        seed: int,
        slots: int,
        num_pushes: int,
        alone: bool,
        width: int = 1,
    ):
        self.task, self.width = task, width
        self.alone = alone and aggregators.parse(rule.aggregate) is None
        self.key = jax.random.key(seed)
        self.functions = task._replace(data=None, constants=None)  # hashable
        self.rule = rule
        self.slots = slots
        self.capacity = max(64, 1 << (num_pushes - 1).bit_length())
        self.server = _begin(
            self.functions, rule, slots, self.capacity, self.alone, self.key
        )
        self.rows: Rows | None = None
        self.columns: Mapping[str, np.ndarray] = {}

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """Gives the loop its rows: all of the trace that is known so far."""
        rows = len(columns["worker"])
        if rows > self.capacity:
            raise ValueError(f"replay: {rows} rows exceed {self.capacity}.")
        samples = self.task.batch_size * self.rule.local_steps
        epochs = evaluation.versions_epochs(
            columns["committed"], samples, self.task.samples_per_epoch
        )

        def pad(values, dtype):
            padded = np.zeros(self.capacity, dtype)
            padded[:rows] = values
            return jnp.asarray(padded)

        self.columns = columns
        self.rows = Rows(
            worker=pad(columns["worker"], np.int32),
            clock=pad(columns["clock"], np.int32),
            pulled=pad(columns["pulled"], np.int32),
            version=pad(columns["version"], np.int32),
            weight=pad(columns["weight"], np.float32),
            committed=pad(columns["committed"], bool),
            epoch=pad(epochs[columns["version"]], np.float32),
            pulled_epoch=pad(epochs[columns["pulled"]], np.float32),
        )

    def run(self, start: int, stop: int) -> None:
        """Computes and applies the rows `start` up to, not including, `stop`."""
        assert self.rows is not None
        static = (self.functions, self.rule, self.alone)
        if self.width == 1:
            self.server = _run(
                *static, self.task.data, self.key, self.rows, self.server, start, stop
            )
            return
        first, count = wavefronts(
            self.columns["pulled"], self.columns["version"], start, stop, self.width
        )
        size = 1 << max(0, len(first) - 1).bit_length()
        pad = (0, size - len(first))
        self.server = _run_wide(
            *static,
            self.width,
            self.task.data,
            self.key,
            self.rows,
            self.server,
            jnp.asarray(np.pad(first, pad)),
            jnp.asarray(np.pad(count, pad)),
            len(first),
        )

    def variables(self, version: int) -> Variables:
        """A copy of a version that is still kept."""
        return _slot(self.server.ring, jnp.int32(version % self.slots))

    def evaluate(self, version: int) -> dict[str, float]:
        """The task's measures at a version, as Python floats."""
        measures = _evaluate(
            self.functions,
            self.task.data,
            self.server.ring,
            jnp.int32(version % self.slots),
        )
        return {name: float(value) for name, value in measures.items()}

    def losses(self, start: int, stop: int) -> np.ndarray:
        """Training losses of the rows `start` to `stop`."""
        return np.asarray(self.server.losses)[start:stop]

    def objective(self) -> float:
        """The training objective at version 0."""
        ring = self.server.ring
        return float(_objective(self.functions, self.task.data, ring, jnp.int32(0)))

    def reserve(self, num_pushes: int) -> None:
        """Makes room for so many rows."""
        if num_pushes > self.capacity:
            capacity = 1 << (num_pushes - 1).bit_length()
            longer = jnp.full(capacity, jnp.nan, jnp.float32)
            losses = longer.at[: self.capacity].set(self.server.losses)
            self.server = self.server._replace(losses=losses)
            self.capacity = capacity

    def grow(self, slots: int, version: int) -> None:
        """Keeps more versions from now on; `version` is the present one."""
        if slots <= self.slots:
            return
        kept = np.arange(max(0, version - self.slots + 1), version + 1)
        source, target = kept % self.slots, kept % slots

        def move(leaf):
            larger = jnp.zeros((slots, *leaf.shape[1:]), leaf.dtype)
            return larger.at[target].set(leaf[source])

        self.server = self.server._replace(ring=jax.tree.map(move, self.server.ring))
        self.slots = slots


def make(
    task: Task,
    rule: update.Rule,
    seed: int,
    slots: int,
    num_pushes: int,
    alone: bool,
    width: int | None = None,
    loop: str = "auto",
    *,
    formats: flat.Wire = flat.Wire(),  # noqa: B008
    recorded: bool = False,
) -> Engine | HostEngine:
    """The engine for a trace.

    Args:
      task: model and data.
      rule: how pushes become updates.
      seed: of the run.
      slots: versions to keep.
      num_pushes: rows, at least.
      alone: whether every push is committed alone.
      width: gradients computed side by side; 1 on a CPU and N elsewhere by default.
      loop: `"compiled"`, `"host"` or `"auto"`.
      formats: of what travelled; other than float32 only on the host.
      recorded: whether a cluster wrote the trace, so that its bits are wanted.

    Raises:
      ValueError: for an unknown loop, or settings that exclude each other.
    """
    if loop not in ("auto", "compiled", "host"):
        raise ValueError(
            f"replay: loop must be 'auto', 'compiled' or 'host', got {loop!r}."
        )
    if width is not None and width < 1:
        raise ValueError(f"replay: width must be at least 1, got {width}.")
    cpu = jax.default_backend() == "cpu"
    recorded = recorded or formats != flat.Wire()
    if loop == "auto":
        slow = recorded or (cpu and _has_convolutions(task))
        loop = "host" if slow and width in (None, 1) else "compiled"
    if loop == "host":
        if width not in (None, 1):
            raise ValueError(f"replay: loop 'host' has width 1, got {width}.")
        return HostEngine(task, rule, seed, slots, formats)
    if formats != flat.Wire():
        raise ValueError("replay: formats other than float32 need loop='host'.")
    width = width or (1 if cpu else task.num_workers)
    return Engine(task, rule, seed, slots, num_pushes, alone, width)


def wavefronts(
    pulled: np.ndarray, version: np.ndarray, start: int, stop: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows into runs whose pulled versions exist before the run begins.

    Args:
      pulled: version each push was computed from.
      version: version on each arrival.
      start: first row.
      stop: row after the last.
      width: longest run.

    Returns:
      First row and length of every run, int32.
    """
    first, count = [], []
    row = start
    while row < stop:
        end = row + 1
        while end < min(stop, row + width) and pulled[end] <= version[row]:
            end += 1
        first.append(row)
        count.append(end - row)
        row = end
    return np.array(first, np.int32), np.array(count, np.int32)


def _has_convolutions(task: Task) -> bool:
    """Whether the loss of a task uses convolutions."""
    functions, data = task._replace(data=None, constants=None), task.data

    def value(data, key):
        variables = functions.init(key)
        batch = functions.batch(data, key, jnp.int32(0), jnp.int32(0))
        return functions.loss(variables, batch, key)

    return "conv_general_dilated" in str(jax.make_jaxpr(value)(data, jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _begin(functions, rule, slots, capacity, alone, key) -> Server:
    # Constants are not to be folded through a ring of thousands of versions.
    variables = jax.lax.optimization_barrier(functions.init(key))
    ring = jax.tree.map(
        lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype).at[0].set(leaf),
        variables,
    )
    return Server(
        ring=ring,
        optimizer=rule.optimizer.init(variables.params),
        sums=() if alone else _nothing(functions, rule, variables),
        losses=jnp.full(capacity, jnp.nan, jnp.float32),
    )


def _nothing(functions, rule, variables):
    """What the server holds before the first push."""
    aggregate = aggregators.parse(rule.aggregate)
    if aggregate is None:
        return update.nothing(variables)
    return aggregate.init(variables.params, variables.stats, functions.num_workers)


@jax.jit
def _slot(ring, slot) -> Variables:
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, slot, keepdims=False), ring
    )


@functools.partial(jax.jit, static_argnums=(0,))
def _evaluate(functions, data, ring, slot):
    return functions.evaluate(data, _slot(ring, slot))


@functools.partial(jax.jit, static_argnums=(0,))
def _objective(functions, data, ring, slot):
    return functions.objective(data, _slot(ring, slot))


def _read(ring, version) -> Variables:
    """A version out of the ring, inside the loop.

    A conditional is never fused. Were this read fused into whatever uses it, XLA could
    not tell that all reads come before the write, and copied the whole ring at every
    push: 0.40 instead of 0.11 ms for 3,200 versions of 1,000 numbers.
    """
    slots = jax.tree.leaves(ring)[0].shape[0]

    def nothing(ring):
        return jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), ring)

    return jax.lax.cond(
        version >= 0, lambda ring: _slot(ring, version % slots), nothing, ring
    )


def _push(functions, rule, data, key, ring, row: Rows) -> update.Push:
    origin = update.Origin(row.worker, row.clock, row.pulled, row.pulled_epoch)
    pulled = _read(ring, row.pulled)
    return update.compute_push(rule, functions, data, key, pulled, origin)


def _receive(rule, alone: bool, server: Server, row: Rows, push, place) -> Server:
    """What the server does with one push."""
    slots = jax.tree.leaves(server.ring)[0].shape[0]
    current = _read(server.ring, row.version)
    if alone:
        gradient = push.gradient
        if rule.aggregate == "sum":
            gradient = jax.tree.map(lambda g: row.weight * g, gradient)
        variables, optimizer = update.apply(
            rule, current, server.optimizer, gradient, push.stats,
            row.epoch, row.version,
        )  # fmt: skip
        sums: Any = ()
    else:
        aggregate = aggregators.parse(rule.aggregate)
        if aggregate is None:
            sums = update.accumulate(server.sums, push, row.weight)
        else:
            arrival = aggregators.Arrival(
                push.gradient, push.stats, row.weight, row.worker, row.committed,
                current.params, _read(server.ring, row.pulled).params,
            )  # fmt: skip
            sums = aggregate.receive(server.sums, arrival)

        def commit(sums, optimizer):
            if aggregate is None:
                variables, optimizer = update.commit(
                    rule, current, optimizer, sums, row.epoch, row.version
                )
                return variables, optimizer, update.nothing(current)
            gradient, stats, sums = aggregate.commit(sums, current.stats)
            variables, optimizer = update.apply(
                rule, current, optimizer, gradient, stats, row.epoch, row.version
            )
            return variables, optimizer, sums

        def keep(sums, optimizer):
            return current, optimizer, sums

        variables, optimizer, sums = jax.lax.cond(
            row.committed, commit, keep, sums, server.optimizer
        )
    slot = (row.version + row.committed.astype(jnp.int32)) % slots
    ring = jax.tree.map(
        lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, slot, 0),
        server.ring,
        variables,
    )
    return Server(ring, optimizer, sums, server.losses.at[place].set(push.loss))


def _row(functions, rule, alone, data, key, rows, server, i) -> Server:
    row = jax.tree.map(lambda column: column[i], rows)
    push = _push(functions, rule, data, key, server.ring, row)
    return _receive(rule, alone, server, row, push, i)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(6,))
def _run(functions, rule, alone, data, key, rows, server, start, stop) -> Server:
    def one(i, server):
        return _row(functions, rule, alone, data, key, rows, server, i)

    return jax.lax.fori_loop(start, stop, one, server)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(7,))
def _run_wide(
    functions, rule, alone, width, data, key, rows, server, first, count, num_runs
) -> Server:
    def some(number, server):
        capacity = rows.worker.shape[0]
        places = first[number] + jnp.arange(width, dtype=jnp.int32)
        # Rows past the run's end are computed and not used.
        wave = jax.tree.map(
            lambda column: column[jnp.minimum(places, capacity - 1)], rows
        )
        pushes = jax.vmap(
            lambda row: _push(functions, rule, data, key, server.ring, row)
        )(wave)

        def one(i, server):
            row, push = jax.tree.map(lambda leaf: leaf[i], (wave, pushes))
            return _receive(rule, alone, server, row, push, places[i])

        return jax.lax.fori_loop(0, count[number], one, server)

    return jax.lax.fori_loop(0, num_runs, some, server)
