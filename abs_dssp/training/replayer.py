"""Replay: a trace and a seed determine the parameters.

Only the max-staleness + 1 latest versions are kept, never one copy per worker. Pushes
whose pulled versions exist already can be computed side by side (a wavefront); width 1
gives the sequential order that a real server follows. Batches and random keys are
functions of (seed, worker, clock, local step), so it does not matter who computes.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import optax

from abs_dssp import checks, tasks
from abs_dssp.history import traces
from abs_dssp.history.fragments import FragmentedTrace
from abs_dssp.history.traces import Trace
from abs_dssp.tasks import fragmenting, splitting
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import (
    engines,
    fragmented,
    identity,
    named_optimizers,
)
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
from abs_dssp.training.driver import Progress, Result, Run, columns
from abs_dssp.training.fragment_engine import FragmentEngine


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
