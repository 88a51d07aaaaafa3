"""Training in virtual time: schedule, replay, and again where the loss decides."""

import math
from pathlib import Path
from typing import Any

import optax

from abs_dssp import policies
from abs_dssp.policies import Policy
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import Delays
from abs_dssp.simulation.scheduling import Source
from abs_dssp.tasks.base import Task
from abs_dssp.training import checkpoints, replayer, update
from abs_dssp.training import compiled as engines
from abs_dssp.training.replayer import Progress, Result


def train(
    task: Task,
    policy: Policy,
    delays: Delays,
    optimizer: optax.GradientTransformation,
    num_pushes: int | None = None,
    seed: int = 0,
    *,
    until_seconds: float | None = None,
    until_epochs: float | None = None,
    communication: Communication | None = None,
    local_steps: int = 1,
    local_optimizer: optax.GradientTransformation | None = None,
    aggregate: str = "mean",
    width: int | None = None,
    slots: int | None = None,
    loop: str = "auto",
    loss_every: int | None = None,
    eval_every_commits: int | None = None,
    eval_every_seconds: float | None = None,
    target_accuracy: float | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Trains in virtual time: schedule, then replay.

    A policy that reads the loss is scheduled in segments of `loss_every` pushes. It
    sees the objective at the initial parameters first, and then the mean training
    loss of the latest segment's pushes.

    Args:
      task: model and data; must have as many workers as `delays`.
      policy: the rule.
      delays: durations of the computations (of all U local steps of a push).
      optimizer: the server's.
      num_pushes: stop after so many pushes.
      seed: for durations, initial parameters, batches and the tasks' noise.
      until_seconds: stop at this virtual time.
      until_epochs: stop when so many epochs of samples have been processed.
      communication: time of a push on its way; none by default.
      local_steps: U, gradient steps per push.
      local_optimizer: see `update.rule`.
      aggregate: `"mean"` or `"sum"`, see `update.rule`.
      width: see `replay.replay`.
      slots: see `replay.replay`.
      loop: see `replay.replay`.
      loss_every: pushes per segment; 10 N by default.
      eval_every_commits: see `replay.replay`.
      eval_every_seconds: see `replay.replay`.
      target_accuracy: see `replay.replay`.
      checkpoint_dir: see `replay.replay`.
      checkpoint_every: see `replay.replay`.
      progress: see `replay.replay`.

    Returns:
      A `Result`, whose trace holds the pushes up to the first limit that was reached.

    Raises:
      ValueError: if no limit is given, or for a setting out of range.
      DeadlockError: if the policy makes everybody wait.
    """
    if task.num_workers != delays.num_workers:
        raise ValueError(
            f"train: the task has {task.num_workers} workers, "
            f"the delays {delays.num_workers}."
        )
    pushes = push_limit(task, num_pushes, until_seconds, until_epochs, local_steps)
    communication = communication or communication_lib.none()
    rule = update.rule(optimizer, local_optimizer, local_steps, aggregate)
    settings: dict[str, Any] = {
        "local_optimizer": local_optimizer,
        "aggregate": aggregate,
        "width": width,
        "loop": loop,
        "eval_every_commits": eval_every_commits,
        "eval_every_seconds": eval_every_seconds,
        "target_accuracy": target_accuracy,
        "checkpoint_dir": checkpoint_dir,
        "checkpoint_every": checkpoint_every,
        "progress": progress,
    }
    source = Source(
        policy, delays, communication, pushes, until_seconds, seed, local_steps, task
    )
    if policies.reads_loss(policy, delays.num_workers):
        every = loss_every or 10 * delays.num_workers
        return _alternate(task, rule, source, every, slots or 1, settings)
    trace = source.all()
    return replayer.replay(task, optimizer, trace, seed, slots=slots, **settings)


def push_limit(
    task, num_pushes, until_seconds, until_epochs, local_steps
) -> int | None:
    """Pushes that are enough for every limit; None where only time ends the run."""
    limits = []
    for name, value in (
        ("num_pushes", num_pushes),
        ("until_seconds", until_seconds),
        ("until_epochs", until_epochs),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"train: {name} must be above 0, got {value}.")
    if num_pushes is not None:
        limits.append(num_pushes)
    if until_epochs is not None:
        samples = task.batch_size * local_steps
        limits.append(math.ceil(until_epochs * task.samples_per_epoch / samples))
    if not limits and until_seconds is None:
        raise ValueError(
            "train: give num_pushes, until_seconds or until_epochs; "
            "the run would never end."
        )
    return min(limits) if limits else None


def _alternate(task, rule, source: Source, every, slots, settings) -> Result:
    """Schedule a segment, replay it, tell the policy the loss, and so on."""
    store = checkpoints.open_store(
        settings["checkpoint_dir"],
        repr((source.settings, source.delays.spec, source.pushes, source.until, every)),
    )
    limit = source.pushes or 1024
    engine = engines.make(
        task, rule, source.seed, slots, limit, False, settings["width"],
        settings["loop"],
    )  # fmt: skip
    run = replayer.Run(
        engine,
        store=store,
        **{
            name: settings[name]
            for name in (
                "eval_every_commits", "eval_every_seconds", "target_accuracy",
                "checkpoint_every", "progress",
            )
        },
    )  # fmt: skip
    run.resume()
    # The loss of every finished segment: with these the schedule can be made again.
    losses = run.notes.setdefault("losses", [])
    if not losses:
        losses.append(engine.objective())
    segment = 0
    trace = source.trace()
    while not source.ended and not run.stopped:
        before = len(trace)
        source.more(every, losses[segment])
        segment += 1
        trace = source.trace()
        if run.done < len(trace) or source.ended:
            version = int(trace.committed.sum())
            needed = max(
                int(trace.staleness[before:].max(initial=0)),
                version - source.oldest(),
            )
            # By powers of two: a compiled loop of each size is compiled anew.
            room = 1 << needed.bit_length()
            engine.grow(room, version=int(trace.committed[: run.done].sum()))
            engine.reserve(len(trace))
            total = source.pushes or len(trace)
            run.follow(trace, total=total, final=source.ended)
        if segment == len(losses):
            losses.append(float(engine.losses(before, len(trace)).mean()))
    return run.result(trace)
