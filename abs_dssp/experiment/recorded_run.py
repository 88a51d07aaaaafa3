"""Loads a real run, and computes it again from its trace."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abs_dssp import optimizers, traces
from abs_dssp.cluster import log as logs
from abs_dssp.experiment.run import Run
from abs_dssp.history import rederivation
from abs_dssp.replay import Progress
from abs_dssp.tasks.base import Task
from abs_dssp.traces import Trace
from abs_dssp.training import checkpoints, flat, update


def load(run_dir: Path) -> tuple[Trace, np.ndarray]:
    """The trace of a run and its training losses (P,).

    The trace is taken from the log where a crash left nothing else.
    """
    header, entries, _ = logs.read(run_dir / logs.NAME)
    pushes = [e.event for e in entries if e.event.kind == "push"]
    losses = np.array([event.loss for event in pushes], np.float32)
    if (run_dir / "trace.npz").exists():
        return traces.Trace.load(run_dir / "trace.npz"), losses
    names = ("policy", "local_steps", "seed", "task")
    origin = {name: header["run"][name] for name in names}
    origin["num_workers"] = header["num_workers"]
    return logs.to_trace(entries, origin).validate(), losses


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


def kept_parameters(run_dir: Path) -> np.ndarray:
    """The parameters in the latest checkpoint of a real run."""
    latest = checkpoints.Store(run_dir / "checkpoints", None).latest()
    if latest is None:
        raise ValueError(f"{run_dir}/checkpoints holds no checkpoint to compare with.")
    return np.asarray(latest.leaves[0])


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
