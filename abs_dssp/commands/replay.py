"""Recomputes a run's parameters from its trace, and compares them bit by bit.

    abs-dssp replay RUN_DIR

RUN_DIR is what `train` wrote for a real run; flags that were given there are read from
its settings.json. The parameters are compared where the newest checkpoint is: at the
last push, if the run was not killed. Also asks the policy again about every push at the
recorded times.
Ends with status 1 if a bit or a decision differs.
"""

import os
import sys
from pathlib import Path

import numpy as np
from absl import flags

from abs_dssp.cluster import bootstrap, fragment_log
from abs_dssp.experiment import (
    entry,
    outputs,
    recorded_fragments,
    recorded_run,
    run_flags,
)
from abs_dssp.experiment.progress import PushProgress
from abs_dssp.history.fragments import FragmentedTrace

flags.adopt_module_key_flags(run_flags)  # --help lists them too


def main(argv):
    run_dir = Path(argv[1])
    settings = outputs.load_settings(run_dir)
    # Threads of the device decide in which order a CPU adds; they must be the same.
    # JAX reads this when it first touches a device.
    os.environ["XLA_FLAGS"] = settings.get("xla_flags", "")
    if settings.get("processes_per_worker", 1) > 1:
        bootstrap.by_itself()
    divided = fragment_log.count_of(run_dir) > 0
    recorded = None if divided else recorded_run.load(run_dir)
    run_flags.adopt(settings)
    count = settings["workers"] if recorded is None else recorded.trace.num_workers
    run_flags.put("workers", count)
    run = run_flags.run(settings["policy"], settings["seed"])
    task = run_flags.task()
    if recorded is None:
        recorded = recorded_fragments.load(run_dir, run, task)
    trace, checked = recorded.trace, recorded.checked
    print(f"{run_dir}: {len(trace)} pushes, version {trace.commits}, {trace.policy}")
    progress = PushProgress("replay")
    computed, computed_losses = recorded_run.replayed(
        run, task, checked, settings, progress
    )
    progress.close()
    kept = recorded.parameters
    difference = recorded_run.describe_difference(computed, kept)
    count = len(checked)
    equal_losses = np.array_equal(computed_losses, recorded.losses[:count])
    if isinstance(trace, FragmentedTrace):
        other = recorded_fragments.first_other_decision(run, trace)
    else:
        other = recorded_run.first_other_decision(run, task, trace, recorded.losses)
    print(
        f"parameters at push {count}, that of the checkpoint: {kept.size} values, "
        + (f"NOT equal: {difference}" if difference else "equal in every bit")
        + f"\ntraining losses up to there: {'equal' if equal_losses else 'NOT equal'}"
        + f"\ndecisions: {other or 'the policy decides the same, row by row'}"
        + ("; the rule is not what it was during the run" if other else "")
    )
    if difference or other:
        sys.exit(1)


def run() -> None:
    """Runs the command."""
    entry.run(main, positional="RUN_DIR")
