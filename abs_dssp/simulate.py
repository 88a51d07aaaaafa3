"""Virtual time: who pushes when, and training on it.

`schedule` runs a policy over a model of worker speed and gives a trace; no gradient is
computed. `train` is schedule and replay in one; a policy that looks at the loss makes
them alternate, segment by segment.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp import (
    checkpoints,
    compilation,
    eventloop,
    policies,
    replay,
    traces,
    update,
)
from abs_dssp import communication as communication_lib
from abs_dssp import engine as engines
from abs_dssp.communication import Communication
from abs_dssp.delays import BLOCK, Delays
from abs_dssp.eventloop import DeadlockError
from abs_dssp.policies import Policy
from abs_dssp.replay import Progress, Result
from abs_dssp.tasks.base import Task
from abs_dssp.traces import Trace

__all__ = ["DeadlockError", "schedule", "sweep", "train"]


def schedule(
    policy: Policy,
    delays: Delays,
    num_pushes: int,
    seed: int = 0,
    *,
    communication: Communication | None = None,
    local_steps: int = 1,
    task: str = "",
) -> Trace:
    """Runs a policy in virtual time.

    Args:
      policy: the rule; jit compiles it once per policy object.
      delays: durations of the computations; fixes the number of workers N.
      num_pushes: rows of the trace; at least 1.
      seed: for the durations.
      communication: time of a push on its way; none by default.
      local_steps: U, written into the trace; a duration is that of all U steps.
      task: name of the task, written into the trace.

    Returns:
      A validated `Trace` of `num_pushes` rows.

    Raises:
      ValueError: if `num_pushes` is not at least 1.
      DeadlockError: if at some push every worker waits and nobody computes.
    """
    (trace,) = _schedule(
        policy, delays, num_pushes, [seed], communication, local_steps, task
    )
    return trace


def sweep(
    policy: Policy,
    delays: Delays,
    num_pushes: int,
    seeds: Sequence[int],
    *,
    communication: Communication | None = None,
    local_steps: int = 1,
    task: str = "",
) -> list[Trace]:
    """`schedule` for several seeds at once, vmapped: the same traces, in order."""
    return _schedule(
        policy, delays, num_pushes, seeds, communication, local_steps, task
    )


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
    source = _Source(
        policy, delays, communication, pushes, until_seconds, seed, local_steps, task
    )
    if policies.reads_loss(policy, delays.num_workers):
        every = loss_every or 10 * delays.num_workers
        return _alternate(task, rule, source, every, slots or 1, settings)
    trace = source.all()
    return replay.replay(task, optimizer, trace, seed, slots=slots, **settings)


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


class _Source:
    """A simulation that is asked for more pushes until a limit is reached."""

    def __init__(
        self, policy, delays, communication, pushes, until, seed, local_steps, task
    ):
        self.policy, self.delays, self.communication = policy, delays, communication
        self.pushes, self.until, self.seed = pushes, until, seed
        self.settings = _settings(policy, delays, local_steps, task.name)
        self.settings["seed"] = seed
        self.rows = np.empty((0, eventloop.ROW_LENGTH))  # some may be past `until`
        self.count = 0  # pushes within the limits
        self.ended = False
        with jax.enable_x64(True):
            self.simulation = _start(policy, delays, communication, seed)

    def more(self, count: int, loss: float = math.nan) -> None:
        """Adds up to `count` pushes, decided with this loss estimate."""
        if self.pushes is not None:
            count = min(count, self.pushes - len(self.rows))
        with jax.enable_x64(True):
            clocks = self.simulation.clocks._replace(loss=jnp.float32(loss))
            self.simulation, rows = _advance(
                self.policy,
                self.delays,
                self.communication,
                self.simulation._replace(clocks=clocks),
                jnp.int32(count),
                _capacity(count),
            )
        self.rows = np.concatenate([self.rows, np.asarray(rows)[:count]])
        self.count = len(self.rows)
        if self.until is not None:
            times = self.rows[:, 0]
            self.count = int(np.searchsorted(times, self.until, side="right"))
        self.ended = self.count < len(self.rows) or self.count == self.pushes

    def all(self) -> Trace:
        """The whole trace."""
        step = self.pushes or 64 * self.delays.num_workers
        while not self.ended:
            self.more(step)
            step = min(2 * step, 1 << 20)
        return self.trace().validate()

    def trace(self) -> Trace:
        """The pushes so far, within the limits."""
        workers, clocks = self.simulation.workers, self.simulation.clocks
        trace = eventloop.to_trace(
            self.rows,
            np.asarray(workers.released),
            np.asarray(clocks.waiting),
            np.asarray(workers.restarts),
            self.settings,
        )
        return trace[: self.count]

    def oldest(self) -> int:
        """Least version that a computation still under way was started from."""
        clocks = self.simulation.clocks
        running = ~np.asarray(clocks.waiting)
        return int(np.asarray(clocks.pulled)[running].min())


def _alternate(task, rule, source: _Source, every, slots, settings) -> Result:
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
    run = replay.Run(
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


def _schedule(policy, delays, num_pushes, seeds, communication, local_steps, task):
    if num_pushes < 1:
        raise ValueError(f"schedule: num_pushes must be at least 1, got {num_pushes}.")
    communication = communication or communication_lib.none()
    capacity = _capacity(num_pushes)
    settings = _settings(policy, delays, local_steps, task)
    with jax.enable_x64(True):
        pushes = jnp.int32(num_pushes)
        if len(seeds) == 1:
            simulation = _start(policy, delays, communication, seeds[0])
            simulation, rows = _advance(
                policy, delays, communication, simulation, pushes, capacity
            )
            columns = jax.tree.map(
                lambda leaf: np.asarray(leaf)[None], (rows, *_ending(simulation))
            )
        else:
            columns = jax.tree.map(
                np.asarray,
                _sweep(
                    policy, delays, communication, jnp.asarray(seeds), pushes, capacity
                ),
            )
    rows, released, waiting, restarts = columns
    return [
        eventloop.to_trace(
            rows[i][:num_pushes],
            released[i],
            waiting[i],
            restarts[i],
            settings | {"seed": seed},
        ).validate()
        for i, seed in enumerate(seeds)
    ]


def _settings(policy, delays, local_steps, task) -> dict[str, Any]:
    return {
        "num_workers": delays.num_workers,
        "policy": policies.describe(policy),
        "local_steps": local_steps,
        "task": task,
        "versions": traces.package_versions(),
    }


def _capacity(num_pushes: int) -> int:
    """Rounded up, so that runs of similar length share a compiled program."""
    return max(1 << (num_pushes - 1).bit_length(), BLOCK)


@functools.cache
def _jitted(function: Callable[..., Any], *static: int) -> Callable[..., Any]:
    return jax.jit(
        function,
        static_argnums=static,
        compiler_options=compilation.many_small_operations(),
    )


def _start(policy, delays, communication, seed):
    return _jitted(eventloop.start, 0)(policy, delays, communication, seed)


def _advance(policy, delays, communication, simulation, num_pushes, capacity):
    return _jitted(eventloop.advance, 0, 5)(
        policy, delays, communication, simulation, num_pushes, capacity
    )


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sweep(policy, delays, communication, seeds, num_pushes, capacity):
    def one(seed):
        simulation = eventloop.start(policy, delays, communication, seed)
        simulation, rows = eventloop.advance(
            policy, delays, communication, simulation, num_pushes, capacity
        )
        return rows, *_ending(simulation)

    return jax.vmap(one)(seeds)


def _ending(simulation):
    """What a trace needs of the simulation's last state."""
    workers = simulation.workers
    return workers.released, simulation.clocks.waiting, workers.restarts
