"""Runs that are kept by their description, and made in parallel.

A run that is on disk is never made twice: its file is named by a digest of all that
decides its result, package versions included. Runs with equal traces, such as those of
policies whose thresholds never act, are trained once, because the trace decides the
training.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp import files, replay, traces
from abs_dssp.experiment import outputs, pool, statistics
from abs_dssp.experiment.progress import Progress
from abs_dssp.experiment.run import Run
from abs_dssp.training.evaluation import History

# Programs and data of hundreds of runs would use up a process's memory maps. The pool's
# own limit on the tasks of a process can deadlock before Python 3.12.
_RUNS_OF_A_PROCESS = 50
# What is kept of an evaluation, to six digits.
_COLUMNS = ("seconds", "epoch", "version", "messages", "accuracy")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is kept of a run."""

    history: History  # at equal times
    rounds: History  # the same, and after commits that lie evenly on a logarithmic axis
    stopped: str  # "end", or why the loss was not finite
    measures: Mapping[str, float]  # of the trace
    took: float  # seconds of this machine
    trained: str  # digest of what was trained: equal for equal traces

    @property
    def final(self) -> float:
        """The mean accuracy of the last five evaluations; 0 if the run diverged."""
        if self.stopped != "end":
            return 0.0
        return float(np.mean(self.history.column("accuracy")[-5:]))

    @property
    def peak(self) -> float:
        """The highest smoothed accuracy; 0 if the run diverged."""
        if self.stopped != "end":
            return 0.0
        return float(statistics.smoothed(self.history.column("accuracy")).max())

    def reaching(self, accuracy: float, column: str = "seconds") -> float | None:
        """Where the smoothed accuracy first is this high, in units of `column`.

        None for a run that does not get there, or that diverged.
        """
        if self.stopped != "end":
            return None
        curve = statistics.smoothed(self.history.column("accuracy"))
        return statistics.crossing(self.history.column(column), curve, accuracy)


class Runner(contextlib.AbstractContextManager):
    """Makes runs, several at a time, and keeps them. Close it, or use `with`."""

    def __init__(self, out: Path, processes: int = 1, data_dir: str | None = None):
        """A runner.

        Args:
          out: folder that keeps runs, shared by all figures.
          processes: runs at a time; each takes one core where there are several.
          data_dir: folder of prepared TFDS data.
        """
        self.out, self.processes, self.data_dir = out, processes, data_dir
        self.folder = out / "runs"
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._begun = 0  # runs that the pool was given
        pool.share_programs(out / "programs")

    def execute(self, runs: Iterable[Run], label: str) -> dict[Run, Outcome]:
        """Makes the runs that are not on disk yet; gives all of them.

        Args:
          runs: what to make; equal ones once.
          label: for progress.

        Raises:
          ValueError: for a setting that cannot be read.
        """
        unique = list(dict.fromkeys(runs))
        outcomes = {r: kept for r in unique if (kept := load(r, self.out)) is not None}
        missing = [run for run in unique if run not in outcomes]
        note = f", {len(outcomes)} kept from before" if outcomes else ""
        if missing:
            print(f"{label}: {len(unique)} runs{note}", flush=True)
        progress = Progress(label, "runs", every=0.0)
        for done, (run, outcome) in enumerate(self._make(missing), 1):
            outcomes[run] = outcome
            ending = "" if outcome.stopped == "end" else f", {outcome.stopped}"
            note = (
                f"{run.policy} {run.model} rate {run.learning_rate:g} seed {run.seed}: "
                f"accuracy {outcome.final:.3f} ({outcome.took:.0f} s{ending})"
            )
            progress.update(done, len(missing), note)
        progress.close()
        return {run: outcomes[run] for run in unique}

    def _make(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Outcome]]:
        make = functools.partial(_make, out=str(self.out), data_dir=self.data_dir)
        if self.processes == 1:
            yield from ((run, make(run)) for run in runs)
            return
        if self._begun > _RUNS_OF_A_PROCESS * self.processes:
            self.close()
        self._begun += len(runs)
        if self._pool is None:
            self._pool = pool.start(self.processes, self.out / "programs")
        # Seed by seed: runs that differ in nothing else share a program, which two
        # processes would otherwise compile at the same time.
        runs = sorted(runs, key=lambda run: run.seed)
        waiting = {self._pool.submit(make, run): run for run in runs}
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()

    def close(self) -> None:
        """Ends the processes; runs that have not begun are not made."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool, self._begun = None, 0

    def __exit__(self, *error: object) -> None:
        self.close()


def load(run: Run, out: Path) -> Outcome | None:
    """A finished run, or None."""
    record = outputs.load_json(out / "runs" / f"{run.key}.json")
    try:
        return None if record is None else _outcome(record)
    except KeyError:
        return None


def _make(run: Run, out: str, data_dir: str | None) -> Outcome:
    """Makes one run and keeps it."""
    begun = time.monotonic()
    folder = Path(out) / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    described, run = run, located(run, data_dir)
    task = run.make_task(data_dir)
    every = run.eval_interval(task)
    # Enough versions for most traces, so that they share a compiled program.
    slots = 1 << (4 * run.workers).bit_length()
    if run.reads_loss() or run.until_seconds is not None:
        result = run.train(task, slots=slots)
        record = _record(result, every) | _made(result.trace, described.key, begun)
    else:
        trace = run.schedule(task)
        trained = _training_key(run, trace)
        shared = folder / f"{trained}.trained.json"
        kept = outputs.load_json(shared)
        if kept is not None:
            record = kept | _made(trace, trained, begun)
        else:
            result = run.replay(
                task,
                trace,
                eval_every_seconds=every,
                eval_every_commits=run.eval_commits,
                slots=slots,
            )
            record = _record(result, every) | _made(trace, trained, begun)
            _write(shared, record, described)
    _write(folder / f"{described.key}.json", record, described)
    return _outcome(record)


def located(run: Run, data_dir: str | None) -> Run:
    """The run with the places of recorded times written out.

    A run's description, and so its key, names them relative to this package or to the
    folder that holds data beside those of TFDS.
    """
    found = re.match(r'csv\("([^"]+)"', run.delays)
    if found is None:
        return run
    name = found[1]
    folders = [Path(__file__).parent, *([Path(data_dir)] if data_dir else [])]
    paths = [folder / name for folder in folders if (folder / name).exists()]
    if not paths:
        raise ValueError(f"--data_dir: there is no {name} in {data_dir}.")
    text = run.delays.replace(f'"{name}"', json.dumps(str(paths[0])), 1)
    return dataclasses.replace(run, delays=text)


def _training_key(run: Run, trace: traces.Trace) -> str:
    """A digest of what training depends on: the trace, and not whose it is."""
    columns = [getattr(trace, name).tobytes() for name in sorted(traces.COLUMNS)]
    decided = dict.fromkeys(("policy", "communication", "delays"), "")
    decided["trace"] = hashlib.sha256(b"".join(columns)).hexdigest()
    return outputs.digest(run.settings | decided, length=20)


def _record(result: replay.Result, every: float) -> dict[str, Any]:
    """What is kept of a training: evaluations at multiples of a time, and others.

    Messages are uploads (pushes received) and downloads, of which every computation
    needs one, and a cancelled one too; the first download of each worker is left out.
    """
    kept: dict[str, list[dict[str, float]]] = {"records": [], "between": []}
    last = result.history.records[-1:]
    for record in result.history.records:
        lost = cancelled(result.trace, record["seconds"])
        full = {**record, "messages": 2 * record["push"] + lost}
        grid = record["seconds"] / every
        regular = abs(grid - round(grid)) < 1e-9 or record in last
        kept["records" if regular else "between"].append(
            {name: float(f"{full[name]:.6g}") for name in _COLUMNS}
        )
    return kept | {"stopped": result.stopped}


def cancelled(trace: traces.Trace, seconds: float) -> float:
    """Computations that were cancelled up to a time.

    A trace tells how many lie between two pushes of a worker, not when; they are spread
    evenly over that time. After its last push there is at most one in a round.
    """
    total = 0.0
    for worker in range(trace.num_workers):
        rows = np.flatnonzero(trace.worker == worker)
        after = rows[-1] + 1 if rows.size else 0
        open_ = trace.open_restarts[worker] if trace.open_restarts else 0
        open_ = min(open_, int(trace.committed[after:].sum()))
        counts = np.cumsum([0, *trace.restarts[rows].tolist(), open_])
        times = [0.0, *trace.time[rows].tolist(), max(trace.seconds, 1e-12)]
        total += float(np.interp(seconds, times, counts))
    return total


def _made(trace: traces.Trace, trained: str, begun: float) -> dict[str, Any]:
    """What is kept of the trace, and of how the run was made."""
    names = ["commits", "seconds", "waiting_share", "cancelled_share"]
    names += ["discarded_share"]
    measures = {name: getattr(trace, name) for name in names} | {
        "pushes": len(trace),
        "mean_staleness": float(trace.staleness.mean()) if len(trace) else 0.0,
        "max_staleness": int(trace.staleness.max(initial=0)),
        "max_gap": int(trace.gaps.max(initial=0)),
        "restarts": round(cancelled(trace, trace.seconds)),
    }
    took = time.monotonic() - begun
    return {"measures": measures, "took": took, "trained": trained}


def _outcome(record: Mapping[str, Any]) -> Outcome:
    all_ = sorted(record["records"] + record["between"], key=lambda r: r["seconds"])
    rounds = outputs.kept_history({"records": all_})
    names = ("stopped", "measures", "took", "trained")
    values = {name: record[name] for name in names}
    return Outcome(outputs.kept_history(record), rounds, **values)


def _write(path: Path, record: Mapping[str, Any], run: Run) -> None:
    files.write(path, json.dumps(dict(record) | {"run": run.settings}))
