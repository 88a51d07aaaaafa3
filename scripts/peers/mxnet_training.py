"""The same training in MXNet, the system of the DSSP paper, and here.

    .venv/bin/python scripts/peers/mxnet_training.py --python=MXNET_ENV/bin/python

Four workers, of which the last takes three times as long, train one network on
scikit-learn's digits: MXNet's Module with `dist_sync` and `dist_async`, and this
project's cluster with bsp() and asp(). Initial weights, batches, their order, step
size and times of computation are the same. Prints a table of both, and two
observations of MXNet's server on numbers that are known: whether it adds or averages
pushes, and what its learning-rate scheduler counts.

MXNet's wheel needs an environment of its own: pip install mxnet==1.9.1 "numpy<1.24".
Without it, exit status 2. The twelve runs take about seven minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from mxnet_worker import BATCH, HIDDEN, NAMES, PACE, PIXELS, SCHEDULE, WORKERS

AT_UPDATES, AT_SECONDS = (10, 25, 50, 100, 150), (0.5, 1, 2, 5, 10)
CHECKED = 50  # rounds after which weights are compared with a reference
# Importing it is what a server or a scheduler does until the run is over.
_IMPORT = "import numpy; numpy.bool = bool; import mxnet"
_TABLE_HEAD = (
    "| system | mode | seed | updates/s | pushes/s | not computing | computation, ms | "
    + "".join(f"{n} updates | " for n in AT_UPDATES)
    + "".join(f"{s} s | " for s in AT_SECONDS)
    + "end |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python",
        default=os.environ.get("PEERS_PYTHON", sys.executable),
        help="Interpreters to try, with commas between them.",
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="Of each run.")
    parser.add_argument("--seeds", type=int, default=3, help="Runs of each kind.")
    parser.add_argument("--learning_rate", type=float, default=0.1)
    _compare(parser.parse_args())


def _interpreter(names: str) -> str | None:
    for name in names.split(","):
        try:
            done = subprocess.run([name, "-c", _IMPORT], capture_output=True)
        except OSError:
            continue
        if not done.returncode:
            return name
    return None


def _run_mxnet(python: str, given, work: str, mode: str, folder: Path) -> None:
    """A scheduler, a server and the workers, until all have ended."""
    shared = common.parameter_server(WORKERS) | {"OMP_NUM_THREADS": "1"}
    program = Path(__file__).with_name("mxnet_worker.py")
    worker = [program, f"--work={work}", f"--mode={mode}", f"--folder={folder}"]
    worker += [f"--seconds={given.seconds}", f"--learning_rate={given.learning_rate}"]
    roles = [("scheduler", ["-c", _IMPORT]), ("server", ["-c", _IMPORT])]
    roles += [("worker", worker)] * WORKERS
    with open(folder / f"{mode}.log", "w") as log:
        processes = [
            subprocess.Popen(
                [python, *command],
                env=os.environ | shared | {"DMLC_ROLE": role},
                stdout=log,
                stderr=log,
            )
            for role, command in roles
        ]
        try:
            for process in reversed(processes):
                if process.wait(given.seconds + 100):
                    raise RuntimeError(f"MXNet failed: {Path(log.name).read_text()}")
        finally:
            for process in processes:
                process.kill()


def _export(task, seed: int, given, folder: Path) -> None:
    """Initial weights and all batches of a run, for MXNet."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    key = jax.random.key(seed)
    count = int(given.seconds / min(PACE)) + 1
    one = jax.vmap(
        lambda worker, index: task.batch(task.data, key, worker, index), (None, 0)
    )
    every = jax.jit(jax.vmap(one, (0, None)))
    pixels, labels = every(
        jnp.arange(WORKERS, dtype=jnp.int32), jnp.arange(count, dtype=jnp.int32)
    )
    np.savez(
        folder / "given.npz",
        inputs=np.asarray(pixels).reshape(WORKERS, count, BATCH, PIXELS),
        labels=np.asarray(labels),
        **_named(task.init(key).params),
    )


def _named(params: dict) -> dict:
    """Weights by MXNet's names; its matrices are transposed."""
    import numpy as np

    layers = (params["Dense_0"], params["Dense_1"])
    arrays = [array for of in layers for array in (of["kernel"].T, of["bias"])]
    return dict(zip(NAMES, map(np.asarray, arrays), strict=True))


def _read_mxnet(task, mode: str, folder: Path) -> dict:
    """Rates, shares and accuracies of a run of MXNet."""
    import numpy as np

    files = [np.load(folder / f"worker{rank}.npz") for rank in range(WORKERS)]
    begin = min(float(file["begin"]) for file in files)
    rows = [file["rows"] - begin for file in files]
    pushed = np.sort(np.concatenate([each[:, 1] for each in rows]))
    first, second = (files[0][name] for name in NAMES[::2])
    bias1, bias2 = (files[0][name] for name in NAMES[1::2])
    data = task.data
    test = (np.asarray(data["test"], np.float32) - data["mean"]) * data["scale"]
    test, truth = np.asarray(test).reshape(-1, PIXELS), np.asarray(data["test_labels"])
    history = []
    for step in range(len(first)):
        hidden = np.maximum(test @ first[step].T + bias1[step], 0)
        guesses = np.argmax(hidden @ second[step].T + bias2[step], axis=1)
        # Worker 0 holds what the server had when its push was answered: the round's,
        # or about what had been pushed by then.
        pushes = np.searchsorted(pushed, rows[0][step - 1, 1], "right") if step else 0
        if mode == "dist_sync":
            pushes = WORKERS * step
        seconds = float(rows[0][step, 0])
        history.append((seconds, int(pushes), float(np.mean(guesses == truth))))
    return {
        "pushes": len(pushed),
        "seconds": max(float(each[-1, 2]) for each in rows),
        "idle": _idle([(each[:, 1], each[:, 1] - each[:, 0]) for each in rows]),
        "took": [float(np.mean(each[:, 1] - each[:, 0])) for each in rows],
        "history": history,
        "rescale": float(files[0]["rescale"]),
    }


def _idle(of_workers: list) -> float:
    """Share of time in which workers do not compute, from pushes and durations."""
    spans = sum(float(times[-1] - times[0]) for times, _ in of_workers)
    return 1 - sum(float(durations[1:].sum()) for _, durations in of_workers) / spans


def _run_ours(policy: str, seed: int, given, folder: Path) -> dict:
    import numpy as np

    from abs_dssp import traces

    out = folder / "ours"
    command = [sys.executable, Path(__file__).parents[2] / "experiments" / "train.py"]
    command += ["--cluster=local", "--noserver_works", f"--processes={WORKERS + 1}"]
    command += [f"--policy={policy}", f"--delays=constant(seconds={PACE})"]
    command += ["--task=digits", f"--model=mlp(hidden={HIDDEN})", "--notensorboard"]
    command += [f"--batch_size={BATCH}", f"--learning_rate={given.learning_rate}"]
    command += [f"--until={given.seconds}", "--times=evaluate=0.01"]
    command += [f"--seed={seed}", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the cluster failed: {done.stdout}{done.stderr}")
    trace = traces.Trace.load(out / "trace.npz")
    mine = [trace.worker == worker for worker in range(WORKERS)]
    records = json.loads((out / "run.json").read_text())["records"]
    per_update = 1 if policy == "asp()" else WORKERS
    return {
        "pushes": len(trace),
        "seconds": float(np.max(trace.time)),
        "idle": _idle([(trace.time[of], trace.duration[of]) for of in mine]),
        "took": [float(np.mean(trace.duration[of])) for of in mine],
        "history": [
            (r["seconds"], r["version"] * per_update, r["accuracy"]) for r in records
        ],
    }


def _row(system: str, mode: str, seed: int, run: dict, per_update: int) -> str:
    """One line of the table."""
    history = run["history"]

    def first(reached) -> str:
        seen = [entry[2] for entry in history if reached(entry)]
        return f"{100 * seen[0]:.1f}" if seen else "-"

    pushes, seconds = run["pushes"], run["seconds"]
    cells = [system, f"`{mode}`", str(seed)]
    cells += [f"{pushes / per_update / seconds:.1f}", f"{pushes / seconds:.1f}"]
    cells += [f"{100 * run['idle']:.1f} %"]
    cells += [f"{1e3 * run['took'][0]:.1f}, {1e3 * run['took'][-1]:.1f}"]
    for updates in AT_UPDATES:
        cells.append(first(lambda entry, n=updates: entry[1] >= n * per_update))
    for at in AT_SECONDS:
        cells.append(first(lambda entry, s=at: entry[0] >= s))
    return f"| {' | '.join([*cells, f'{100 * history[-1][2]:.1f}'])} |"


def _order(line: str) -> tuple:
    """Sorts lines of the table: synchronous ones first, then by seed and system."""
    system, mode, seed = line.split(" | ")[:3]
    return mode not in ("`dist_sync`", "`bsp()`"), int(seed), system


def _distances(task, seed: int, given, folder: Path) -> tuple[float, float]:
    """From MXNet's weights after some rounds to those of mean and of summed pushes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    key = jax.random.key(seed)

    def gradient(variables, worker, index):
        batch = task.batch(task.data, key, worker, index)

        def loss(params):
            return task.loss(variables._replace(params=params), batch, key)[0]

        return jax.grad(loss)(variables.params)

    gradients = jax.jit(jax.vmap(gradient, (None, 0, None)))
    found = []
    with np.load(folder / "worker0.npz") as file:
        theirs = {name: file[name][CHECKED] for name in NAMES}
    for combine in (jnp.mean, jnp.sum):
        variables = task.init(key)
        for index in range(CHECKED):
            many = gradients(
                variables, jnp.arange(WORKERS, dtype=jnp.int32), jnp.int32(index)
            )
            params = jax.tree.map(
                lambda w, g, combine=combine: w - given.learning_rate * combine(g, 0),
                variables.params,
                many,
            )
            variables = variables._replace(params=params)
        ours = _named(variables.params)
        found.append(max(float(np.abs(theirs[n] - ours[n]).max()) for n in NAMES))
    return found[0], found[1]


def _say_observed(python: str, given, folder: Path) -> None:
    """The two observations, as sentences."""
    total = WORKERS * (WORKERS + 1) // 2
    for mode in ("dist_sync", "dist_async"):
        _run_mxnet(python, given, "observe", mode, folder)
        seen = json.loads((folder / "observed0.json").read_text())
        per = WORKERS if mode == "dist_sync" else 1  # pushes of 1 between two readings
        steps = [
            (before - after) / per
            for before, after in zip([0.0, *seen["clock"]], seen["clock"], strict=False)
        ]
        drops = [n for n in range(1, len(steps)) if steps[n] < 0.99 * steps[n - 1]][:2]
        print(
            f"* `{mode}`: pushes of 1 to {WORKERS} (sum {total}, mean "
            f"{total / WORKERS:g}), step 1: the weight went from 0 to {seen['sum']:g}, "
            f"by gluon's Trainer to {seen['gluon']:g}. FactorScheduler(step="
            f"{SCHEDULE}, factor=0.5): steps {[round(s, 3) for s in steps[:10]]}...; "
            f"halved after {drops} updates, which are {[per * n for n in drops]} "
            f"pushes. After {SCHEDULE + 1} updates of one vector the first step of "
            f"another was {-seen['seldom']:g}.",
            flush=True,
        )


def _compare(given: argparse.Namespace) -> None:
    python = _interpreter(given.python)
    if python is None:
        print(f"MXNet cannot be imported by {given.python}: skipped.", file=sys.stderr)
        sys.exit(2)
    from abs_dssp import tasks

    task = tasks.digits(
        num_workers=WORKERS, model=f"mlp(hidden={HIDDEN})", batch_size=BATCH
    )
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        _say_observed(python, given, Path(name))
    for seed in range(1, given.seeds + 1):
        kinds = [("dist_sync", "bsp()", WORKERS), ("dist_async", "asp()", 1)]
        for mode, policy, per_update in kinds if seed % 2 else kinds[::-1]:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                runs = {}
                # Each comes first in every other pair.
                for system in ("MXNet", "ours") if seed % 2 else ("ours", "MXNet"):
                    if system == "ours":
                        runs[system] = _run_ours(policy, seed, given, folder)
                        continue
                    _export(task, seed, given, folder)
                    _run_mxnet(python, given, "train", mode, folder)
                    runs[system] = _read_mxnet(task, mode, folder)
                said = f"{mode}, seed {seed}: Module's rescale_grad is "
                said += f"{runs['MXNet']['rescale']:g} / batch size"
                if mode == "dist_sync":
                    mean, sum_ = _distances(task, seed, given, folder)
                    said += f"; after {CHECKED} rounds its weights differ by at most "
                    said += f"{mean:.1e} from those of mean pushes, {sum_:.1e} of sums"
                print(f"* {said}.", flush=True)
                lines.append(_row("MXNet", mode, seed, runs["MXNet"], per_update))
                lines.append(_row("ours", policy, seed, runs["ours"], per_update))
    print(f"\n{_TABLE_HEAD}\n|{' --- |' * _TABLE_HEAD.count(' | ')} --- |")
    print("\n".join(sorted(lines, key=_order)))


if __name__ == "__main__":
    main()
