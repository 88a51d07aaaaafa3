"""Loads a real run of fragments, and computes it again from its trace."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from abs_dssp.cluster import fragment_log
from abs_dssp.cluster import log as logs
from abs_dssp.experiment.recorded_run import Recorded
from abs_dssp.experiment.run import Run
from abs_dssp.history import rederivation
from abs_dssp.history.fragments import FragmentedTrace
from abs_dssp.tasks import fragmenting
from abs_dssp.tasks.base import Task
from abs_dssp.training import fragmented


def load(run_dir: Path, run: Run, task: Task) -> Recorded:
    """Reads a run, whether it came to its end or was killed.

    What is compared is the state of the newest checkpoints, each of its own fragment.

    Args:
      run_dir: its folder.
      run: optimizer, aggregate and seed.
      task: model and data.

    Raises:
      ValueError: if it is damaged, or a fragment has no checkpoint.
    """
    count = fragment_log.count_of(run_dir)
    header, _, _ = logs.read(fragment_log.folder_of(run_dir, 0) / logs.NAME)
    names = ("policy", "local_steps", "seed", "task")
    origin: dict[str, Any] = {name: header["run"][name] for name in names}
    origin["num_workers"] = header["num_workers"]
    made = fragmenting.of_task(task, count)
    vectors, records = fragment_log.parameters(run_dir, count)
    trace, _ = fragment_log.read(run_dir, *made, origin)
    # The losses are those of its rows, whose order may be another where it is cut.
    checked, losses = fragment_log.read(run_dir, *made, origin, records)
    parts = fragmented.Division(task, run.make_update(), made.names)
    vector = parts.join([jax.numpy.asarray(each) for each in vectors])
    return Recorded(trace, losses, checked, np.asarray(vector))


def first_other_decision(run: Run, trace: FragmentedTrace) -> str | None:
    """The first row of a fragment that the policy decides differently, or None."""
    for fragment in range(trace.num_fragments):
        mine = trace.of_fragment(fragment)
        again = rederivation.rederive(run.make_policy(), mine)
        found = rederivation.first_difference(mine, again)
        if found:
            return f"fragment {fragment}: {found}"
    return None
