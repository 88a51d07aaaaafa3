"""Recomputes a run's parameters from its trace, and compares them bit by bit.

    python experiments/replay.py RUN_DIR

RUN_DIR is what train.py wrote for a real run; flags that were given there are read from
its settings.json. Also asks the policy again about every push at the recorded times.
Ends with status 1 if a bit or a decision differs.
"""

import os
import sys
from pathlib import Path

import entry
import numpy as np
import outputs
import run_flags
from absl import flags

from abs_dssp import policies, tasks, traces
from abs_dssp.cluster import log as logs
from abs_dssp.history import transition

flags.adopt_module_key_flags(run_flags)  # --help lists them too


def main(argv):
    folder = Path(argv[1])
    settings = outputs.load_settings(folder)
    # Threads of the device decide in which order a CPU adds; they must be the same.
    os.environ["XLA_FLAGS"] = settings.get("xla_flags", "")
    from abs_dssp import replay
    from abs_dssp.training import checkpoints, flat

    trace, losses = _recorded(folder, settings)
    run_flags.adopt(settings)
    flags.FLAGS["workers"].value = trace.num_workers
    contender = run_flags.contender(settings["policy"])
    task = run_flags.build_task()
    print(f"{folder}: {len(trace)} pushes, version {trace.commits}, {trace.policy}")
    result = replay.replay(
        task,
        run_flags.optimizer(contender.learning_rate),
        trace,
        settings["seed"],
        local_optimizer=run_flags.optimizer(contender.learning_rate, local=True),
        aggregate=flags.FLAGS.aggregate,
        formats=flat.wire(
            settings.get("push_format", "float32"),
            settings.get("pull_format", "float32"),
        ),
        progress=outputs.Reporter("replay"),
    )
    found = checkpoints.Store(folder / "checkpoints", None).latest()
    if found is None:
        raise ValueError(f"{folder}/checkpoints holds no checkpoint to compare with.")
    kept = found.leaves[0]
    mine = np.asarray(flat.flatten(result.variables))
    equal = mine.shape == kept.shape and mine.tobytes() == kept.tobytes()
    losses_equal = np.array_equal(result.history.push_loss, losses)
    first = 0.0
    if policies.reads_loss(contender.policy, trace.num_workers):
        first = _objective(task, settings["seed"])
    again = transition.rederive(contender.policy, trace, losses, first)
    difference = transition.first_difference(trace, again)
    print(
        f"parameters: {kept.size} values, "
        + ("equal in every bit" if equal else _how_far(mine, kept))
        + f"\ntraining losses: {'equal' if losses_equal else 'NOT equal'}"
        + f"\ndecisions: {difference or 'the policy decides the same, row by row'}"
    )
    if not equal or difference:
        sys.exit(1)


def _recorded(folder: Path, settings):
    """The trace, from the log where that was all that a crash left."""
    header, records, _ = logs.read(folder / logs.NAME)
    losses = np.array([r.loss for r in records if r.kind == "push"], np.float32)
    if (folder / "trace.npz").exists():
        return traces.Trace.load(folder / "trace.npz"), losses
    run = header["run"]
    trace = logs.to_trace(
        records,
        {
            "num_workers": header["num_workers"],
            "policy": run["policy"],
            "local_steps": run["local_steps"],
            "seed": run["seed"],
            "task": run["task"],
        },
    )
    return trace.validate(), losses


def _objective(task: tasks.Task, seed: int) -> float:
    import jax

    from abs_dssp import optimizers
    from abs_dssp.training import flat, update

    functions = flat.Functions(task, update.rule(optimizers.sgd(0.1)))
    vector = functions.initial(jax.random.key(seed))
    return float(functions.objective(task.data, functions.pulled(vector)))


def _how_far(mine, kept) -> str:
    if mine.shape != kept.shape:
        return f"NOT equal: {mine.size} values are replayed"
    differ = mine != kept
    most = np.abs(mine - kept).max()
    return f"NOT equal: {differ.sum()} differ, by at most {most:.3g}"


if __name__ == "__main__":
    entry.run(main, positional="RUN_DIR")
