"""Virtual time: runs a policy over a model of worker speed and gives a trace."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import compilation, policies
from abs_dssp.history import builder, traces
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import event_loop
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import BLOCK, Delays
from abs_dssp.simulation.event_loop import DeadlockError

__all__ = ["DeadlockError", "schedule", "sweep"]


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


class Source:
    """A simulation that is asked for more pushes until a limit is reached.

    Attributes:
      pushes: in all; None where only time ends the run.
      until: seconds; None where only the pushes end it.
      settings: what the trace's header says, seed included.
      ended: whether a limit is reached.
    """

    def __init__(
        self,
        policy: Policy,
        delays: Delays,
        communication: Communication,
        pushes: int | None,
        until: float | None,
        seed: int,
        local_steps: int,
        task: str,
    ):
        self.policy, self.delays, self.communication = policy, delays, communication
        self.pushes, self.until, self.seed = pushes, until, seed
        self.settings = _settings(policy, delays, local_steps, task)
        self.settings["seed"] = seed
        self.ended = False
        self._rows = np.empty((0, len(builder.ROW)))  # some may be past `until`
        self._count = 0  # pushes within the limits
        with jax.enable_x64(True):
            self._simulation = _start(policy, delays, communication, seed)

    def more(self, count: int, loss: float = math.nan) -> None:
        """Adds up to `count` pushes, decided with this loss estimate."""
        if self.pushes is not None:
            count = min(count, self.pushes - len(self._rows))
        with jax.enable_x64(True):
            self._simulation, rows = _advance(
                self.policy,
                self.delays,
                self.communication,
                event_loop.with_loss(self._simulation, loss),
                jnp.int32(count),
                _capacity(count),
            )
        self._rows = np.concatenate([self._rows, np.asarray(rows)[:count]])
        self._count = len(self._rows)
        if self.until is not None:
            times = self._rows[:, 0]
            self._count = int(np.searchsorted(times, self.until, side="right"))
        self.ended = self._count < len(self._rows) or self._count == self.pushes

    def all(self) -> Trace:
        """The whole trace.

        Raises:
          DeadlockError: if every worker waits before a limit is reached.
        """
        step = self.pushes or 64 * self.delays.num_workers
        while not self.ended:
            self.more(step)
            step = min(2 * step, 1 << 20)
        return self.trace().validate()

    def trace(self) -> Trace:
        """The pushes so far, within the limits.

        Raises:
          DeadlockError: as `all`.
        """
        rows, last = self._rows, builder.ending(self._simulation.server)
        past = rows[self._count : self._count + 1, 0]
        if past.size and np.isfinite(past[0]):
            # A deadlock behind the limit is none of this run: from there on all wait.
            stuck = np.isinf(rows[:, 0])
            rows = rows[~stuck]
            last = last._replace(waiting=last.waiting | stuck.any())
        trace = event_loop.to_trace(rows, last, self.settings)
        return trace[: self._count]

    def oldest(self) -> int:
        """Least version that a computation still under way was started from.

        The present version if everybody waits.
        """
        clocks = self._simulation.server.clocks
        running = ~np.asarray(clocks.waiting)
        pulled = np.asarray(clocks.pulled)[running]
        return int(pulled.min(initial=int(clocks.version)))


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
    rows, *last = columns
    return [
        event_loop.to_trace(
            rows[i][:num_pushes],
            builder.Ending(*(leaf[i] for leaf in last)),
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
    return _jitted(event_loop.start, 0)(policy, delays, communication, seed)


def _advance(policy, delays, communication, simulation, num_pushes, capacity):
    return _jitted(event_loop.advance, 0, 5)(
        policy, delays, communication, simulation, num_pushes, capacity
    )


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sweep(policy, delays, communication, seeds, num_pushes, capacity):
    def one(seed):
        simulation = event_loop.start(policy, delays, communication, seed)
        simulation, rows = event_loop.advance(
            policy, delays, communication, simulation, num_pushes, capacity
        )
        return rows, *_ending(simulation)

    return jax.vmap(one)(seeds)


def _ending(simulation):
    """The leaves of a `builder.Ending`."""
    server = simulation.server
    return server.released, server.clocks.waiting, server.cancelled
