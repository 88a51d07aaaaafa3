"""Virtual time: runs a policy over a model of worker speed and gives a trace."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import checks, policies
from abs_dssp.history import builder
from abs_dssp.history.trace_format import settings_of
from abs_dssp.history.traces import Trace
from abs_dssp.policies import Policy
from abs_dssp.simulation import absences as absences_lib
from abs_dssp.simulation import communication as communication_lib
from abs_dssp.simulation import delays as delays_lib
from abs_dssp.simulation import event_rows, fragment_schedule, running
from abs_dssp.simulation.absences import Absences
from abs_dssp.simulation.communication import Communication
from abs_dssp.simulation.delays import Delays
from abs_dssp.simulation.event_rows import DeadlockError

__all__ = ["DeadlockError", "schedule", "sweep"]


def schedule(
    policy: Policy | str,
    delays: Delays | str,
    num_pushes: int,
    seed: int = 0,
    *,
    communication: Communication | str | None = None,
    absences: Absences | str | None = None,
    local_steps: int = 1,
    task: str = "",
    fragments: int = 1,
    overlap: int = 0,
) -> Trace:
    """Runs a policy in virtual time.

    Args:
      policy: the rule, or its text, such as `"ssp(s=3)"`; jit compiles it once per
        policy object.
      delays: durations of the computations, or their text; fixes the number of workers
        N, for which a text needs one number per worker: `"constant([1, 2.7])"`. Times
        may be 0: no time passes then between two pushes.
      num_pushes: rows of the trace; at least 1.
      seed: for the durations; at least 0.
      communication: time of a push on its way, or its text; none by default.
      absences: when workers die and return, or its text; nobody dies by default.
      local_steps: U, written into the trace; a duration is that of all U steps
        (`delays.per_step`).
      task: name of the task, written into the trace.
      fragments: F, parts of the parameters that are pushed in turn, each with a history
        of its own; see `traces.FragmentedTrace`. The time of a push on its way is then
        that of one fragment.
      overlap: pushes that a worker makes of other fragments, computing on, before it
        takes what it was given for one; one of 0..F-1.

    Returns:
      A validated `Trace` of `num_pushes` rows; a `FragmentedTrace` for more than one
      fragment.

    Raises:
      TypeError: for an argument of another kind.
      ValueError: if `num_pushes` is not at least 1, for a number out of range, a text
        that cannot be read, a policy for another number of workers, or one that
        fragments cannot have (`fragment_schedule.require_policy`), as they cannot have
        absences.
      DeadlockError: if at some push every worker waits and nobody computes, or all
        have died and none returns.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> trace = simulate.schedule(policies.asp(2), delays.constant([1.0, 3.0]), 4)
      >>> trace.time.tolist(), trace.worker.tolist()
      ([1.0, 2.0, 3.0, 3.0], [0, 0, 0, 1])
    """
    same = (communication, absences, local_steps, task)
    count = checks.whole("schedule", "fragments", fragments, least=1)
    overlap = fragment_schedule.overlap_of("schedule", overlap, count)
    return _schedule(policy, delays, num_pushes, [seed], *same, count, overlap)[0]


def sweep(
    policy: Policy | str,
    delays: Delays | str,
    num_pushes: int,
    seeds: Sequence[int],
    *,
    communication: Communication | str | None = None,
    absences: Absences | str | None = None,
    local_steps: int = 1,
    task: str = "",
) -> list[Trace]:
    """`schedule` for several seeds at once.

    They are vmapped unless the policy has `on_time` or workers die.

    Args:
      policy: see `schedule`.
      delays: see `schedule`.
      num_pushes: see `schedule`.
      seeds: one for each trace.
      communication: see `schedule`.
      absences: see `schedule`.
      local_steps: see `schedule`.
      task: see `schedule`.

    Returns:
      The traces that `schedule` gives with each seed, in order.

    Raises:
      ValueError: as `schedule`.
      DeadlockError: as `schedule`.

    Example:
      >>> from abs_dssp import delays, policies, simulate
      >>> model = delays.exponential(1.0, num_workers=2)
      >>> traces = simulate.sweep(policies.bsp(2), model, 10, seeds=range(3))
      >>> [trace.seed for trace in traces]
      [0, 1, 2]
    """
    same = (communication, absences, local_steps, task)
    return _schedule(policy, delays, num_pushes, seeds, *same)


def _schedule(
    policy,
    delays,
    num_pushes,
    seeds,
    communication,
    absences,
    local_steps,
    task,
    fragments=1,
    overlap=0,
):
    where = "schedule"
    num_pushes = checks.whole(where, "num_pushes", num_pushes, least=1)
    seeds = checks.seeds(where, seeds)
    local_steps = checks.whole(where, "local_steps", local_steps, least=1)
    delays = delays_lib.resolve(delays, policies.workers(policy), where)
    policy = policies.resolve(policy, delays.num_workers, where)
    communication = communication_lib.resolve(communication, None, where)
    absences = absences_lib.resolve(absences, delays.num_workers, where)
    settings = settings_of(policy, delays.num_workers, local_steps, task)
    if fragments > 1:
        fragment_schedule.require_no_absences(where, absences)
        links, limits = [communication] * fragments, (num_pushes, None)
        return [
            fragment_schedule.schedule(
                policy, delays, links, *limits, seed, settings, overlap
            )
            for seed in seeds
        ]
    model = (policy, delays, communication)
    with jax.enable_x64(True):
        if len(seeds) == 1 or not running.only_pushes(policy, absences):
            made = [running.alone(*model, absences, seed, num_pushes) for seed in seeds]
        else:
            capacity = running.capacity_for(num_pushes)
            columns = running.many(
                *model, jnp.asarray(seeds), jnp.int32(num_pushes), capacity
            )
            rows, *last = map(np.asarray, columns)
            endings = [builder.Ending(*leaves) for leaves in zip(*last, strict=True)]
            made = [
                (each[:num_pushes], ending)
                for each, ending in zip(rows, endings, strict=True)
            ]
    return [
        event_rows.to_trace(rows, ending, settings | {"seed": seed}).validate()
        for (rows, ending), seed in zip(made, seeds, strict=True)
    ]
