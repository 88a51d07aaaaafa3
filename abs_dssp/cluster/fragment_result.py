"""What a run of fragments leaves behind, once all its servers have ended."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from abs_dssp.cluster import fragment_log
from abs_dssp.cluster.duties import Record
from abs_dssp.cluster.server import ServerError
from abs_dssp.cluster.system import System
from abs_dssp.cluster.whereabouts import Whereabouts
from abs_dssp.history import trace_format
from abs_dssp.training.driver import Result
from abs_dssp.training.evaluation import History

_PATIENCE = 60.0  # seconds for the other servers to end


def settings_of(job: Any) -> dict[str, Any]:
    """What the trace of a run says of it."""
    task, policy, functions, seed = job.training
    steps = functions.config.local_steps
    known = trace_format.settings_of(policy, task.num_workers, steps, task.name)
    return known | {"seed": seed}


def read(
    job: Any,
    layout: Any,
    places: Sequence[Whereabouts],
    stopped: str,
    records: Sequence[Record],
    system: System,
) -> Result:
    """What all logs and the last checkpoints say; after all servers have ended.

    Args:
      job: a `run.Job`.
      layout: a `fragment_run.Layout`.
      places: of every fragment's server.
      stopped: why the run ended.
      records: evaluations before its end.
      system: clock and disk.

    Raises:
      ServerError: if one does not end, or has not left its last state.
      LogError: if a log cannot be read, or they do not fit each other.
    """
    parts, task, functions = layout.parts, job.training.task, job.training.functions
    clock = system.time.perf_counter
    end = clock() + _PATIENCE
    for fragment, place in enumerate(places):
        while not place.over():
            if clock() > end:
                raise ServerError(
                    f"the server of fragment {fragment} has not ended within "
                    f"{_PATIENCE:.0f} s; look at its log, and start the same command "
                    "again."
                )
            system.time.sleep(0.1)
    trace, losses = fragment_log.read(
        job.out, parts.names, parts.sizes, settings_of(job), files=system.os
    )
    vectors, _ = fragment_log.parameters(
        job.out, len(parts.servers), whole=True, files=system.os
    )
    vector = parts.join([jax.numpy.asarray(np.asarray(each)) for each in vectors])
    measures = functions.evaluate(task.data, vector)
    samples = task.batch_size * functions.config.local_steps
    record = {
        "push": len(trace),
        "version": trace.commits,
        "seconds": trace.seconds,
        "epoch": len(trace) * samples / task.samples_per_epoch,
        **{name: float(value) for name, value in measures.items()},
    }
    return Result(
        trace=trace,
        variables=functions.layout.unflatten(vector),
        history=History((*_before(records, record), record), losses),
        stopped=stopped,
    )


def _before(records: Sequence[Record], last: Record) -> list[Record]:
    """Evaluations of a run; what they guessed of pushes stays below what there were."""
    kept = [each for each in records if each["seconds"] < last["seconds"]]
    most = {name: last[name] for name in ("push", "epoch")}
    return [each | {k: min(each[k], v) for k, v in most.items()} for each in kept]
