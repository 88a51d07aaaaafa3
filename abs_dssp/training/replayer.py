"""Replay: a trace and a seed determine the parameters.

Only the max-staleness + 1 latest versions are kept, never one copy per worker. Pushes
whose pulled versions exist already can be computed side by side (a wavefront); width 1
gives the sequential order that a real server follows. Batches and random keys are
functions of (seed, worker, clock, local step), so it does not matter who computes.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import Bool

from abs_dssp import checks, markup, tasks
from abs_dssp.history import traces
from abs_dssp.history.fragments import FragmentedTrace
from abs_dssp.history.traces import Trace
from abs_dssp.tasks import fragmenting, splitting
from abs_dssp.tasks.base import Task, Variables, require_accuracy
from abs_dssp.training import (
    engines,
    evaluation,
    fragmented,
    identity,
    named_optimizers,
)
from abs_dssp.training.checkpoints import Checkpoint, Store
from abs_dssp.training.compiled import CompiledEngine
from abs_dssp.training.config import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    Every,
    ReplayConfig,
    UpdateConfig,
    Wire,
)
from abs_dssp.training.evaluation import History
from abs_dssp.training.fragment_engine import FragmentEngine

Progress = Callable[[int, int, Mapping[str, float]], None]  # done, total, last record


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes:
      trace: the pushes that were replayed.
      variables: `params` and `stats` after the last of them, as pytrees.
      history: what was evaluated on the way: `last("accuracy")`, `column("loss")`,
        `first_reaching(0.9)`, `to_pandas()`.
      stopped: why it ended: `"end"`, `"target"`, or where the loss was not finite.
      missing: which workers a real run was told to expect and lost, and how; empty if
        none.
    """

    trace: Trace
    variables: Variables
    history: History
    stopped: str = "end"
    missing: str = ""

    def __repr__(self) -> str:
        last = self.history.records[-1] if self.history.records else {}
        shown = [f"{k} {last[k]:.4g}" for k in self.history.names if k in last]
        return f"<Result of {self.trace!r}: {self.stopped}; {', '.join(shown)}>"

    def _repr_html_(self) -> str:
        """A small table of what the run came to, which notebooks show."""
        last = self.history.records[-1] if self.history.records else {}
        measured = {k: last[k] for k in self.history.names if k in last}
        known: dict[str, Any] = {"policy": self.trace.policy, "ended by": self.stopped}
        known |= {"task": self.trace.task} | self.trace.figures | measured
        return markup.table([], [(k, markup.number(v)) for k, v in known.items()])

    def plot(self, **settings: Any) -> Any:
        """Draws a measure against time; see `abs_dssp.plot.curves`."""
        from abs_dssp import plot

        return plot.curves([self], **settings)


def replay(
    task: Task | str,
    optimizer: optax.GradientTransformation | str,
    trace: Trace,
    seed: int = 0,
    *,
    local_optimizer: optax.GradientTransformation | str | None = None,
    local_steps: int | None = None,
    aggregate: str = "mean",
    push: str = "gradients",
    local_state: str = "fresh",
    width: int | None = None,
    slots: int | None = None,
    loop: str = "auto",
    formats: Wire | None = None,
    eval_every_commits: Every | None = None,
    eval_every_seconds: float | None = None,
    target_accuracy: float | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """The parameters and measurements that a trace leads to.

    Args:
      task: model and data, or their text, such as `"digits"`; must have as many workers
        as the trace.
      optimizer: the server's, or its text, such as `"sgd(0.1)"`; `optimizers.sgd` has
        schedules on either clock.
      trace: who pushed what when; one of fragments says what they are.
      seed: for the initial parameters, the batches and the tasks' noise.
      local_optimizer: makes the local steps of a push; the server's by default.
      local_steps: U; the trace's by default.
      aggregate: what a commit makes of its pushes: `"mean"`, `"sum"`, `"count"`,
        `"workers"`, `"table"` or `"compensated(strength=0.04)"`.
      push: what a worker sends: the sum of its `"gradients"`, or the `"displacement"`
        of its parameters by the local optimiser; see `config.UpdateConfig`.
      local_state: whether the local optimiser starts `"fresh"` at every pull, or every
        worker's is `"kept"`.
      width: gradients computed side by side; 1 on a CPU and N elsewhere by default.
      slots: versions kept at least, so that several traces share one compiled program;
        as many as the trace needs by default.
      loop: `"compiled"`, `"host"`, or `"auto"`: what gives the bits of the run if a
        cluster recorded the trace, and what is faster otherwise.
      formats: number formats of pushes and pulls in that run; float32 by default.
      eval_every_commits: evaluate after every so many commits, or after these.
      eval_every_seconds: evaluate at every multiple of this virtual time.
      target_accuracy: stop at the first evaluation of at least this accuracy.
      checkpoint_dir: where to save the state; a run found there is resumed.
      checkpoint_every: pushes between two saves; at every evaluation by default.
      progress: called after every piece with (pushes done, pushes in all, record).

    Returns:
      A `Result`. A loss that is not finite ends the run; `Result.stopped` says at
      which push, worker and staleness.

    Raises:
      TypeError: for an argument of another kind.
      ValueError: if task and trace do not fit, for a setting out of range, a text that
        cannot be read, or if `checkpoint_dir` holds another run.

    Example:

      >>> from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
      >>> task = tasks.quadratic(2, dim=3, noise=0.0)
      >>> trace = simulate.schedule(policies.bsp(2), delays.constant([1.0, 2.0]), 20)
      >>> result = replay.replay(task, optimizers.sgd(0.1), trace)
      >>> result.history.last("version")
      10.0
    """
    task = fitting("replay", task, trace)
    require_origin("replay", seed, progress)
    steps = trace.local_steps if local_steps is None else local_steps
    kinds = (aggregate, push, local_state)
    config = ReplayConfig(
        update_config("replay", optimizer, local_optimizer, steps, kinds),
        EngineConfig(width, 1 if slots is None else slots, loop, formats or Wire()),
        EvaluationConfig(eval_every_commits, eval_every_seconds, target_accuracy),
        CheckpointConfig(checkpoint_dir, checkpoint_every),
    )
    return run(task, trace, seed, config, progress)


def run(
    task: Task,
    trace: Trace,
    seed: int,
    config: ReplayConfig,
    progress: Progress | None = None,
) -> Result:
    """`replay` with its settings as one value; keeps the versions the trace needs."""
    require_same_workers(task, trace)
    if trace.num_fragments > 1:
        return _run_fragments(task, trace, seed, config, progress)
    alone = commits_every_push(trace)
    needed = int(trace.staleness.max(initial=0)) + 1
    chosen = dataclasses.replace(
        config.engine,
        num_versions=max(needed, config.engine.num_versions),
        recorded=trace.recorded,
        split=splitting.read(trace.split),
    )
    engine = engines.make(task, config.update, seed, len(trace), alone, chosen)
    known = (traces.fingerprint(trace), engine.loop, tuple(chosen.formats))
    driver = Run(engine, config, progress)
    driver.open(lambda: identity.of_run(task, config.update, seed, *known))
    driver.follow(trace, total=len(trace), final=True)
    return driver.result(trace)


def _run_fragments(
    task: Task,
    trace: Trace,
    seed: int,
    config: ReplayConfig,
    progress: Progress | None,
) -> Result:
    assert isinstance(trace, FragmentedTrace)
    fragmented.require_displacement("replay", config.update)
    if config.engine.loop == "compiled" or config.engine.width not in (None, 1):
        raise ValueError(
            "replay: fragments are computed row by row, with loop='host' and width 1, "
            f"got {config.engine.loop!r} and {config.engine.width}."
        )
    names = trace.names or fragmenting.of_task(task, trace.num_fragments).names
    division = fragmented.Division(task, config.update, names)
    formats = config.engine.formats
    engine = FragmentEngine(task, config.update, seed, division, formats)
    known = (traces.fingerprint(trace), tuple(formats))
    driver = Run(engine, config, progress)
    driver.open(lambda: identity.of_run(task, config.update, seed, *known))
    driver.follow(trace, total=len(trace), final=True)
    return driver.result(trace)


def trajectory(
    task: Task | str,
    optimizer: optax.GradientTransformation | str,
    trace: Trace,
    seed: int = 0,
    *,
    local_optimizer: optax.GradientTransformation | str | None = None,
    aggregate: str = "mean",
    push: str = "gradients",
    local_state: str = "fresh",
) -> Variables:
    """Every version that a trace leads to, stacked: what theory is tested on.

    Args:
      task: model and data; must have as many workers as the trace.
      optimizer: the server's.
      trace: who pushed what when.
      seed: see `replay`.
      local_optimizer: see `replay`.
      aggregate: see `replay`.
      push: see `replay`.
      local_state: see `replay`.

    Returns:
      Variables whose leaves have a leading axis of `trace.commits + 1` versions.

    Raises:
      ValueError: if task and trace do not fit.

    Example:

      >>> from abs_dssp import delays, optimizers, policies, replay, simulate, tasks
      >>> task = tasks.quadratic(2, dim=3)
      >>> trace = simulate.schedule(policies.asp(2), delays.constant([1.0, 2.0]), 5)
      >>> replay.trajectory(task, optimizers.sgd(0.1), trace).params.shape
      (6, 3)
    """
    task = fitting("trajectory", task, trace)
    traces.require_one_history("trajectory", trace)
    require_origin("trajectory", seed, None)
    kinds = (aggregate, push, local_state)
    update = update_config(
        "trajectory", optimizer, local_optimizer, trace.local_steps, kinds
    )
    alone = commits_every_push(trace)
    versions = trace.commits + 1
    engine = CompiledEngine(task, update, seed, versions, len(trace), alone)
    engine.load(columns(trace))
    engine.run(0, len(trace))
    return engine.server.ring


def require_same_workers(task: Task, trace: Trace) -> None:
    """Refuses a trace of other workers than a task's."""
    counts = {"trace": trace.num_workers, "task": task.num_workers}
    checks.same_workers("replay", **counts)


def fitting(where: str, task: Task | str, trace: Trace) -> Task:
    """The task, for as many workers as the trace has."""
    checks.kind(where, "trace", trace, Trace, "traces.Trace.load('trace.npz')")
    if isinstance(task, Task):
        require_same_workers(task, trace)
    return tasks.resolve(task, trace.num_workers, where)


def update_config(
    where: str,
    optimizer: optax.GradientTransformation | str,
    local_optimizer: optax.GradientTransformation | str | None,
    local_steps: int,
    kinds: tuple[str, str, str],
) -> UpdateConfig:
    """The settings of the updates, of objects or texts; see `UpdateConfig`.

    Args:
      where: the caller's name, for messages.
      optimizer: the server's.
      local_optimizer: of the local steps.
      local_steps: U.
      kinds: aggregate, push and local state.
    """
    server = named_optimizers.resolve(optimizer, where)
    local = local_optimizer
    if local is not None:
        local = named_optimizers.resolve(local, where, "local_optimizer")
    return UpdateConfig(server, local, local_steps, *kinds)


def require_origin(where: str, seed: int, progress: Any) -> None:
    """Refuses a seed that is no whole number, and a progress that cannot be called."""
    checks.whole(where, "seed", seed)
    if progress is not None:
        what = "(pushes done, pushes in all, last record)"
        checks.function(where, "progress", progress, what)


def commits_every_push(trace: Trace) -> bool:
    """Whether every push is accepted and committed alone."""
    return bool(np.all(trace.committed & trace.accepted))


def columns(trace: Trace) -> dict[str, Any]:
    """What an engine loads of a trace."""
    if isinstance(trace, FragmentedTrace):
        return trace.columns | {"takes": trace.takes, "overlap": trace.overlap}
    return trace.columns | {"begins": begins(trace)}


def begins(trace: Trace) -> Bool[np.ndarray, " P"]:
    """The pushes of workers that had made none since they came, or came back.

    With these their local optimisers start anew.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> trace = simulate.schedule(policies.asp(2), delays.constant([1.0, 2.5]), 4)
      >>> trace.worker.tolist(), begins(trace).tolist()
      ([0, 0, 1, 0], [True, False, True, False])
    """
    first = np.zeros(len(trace), bool)
    for rows in traces.rows_of_workers(trace.worker, trace.num_workers):
        first[rows[:1]] = True
    for event in trace.events:
        if event.kind in ("leave", "join"):
            rest = np.flatnonzero(trace.worker[event.rows :] == event.worker)
            first[event.rows + rest[:1]] = True
    return first


class Run:
    """Drives an engine over a trace: evaluations, limits, checkpoints, progress.

    Attributes:
      engine: computes.
      done: pushes replayed.
      records: evaluations.
      stopped: why the run is over; empty before that.
      notes: what a caller wants to find again after a resume.
    """

    def __init__(
        self,
        engine: engines.Engine | FragmentEngine,
        config: ReplayConfig,
        progress: Progress | None,
    ):
        self.engine, self.done, self.stopped = engine, 0, ""
        self.records: list[dict[str, float]] = []
        self.notes: dict[str, Any] = {}
        self._config, self._progress = config, progress
        target = config.evaluation.target_accuracy
        require_accuracy("train", engine.task, target)
        self._store: Store | None = None
        self._evaluated = (0, -1.0)  # the latest evaluation in (pushes, seconds)
        self._saved = 0  # pushes in the latest checkpoint

    def open(self, identify: Callable[[], str]) -> None:
        """Opens the folder of checkpoints, if one is set, and resumes from it.

        Args:
          identify: gives the run's identity; called only if there is a folder.

        Raises:
          ValueError: if the folder holds another run.
        """
        folder = self._config.checkpoint.folder
        if folder is None:
            return
        self._store = Store(Path(folder), identify())
        saved = self._store.latest()
        if saved is None:
            return
        note = saved.note
        self.engine.restore(Checkpoint(saved.leaves, note["engine"]))
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
        self.engine.load(columns(trace))
        for row, times in self._pieces(trace, final):
            self._advance(trace, row, times)
            self._save(bool(times))
            if self._progress is not None:
                last = self.records[-1] if self.records else {}
                self._progress(self.done, total, last)
            if self.stopped:
                break
        if final:
            self.stopped = self.stopped or "end"
        if self.stopped:
            self._save(True, force=True)

    def _pieces(self, trace: Trace, final: bool) -> list[tuple[int, list[float]]]:
        """Rows to stop at, and the times of the evaluations due there."""
        points = evaluation.points(trace, self._config.evaluation)
        if not final:  # a later row may still arrive at the very time of the last one
            points = [p for p in points if p[1] < trace.seconds]
        due: dict[int, list[float]] = {len(trace): []}
        for row, seconds in points:
            if (row, seconds) > self._evaluated:
                due.setdefault(row, []).append(seconds)
        every = self._config.checkpoint.every
        if every is not None:
            for row in range(every, len(trace), every):
                due.setdefault(row, [])
        return sorted((row, times) for row, times in due.items() if row >= self.done)

    def _advance(self, trace: Trace, row: int, times: list[float]) -> None:
        """Replays up to `row`, and evaluates there for each of `times`."""
        start = self.done
        if row > start:
            self.engine.run(start, row)
            self.done = row
            self.stopped = self._diverged(trace, start, row)
        if times and not self.stopped:
            self._record(times)

    def _diverged(self, trace: Trace, start: int, stop: int) -> str:
        """Says where the loss was not finite; empty if all losses were finite."""
        losses = self.engine.losses(start, stop)
        bad = np.flatnonzero(~np.isfinite(losses))
        if not bad.size:
            return ""
        row = start + int(bad[0])
        return (
            f"loss is {float(losses[bad[0]])} at push {row + 1}: "
            f"worker {trace.worker[row]}, clock {trace.clock[row]}, "
            f"staleness {trace.staleness[row]}, {trace.time[row]:.6g} s"
        )

    def _record(self, times: list[float]) -> None:
        task = self.engine.task
        samples = task.batch_size * self.engine.config.local_steps
        basic = {
            "push": self.done,
            "version": self.engine.version,
            "epoch": self.done * samples / task.samples_per_epoch,
        }
        measures = self.engine.evaluate()
        self.records += [basic | {"seconds": t} | measures for t in sorted(times)]
        self._evaluated = (self.done, max(times))
        target = self._config.evaluation.target_accuracy
        if target is not None and measures.get("accuracy", -math.inf) >= target:
            self.stopped = "target"

    def _save(self, evaluated: bool, force: bool = False) -> None:
        if self._store is None or self.done == self._saved:
            return
        every = self._config.checkpoint.every
        due = evaluated if every is None else self.done - self._saved >= every
        if due or force:
            saved = self.engine.checkpoint()
            names = ("done", "records", "stopped", "notes")
            note = {name: getattr(self, name) for name in names}
            note |= {"engine": saved.note, "evaluated": list(self._evaluated)}
            self._store.save(self.done, saved.leaves, note)
            self._saved = self.done

    def result(self, trace: Trace) -> Result:
        """What has been replayed of a trace."""
        history = History(tuple(self.records), self.engine.losses(0, self.done))
        done = trace[: self.done]
        return Result(done, self.engine.variables(), history, self.stopped)
