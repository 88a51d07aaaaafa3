"""Replay: a trace and a seed determine the parameters.

The server's work is one compiled loop over the rows of the trace. Versions that a later
push was computed from are kept in a ring of max-staleness + 1 slots, never in N copies.
Pushes whose pulled versions exist already can be computed side by side (a wavefront);
width 1 gives the sequential order that a real server follows. Batches and random keys
are functions of (seed, worker, clock, local step), so it does not matter who computes.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp.history import traces
from abs_dssp.history.traces import Trace
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import checkpoints, evaluation, flat, update
from abs_dssp.training import compiled as engines
from abs_dssp.training.compiled import Engine, HostEngine
from abs_dssp.training.evaluation import History

Progress = Callable[[int, int, Mapping[str, float]], None]  # done, total, last record


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    trace: Trace  # the pushes that were replayed
    variables: Variables  # after the last of them
    history: History
    stopped: str = "end"  # "end", "target", or why the loss was not finite


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
    formats: flat.Wire | None = None,
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
      loop: `"compiled"`, `"host"`, or `"auto"`: what gives the bits of the run if a
        cluster recorded the trace, and what is faster otherwise; see `engine`.
      formats: number formats of pushes and pulls in that run; float32 by default.
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
    engine = engines.make(
        task, rule, seed, slots, len(trace), alone, width, loop,
        formats=formats or flat.Wire(), recorded=trace.recorded,
    )  # fmt: skip
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


def trajectory(
    task: Task,
    optimizer: optax.GradientTransformation,
    trace: Trace,
    seed: int = 0,
    *,
    local_optimizer: optax.GradientTransformation | None = None,
    aggregate: str = "mean",
) -> Variables:
    """Every version that a trace leads to, stacked: what theory is tested on.

    Args:
      task: model and data; must have as many workers as the trace.
      optimizer: the server's.
      trace: who pushed what when.
      seed: see `replay`.
      local_optimizer: see `update.rule`.
      aggregate: see `update.rule`.

    Returns:
      Variables whose leaves have a leading axis of `trace.commits + 1` versions.

    Raises:
      ValueError: if task and trace do not fit.
    """
    if task.num_workers != trace.num_workers:
        raise ValueError(
            f"replay: the trace has {trace.num_workers} workers, "
            f"the task {task.num_workers}."
        )
    rule = update.rule(optimizer, local_optimizer, trace.local_steps, aggregate)
    alone = bool(np.all(trace.committed & trace.accepted))
    versions = trace.commits + 1
    engine = Engine(task, rule, seed, versions, len(trace), alone)
    engine.load({name: getattr(trace, name) for name in traces.COLUMNS})
    engine.run(0, len(trace))
    return engine.server.ring


class Run:
    """Drives an engine over a trace: evaluations, limits, checkpoints, progress."""

    def __init__(
        self,
        engine: Engine | HostEngine,
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
        try:
            self._follow(trace, total, final)
        except BaseException:
            # What is being saved ends first: the same folder may be opened at once.
            if self.store is not None:
                self.store.close()
            raise

    def _follow(self, trace: Trace, total: int, final: bool) -> None:
        columns = {name: getattr(trace, name) for name in traces.COLUMNS}
        self.engine.load(columns)
        made = evaluation.commits_before(trace.committed)
        points = evaluation.points(trace, *self.every)
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
