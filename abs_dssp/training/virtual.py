"""Training in virtual time: a schedule and its replay, in segments if need be."""

import dataclasses
from pathlib import Path

import optax

from abs_dssp import checks, policies, tasks
from abs_dssp.history.trace_format import settings_of
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy
from abs_dssp.simulation import absences as absences_lib
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delays as delays_lib
from abs_dssp.simulation import fragment_schedule
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import Delays
from abs_dssp.simulation.running import Source
from abs_dssp.tasks import fragmenting
from abs_dssp.tasks.base import Task
from abs_dssp.training import driver, engines, fragmented, identity, replayer
from abs_dssp.training.config import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    Every,
    ReplayConfig,
    RunLimits,
)
from abs_dssp.training.driver import Progress, Result


def train(
    task: Task | str,
    policy: Policy | str,
    delays: Delays | str,
    optimizer: optax.GradientTransformation | str,
    num_pushes: int | None = None,
    seed: int = 0,
    *,
    until_seconds: float | None = None,
    until_epochs: float | None = None,
    communication: Communication | str | None = None,
    absences: Absences | str | None = None,
    local_steps: int = 1,
    local_optimizer: optax.GradientTransformation | str | None = None,
    aggregate: str = "mean",
    push: str = "gradients",
    local_state: str = "fresh",
    fragments: int = 1,
    overlap: int = 0,
    width: int | None = None,
    slots: int | None = None,
    loop: str = "auto",
    loss_every: int | None = None,
    eval_every_commits: Every | None = None,
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

    Every object may be given as its text instead: `"digits"`, `"ssp(s=3)"`,
    `"constant([1, 1, 1, 2.7])"`, `"sgd(0.1)"`. At least one of task, policy and delays
    must then tell the number of workers.

    Args:
      task: model and data; must have as many workers as `delays`.
      policy: the rule.
      delays: durations of the computations: of all U local steps of a push, unlike the
        commands' `--delays`, which are those of one; `delays.per_step` makes them of
        these. Where all are 0, no time passes, and `until_seconds` alone is refused.
      optimizer: the server's.
      num_pushes: stop after so many pushes.
      seed: for durations, initial parameters, batches and the tasks' noise.
      until_seconds: stop at this virtual time.
      until_epochs: stop when so many epochs of samples have been processed.
      communication: time of a push on its way; none by default. A text that does not
        say how many bytes travel means a push and a pull of all parameters.
      absences: when workers die and return; nobody dies by default.
      local_steps: U, gradient steps per push.
      local_optimizer: see `replay.replay`.
      aggregate: see `replay.replay`.
      push: see `replay.replay`.
      local_state: see `replay.replay`.
      fragments: F, parts of the parameters that a worker pushes in turn, one every U
        local steps, each with a history of its own: those of `fragmenting.of_task`.
        More than 1 need displacements; see docs/fragments.md.
      overlap: pushes that a worker makes of other fragments, computing on, before it
        takes what it was given for one; one of 0..F-1.
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
      TypeError: for an argument of another kind.
      ValueError: if no limit is given, for a setting out of range, a text that cannot
        be read, or parts that are made for different numbers of workers.
      DeadlockError: if everybody waits, or has died for good, before a limit is
        reached.

    Example:

      >>> from abs_dssp import delays, optimizers, policies, simulate, tasks
      >>> task = tasks.quadratic(2, dim=3, noise=0.0)
      >>> speeds = delays.constant([1.0, 2.7])
      >>> result = simulate.train(
      ...     task, policies.ssp(2, s=3), speeds, optimizers.sgd(0.1), 60
      ... )
      >>> len(result.trace), result.history.last("loss") < 1e-3
      (60, True)
    """
    where = "train"
    local_steps = checks.whole(where, "local_steps", local_steps, least=1)
    task, policy, delays = _together(task, policy, delays)
    given = communication
    if communication is not None:  # a push and the pull after it
        size = 2 * tasks.variable_bytes(task)
        communication = communication_lib.resolve(communication, size, where)
    absences = absences_lib.resolve(absences, delays.num_workers, where)
    count = checks.whole(where, "fragments", fragments, least=1)
    overlap = fragment_schedule.overlap_of(where, overlap, count)
    limits = RunLimits(num_pushes, until_seconds, until_epochs)
    kinds = (aggregate, push, local_state)
    config = ReplayConfig(
        replayer.update_config(where, optimizer, local_optimizer, local_steps, kinds),
        EngineConfig(width, 1 if slots is None else slots, loop),
        EvaluationConfig(eval_every_commits, eval_every_seconds, target_accuracy),
        CheckpointConfig(checkpoint_dir, checkpoint_every),
    )
    replayer.require_origin(where, seed, progress)
    pushes, origin = limits.pushes(task, local_steps), (seed, local_steps, task.name)
    if count > 1:
        fragment_schedule.require_no_absences(where, absences)
        fragmented.require_displacement(where, config.update)
        settings = settings_of(policy, delays.num_workers, local_steps, task.name)
        trace = _of_fragments(
            fragmenting.of_task(task, count),
            (policy, delays, given),
            (pushes, until_seconds, seed, settings, overlap),
        )
        return replayer.run(task, trace, seed, config, progress)
    link = communication or communication_lib.none()
    source = Source(policy, delays, link, pushes, until_seconds, *origin, absences)
    if policies.reads_loss(policy, delays.num_workers):
        every = 10 * delays.num_workers
        if loss_every is not None:
            every = checks.whole(where, "loss_every", loss_every, least=1)
        return _alternate(task, source, every, config, progress)
    return replayer.run(task, source.all(), seed, config, progress)


def _of_fragments(made: fragmenting.Fragments, model, limits) -> Trace:
    """The schedule of a run, in which each fragment's bytes take their time."""
    policy, delays, given = model
    links = [
        communication_lib.resolve(given, 2 * fragmenting.VALUE_BYTES * size, "train")
        for size in made.sizes
    ]
    trace = fragment_schedule.schedule(policy, delays, links, *limits)
    return dataclasses.replace(trace, **made._asdict())


def _together(
    task: Task | str, policy: Policy | str, delays: Delays | str
) -> tuple[Task, Policy, Delays]:
    """The three for one number of workers, which one of them must tell."""
    count: int | None
    if isinstance(task, Task):
        count = task.num_workers
    elif isinstance(delays, Delays):
        count = delays.num_workers
    else:
        count = policies.workers(policy)
    if isinstance(task, Task) and isinstance(delays, Delays):
        counts = {"task": task.num_workers, "delays": delays.num_workers}
        checks.same_workers("train", **counts)
    delays = delays_lib.resolve(delays, count, "train")
    policy = policies.resolve(policy, delays.num_workers, "train")
    return tasks.resolve(task, delays.num_workers, "train"), policy, delays


def push_limit(
    task: Task,
    num_pushes: int | None,
    until_seconds: float | None,
    until_epochs: float | None,
    local_steps: int,
) -> int | None:
    """Pushes that are enough for every limit; None where only time ends the run.

    Raises:
      ValueError: for a limit that is not above 0, or if there is none.
    """
    limits = RunLimits(num_pushes, until_seconds, until_epochs)
    return limits.pushes(task, local_steps)


def _alternate(
    task: Task,
    source: Source,
    every: int,
    config: ReplayConfig,
    progress: Progress | None,
) -> Result:
    """Schedules a segment, replays it, tells the policy the loss, and so on."""
    engine = engines.make(
        task, config.update, source.seed, source.pushes or 1024, False, config.engine
    )
    run = driver.Run(engine, config, progress)
    policy = source.settings["policy"]
    known = (source.seed, policy, source.pushes, source.until, every, engine.loop)
    delays, link, absences = source.delays, source.communication, source.absences
    run.open(
        lambda: identity.of_run(
            task,
            config.update,
            *known,
            delays=delays,
            communication=link,
            absences=absences,
        )
    )
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
            staleness = int(trace.staleness[before:].max(initial=0))
            needed = max(staleness, version - source.oldest())
            # By powers of two: a compiled loop of each size is compiled anew.
            engine.grow(1 << needed.bit_length())
            engine.reserve(len(trace))
            total = source.pushes or len(trace)
            run.follow(trace, total=total, final=source.ended)
        if segment == len(losses):
            losses.append(float(engine.losses(before, len(trace)).mean()))
    return run.result(trace)
