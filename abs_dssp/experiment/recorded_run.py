"""Loads a real run, and computes it again from its trace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from abs_dssp import optimizers, traces
from abs_dssp.cluster import core
from abs_dssp.cluster import log as logs
from abs_dssp.experiment.run import Run
from abs_dssp.history import rederivation
from abs_dssp.history.events import Entry
from abs_dssp.replay import Progress
from abs_dssp.tasks.base import Task
from abs_dssp.traces import Trace
from abs_dssp.training import checkpoints, flat, update


class Recorded(NamedTuple):
    """What a real run left."""

    trace: Trace  # of the whole run
    losses: Float32[np.ndarray, " P"]  # in training, of its pushes
    checked: Trace  # its beginning, up to the checkpoint
    parameters: np.ndarray  # of the checkpoint


def load(run_dir: Path) -> Recorded:
    """Reads a run, whether it came to its end or was killed.

    The trace is taken from the log where a crash left nothing else, or an older one.

    Raises:
      ValueError: if it is damaged, or there is no checkpoint of its history.
    """
    if not (run_dir / logs.NAME).exists():
        raise ValueError(
            f"{run_dir} holds no run of real processes: there is no {logs.NAME}. The "
            "parameters of a run in virtual time are those that replay.replay makes of "
            "its trace.npz, in Python."
        )
    header, entries, _ = logs.read(run_dir / logs.NAME)
    names = ("policy", "local_steps", "seed", "task")
    origin = {name: header["run"][name] for name in names}
    origin["num_workers"] = header["num_workers"]
    origin["split"] = header.get("split", {})
    pushes = [entry.event for entry in entries if entry.event.kind == "push"]
    trace = None
    if (run_dir / "trace.npz").exists():
        trace = traces.Trace.load(run_dir / "trace.npz")
    if trace is None or len(trace) != len(pushes):
        trace = logs.to_trace(entries, origin).validate()
    count, parameters = _checkpoint(run_dir / "checkpoints", entries)
    checked = trace
    if count < len(entries):
        checked = logs.to_trace(entries[:count], origin).validate()
    losses = np.array([event.loss for event in pushes], np.float32)
    return Recorded(trace, losses, checked, parameters)


def _checkpoint(folder: Path, entries: Sequence[Entry]) -> tuple[int, np.ndarray]:
    """Records before the newest checkpoint of a history, and its parameters."""
    for found in checkpoints.Store(folder, None).newest_first():
        count, mark = found.note["records"], found.note["core"]["mark"]
        if count <= len(entries) and mark == core.mark_of(entries[:count]):
            return count, np.asarray(found.leaves[0])
    raise ValueError(
        f"{folder} holds no checkpoint of this log to compare with; start the run's "
        "command again, which makes one."
    )


def replayed(
    run: Run, task: Task, trace: Trace, settings: Mapping[str, Any], progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (P,) and training losses, computed again from a run's trace.

    Args:
      run: optimizer, aggregate and seed.
      task: model and data.
      trace: of the run.
      settings: of the run, with the formats of its pushes and pulls.
      progress: called as `replay` does.
    """
    formats = (settings.get(f"{what}_format", "float32") for what in ("push", "pull"))
    wire = flat.wire(*formats)
    result = run.replay(task, trace, formats=wire, progress=progress)
    return np.asarray(flat.flatten(result.variables)), result.history.push_loss


def first_other_decision(
    run: Run, task: Task, trace: Trace, losses: np.ndarray
) -> str | None:
    """The first row at which the policy, asked again, decides differently, or None."""
    first = _initial_loss(task, run.seed) if run.reads_loss() else 0.0
    again = rederivation.rederive(run.make_policy(), trace, losses, first)
    return rederivation.first_difference(trace, again)


def describe_difference(computed: np.ndarray, kept: np.ndarray) -> str | None:
    """How two vectors differ; None if they are equal in every bit."""
    if computed.shape != kept.shape:
        return f"{computed.size} values are replayed"
    if computed.tobytes() == kept.tobytes():
        return None
    most = np.abs(computed - kept).max()
    return f"{(computed != kept).sum()} differ, by at most {most:.3g}"


def _initial_loss(task: Task, seed: int) -> float:
    """The loss of the initial parameters, which the policy was given at the start."""
    functions = flat.Functions(task, update.rule(optimizers.sgd(0.1)))
    vector = functions.initial(jax.random.key(seed))
    return float(functions.objective(task.data, functions.pulled(vector)))
