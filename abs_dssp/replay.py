"""Replay: a trace and a seed determine the parameters.

The server's work is one compiled loop over the rows of the trace (on a CPU, where XLA
runs the gradients of convolutions several times slower inside a loop, the host calls
the compiled step row by row if there are convolutions). Versions that a later
push was computed from are kept in a ring of max-staleness + 1 slots, never in N copies.
Pushes whose pulled versions exist already can be computed side by side (a wavefront);
width 1 gives the sequential order that a real server follows. Batches and random keys
are functions of (seed, worker, clock, local step), so it does not matter who computes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from abs_dssp import checkpoints, history, traces, update
from abs_dssp.history import History
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.traces import Trace

Progress = Callable[[int, int, Mapping[str, float]], None]  # done, total, last record


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    trace: Trace  # the pushes that were replayed
    variables: Variables  # after the last of them
    history: History
    stopped: str = "end"  # "end", "target", or why the loss was not finite


class Server(NamedTuple):
    """The server between two pushes."""

    ring: Variables  # each leaf with a leading axis of slots; version v at v % slots
    optimizer: Any
    sums: Any  # Accumulated; () where every push is committed alone
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


def replay(
    task: Task,
    optimizer: optax.GradientTransformation,
    trace: Trace,
    seed: int = 0,
    *,
    local_optimizer: optax.GradientTransformation | None = None,
    local_steps: int | None = None,
    aggregate: str = "mean",
    width: int | None = None,
    slots: int | None = None,
    loop: str = "auto",
    eval_every_commits: int | None = None,
    eval_every_seconds: float | None = None,
    target_accuracy: float | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """The parameters and measurements that a trace leads to.

    Args:
      task: model and data; must have as many workers as the trace.
      optimizer: the server's; `optimizers.sgd` has schedules on either clock.
      trace: who pushed what when.
      seed: for the initial parameters, the batches and the tasks' noise.
      local_optimizer: see `update.rule`.
      local_steps: U; the trace's by default.
      aggregate: `"mean"` or `"sum"`, see `update.rule`.
      width: gradients computed side by side; 1 on a CPU and N elsewhere by default.
      slots: versions kept at least, so that several traces share one compiled program;
        as many as the trace needs by default.
      loop: `"compiled"`, `"host"`, or `"auto"`: what is faster, see above.
      eval_every_commits: evaluate after every so many commits.
      eval_every_seconds: evaluate at every multiple of this virtual time.
      target_accuracy: stop at the first evaluation of at least this accuracy.
      checkpoint_dir: where to save the state; a run found there is resumed.
      checkpoint_every: pushes between two saves; at every evaluation by default.
      progress: called after every piece with (pushes done, pushes in all, record).

    Returns:
      A `Result`. A loss that is not finite ends the run; `Result.stopped` says at
      which push, worker and staleness.

    Raises:
      ValueError: if task and trace do not fit, or for a setting out of range.
    """
    if task.num_workers != trace.num_workers:
        raise ValueError(
            f"replay: the trace has {trace.num_workers} workers, "
            f"the task {task.num_workers}."
        )
    steps = trace.local_steps if local_steps is None else local_steps
    rule = update.rule(optimizer, local_optimizer, steps, aggregate)
    needed = int(trace.staleness.max(initial=0)) + 1
    slots = max(needed, slots or 0)
    alone = bool(np.all(trace.committed & trace.accepted))
    engine = Engine(task, rule, seed, slots, len(trace), alone, width, loop)
    run = Run(
        engine,
        eval_every_commits=eval_every_commits,
        eval_every_seconds=eval_every_seconds,
        target_accuracy=target_accuracy,
        store=checkpoints.open_store(
            checkpoint_dir,
            traces.fingerprint(trace) + f" seed={seed} {rule.local_steps} {aggregate}",
        ),
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    run.resume()
    run.follow(trace, total=len(trace), final=True)
    return run.result(trace)


class Engine:
    """Compiled loop, its rows and the server's state. Owns device buffers it donates.

    Not thread-safe; the caller's thread uses it.
    """

    def __init__(
        self,
        task: Task,
        rule: update.Rule,
        seed: int,
        slots: int,
        num_pushes: int,
        alone: bool,
        width: int | None = None,
        loop: str = "auto",
    ):
        if loop not in ("auto", "compiled", "host"):
            raise ValueError(
                f"replay: loop must be 'auto', 'compiled' or 'host', got {loop!r}."
            )
        if width is None:
            width = 1 if jax.default_backend() == "cpu" else task.num_workers
        if width < 1:
            raise ValueError(f"replay: width must be at least 1, got {width}.")
        self.task, self.alone, self.width = task, alone, width
        self.key = jax.random.key(seed)
        self.functions = task._replace(data=None, constants=None)  # hashable
        if loop == "auto":
            slow = jax.default_backend() == "cpu" and width == 1
            slow = slow and _has_convolutions(self.functions, task.data)
            loop = "host" if slow else "compiled"
        self.on_host = loop == "host" and width == 1
        # Local steps are a loop as well.
        self.rule = rule._replace(unroll=self.on_host)
        self.slots = slots
        self.capacity = max(64, 1 << (num_pushes - 1).bit_length())
        self.server = _begin(
            self.functions, rule, slots, self.capacity, alone, self.key
        )
        self.rows: Rows | None = None
        self.columns: Mapping[str, np.ndarray] = {}

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """Gives the loop its rows: all of the trace that is known so far."""
        rows = len(columns["worker"])
        if rows > self.capacity:
            raise ValueError(f"replay: {rows} rows exceed {self.capacity}.")
        samples = self.task.batch_size * self.rule.local_steps
        epochs = history.versions_epochs(
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
        if self.on_host:
            for row in range(start, stop):
                self.server = _run_one(
                    *static, self.task.data, self.key, self.rows, self.server, row
                )
            return
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


class Run:
    """Drives an engine over a trace: evaluations, limits, checkpoints, progress."""

    def __init__(
        self,
        engine: Engine,
        *,
        eval_every_commits: int | None,
        eval_every_seconds: float | None,
        target_accuracy: float | None,
        store: checkpoints.Store | None,
        checkpoint_every: int | None,
        progress: Progress | None,
    ):
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(
                f"checkpoint_every must be at least 1, got {checkpoint_every}."
            )
        self.engine = engine
        self.every = (eval_every_commits, eval_every_seconds)
        self.target_accuracy = target_accuracy
        self.store, self.checkpoint_every = store, checkpoint_every
        self.progress = progress
        self.records: list[dict[str, float]] = []
        self.done = 0  # pushes replayed
        self.stopped = ""
        self.notes: dict[str, Any] = {}  # what a caller wants back after a resume
        self._evaluated = (0, -1.0)  # the last point in (pushes, seconds)
        self._saved = 0

    def resume(self) -> None:
        """Takes up the newest checkpoint, if there is one."""
        if self.store is None:
            return
        found = self.store.latest()
        if found is None:
            return
        note = found.note
        engine = self.engine
        engine.grow(note["slots"], 0)
        engine.reserve(note["capacity"])
        leaves, structure = jax.tree.flatten(engine.server)
        engine.server = jax.tree.unflatten(
            structure,
            [
                jnp.asarray(saved, leaf.dtype)
                for saved, leaf in zip(found.leaves, leaves, strict=True)
            ],
        )
        self.done, self.records = note["done"], note["records"]
        self.stopped, self.notes = note["stopped"], note["notes"]
        self._evaluated = tuple(note["evaluated"])
        self._saved = self.done

    def follow(self, trace: Trace, *, total: int, final: bool) -> None:
        """Replays the rows that have been added, evaluating on the way.

        Args:
          trace: everything that is known of the run.
          total: pushes in all, for the progress.
          final: whether the trace is complete.
        """
        if self.stopped:
            return
        columns = {name: getattr(trace, name) for name in traces.COLUMNS}
        self.engine.load(columns)
        made = history.commits_before(trace.committed)
        points = history.points(trace, *self.every)
        if not final:  # a later row may still arrive at the very time of the last one
            points = [p for p in points if p[1] < trace.seconds]
        due: dict[int, list[float]] = {len(trace): []}
        for row, seconds in points:
            if (row, seconds) > self._evaluated:
                due.setdefault(row, []).append(seconds)
        if self.checkpoint_every is not None:
            marks = range(self.checkpoint_every, len(trace), self.checkpoint_every)
            for row in marks:
                due.setdefault(row, [])
        for row in sorted(r for r in due if r >= self.done):
            if row > self.done:
                self.engine.run(self.done, row)
                self._check(trace, self.done, row)
                self.done = row
            if self.stopped:
                break
            if due[row]:
                self._record(due[row], int(made[row]))
            self._save(bool(due[row]))
            if self.progress is not None:
                self.progress(
                    self.done, total, self.records[-1] if self.records else {}
                )
            if self.stopped:
                break
        if final:
            self.stopped = self.stopped or "end"
        if self.stopped:
            self._save(True, force=True)
            if self.store is not None:
                self.store.close()

    def result(self, trace: Trace) -> Result:
        """What has been replayed, as the caller gets it."""
        version = int(trace.committed[: self.done].sum())
        return Result(
            trace=trace[: self.done],
            variables=self.engine.variables(version),
            history=History(tuple(self.records), self.engine.losses(0, self.done)),
            stopped=self.stopped,
        )

    def _check(self, trace: Trace, start: int, stop: int) -> None:
        bad = np.flatnonzero(~np.isfinite(self.engine.losses(start, stop)))
        if bad.size:
            row = start + int(bad[0])
            loss = float(self.engine.losses(row, row + 1)[0])
            self.stopped = (
                f"loss is {loss} at push {row + 1}: worker {trace.worker[row]}, "
                f"clock {trace.clock[row]}, staleness {trace.staleness[row]}, "
                f"{trace.time[row]:.6g} s"
            )

    def _record(self, times: list[float], version: int) -> None:
        task = self.engine.task
        samples = task.batch_size * self.engine.rule.local_steps
        basic = {
            "push": self.done,
            "version": version,
            "epoch": self.done * samples / task.samples_per_epoch,
        }
        measures = self.engine.evaluate(version)
        self.records += [basic | {"seconds": t} | measures for t in sorted(times)]
        self._evaluated = (self.done, max(times))
        accuracy = measures.get("accuracy", -math.inf)
        if self.target_accuracy is not None and accuracy >= self.target_accuracy:
            self.stopped = "target"

    def _save(self, evaluated: bool, force: bool = False) -> None:
        if self.store is None or self.done == self._saved:
            return
        every = self.checkpoint_every
        due = evaluated if every is None else self.done - self._saved >= every
        if due or force:
            note = {
                "slots": self.engine.slots,
                "capacity": self.engine.capacity,
                "done": self.done,
                "records": self.records,
                "stopped": self.stopped,
                "notes": self.notes,
                "evaluated": list(self._evaluated),
            }
            self.store.save(self.done, jax.tree.leaves(self.engine.server), note)
            self._saved = self.done


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


def _has_convolutions(functions: Task, data) -> bool:
    """Whether the loss of a task uses convolutions."""

    def value(data, key):
        variables = functions.init(key)
        batch = functions.batch(data, key, jnp.int32(0), jnp.int32(0))
        return functions.loss(variables, batch, key)

    return "conv_general_dilated" in str(jax.make_jaxpr(value)(data, jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _begin(functions, rule, slots, capacity, alone, key) -> Server:
    variables = functions.init(key)
    ring = jax.tree.map(
        lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype).at[0].set(leaf),
        variables,
    )
    return Server(
        ring=ring,
        optimizer=rule.optimizer.init(variables.params),
        sums=() if alone else update.nothing(variables),
        losses=jnp.full(capacity, jnp.nan, jnp.float32),
    )


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


def _push(functions, rule, data, key, ring, row: Rows) -> update.Push:
    slots = jax.tree.leaves(ring)[0].shape[0]
    origin = update.Origin(row.worker, row.clock, row.pulled, row.pulled_epoch)
    pulled = _slot(ring, row.pulled % slots)
    return update.compute_push(rule, functions, data, key, pulled, origin)


def _receive(rule, alone: bool, server: Server, row: Rows, push, place) -> Server:
    """What the server does with one push."""
    slots = jax.tree.leaves(server.ring)[0].shape[0]
    current = _slot(server.ring, row.version % slots)
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
        sums = update.accumulate(server.sums, push, row.weight)

        def commit(sums, optimizer):
            variables, optimizer = update.commit(
                rule, current, optimizer, sums, row.epoch, row.version
            )
            return variables, optimizer, update.nothing(current)

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


_run_one = jax.jit(_row, static_argnums=(0, 1, 2), donate_argnums=(6,))


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
