"""Runs that are described by data, kept by their description, and made in parallel.

A run that is on disk is never made twice: its folder is named by a digest of all that
decides its result, package versions included. Runs whose traces are equal, as those of
rules that never had to act, are trained once, because training is a function of the
trace.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abs_dssp import (
    communication,
    delays,
    optimizers,
    policies,
    replay,
    simulate,
    tasks,
    traces,
)
from abs_dssp.training.evaluation import History


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides a run's result. Texts are those that flags take."""

    policy: str
    task: str
    model: str
    workers: int
    delays: str  # of one gradient
    batch_size: int
    learning_rate: float
    epochs: float | None  # None where only time ends the run
    eval_seconds: float  # virtual seconds between evaluations
    seed: int = 0
    communication: str = "none()"
    local_steps: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    drops: tuple[float, ...] = ()  # in units of `clock`
    clock: str = "epoch"
    aggregate: str = "mean"
    until_seconds: float | None = None
    loss_every: int | None = None
    augment: bool | None = None
    limit_train: int | None = None
    limit_test: int | None = None
    validation: int | None = None
    partition: str = "equal"
    shrink: int = 1  # of images, a side

    @property
    def key(self) -> str:
        """Names the run on disk."""
        return _digest([dataclasses.asdict(self), traces.package_versions()])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is kept of a run."""

    history: History
    stopped: str  # "end", or why the loss was not finite
    measures: Mapping[str, float]  # of the trace
    took: float  # seconds of this machine
    trained: str  # digest of what was trained: equal for equal traces

    @property
    def best(self) -> float:
        """The best accuracy of any evaluation."""
        return float(np.nanmax(self.history.column("accuracy"), initial=0.0))

    @property
    def final(self) -> float:
        """The mean accuracy of the last five evaluations; 0 if the run diverged."""
        if self.stopped != "end":
            return 0.0
        return float(np.mean(self.history.column("accuracy")[-5:]))

    def reaching(self, accuracy: float, column: str = "seconds") -> float | None:
        """Where the first evaluation of at least this accuracy lies."""
        record = self.history.first_reaching(accuracy)
        return None if record is None else float(record[column])


class Runner:
    """Makes runs, several at a time, and keeps them. Close it, or use `with`."""

    def __init__(self, out: Path, processes: int = 1, data_dir: str | None = None):
        """A runner.

        Args:
          out: folder that keeps runs, shared by all figures.
          processes: runs at a time; each takes one core where there are several.
          data_dir: folder of prepared TFDS data.
        """
        self.out, self.processes, self.data_dir = out, processes, data_dir
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        # Processes of the pool, and later calls, find each other's programs.
        jax.config.update("jax_compilation_cache_dir", str(out / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

    def execute(self, runs: Iterable[Run], label: str) -> dict[Run, Outcome]:
        """Makes the runs that are not on disk yet; gives all of them.

        Args:
          runs: what to make; equal ones once.
          label: for progress.

        Raises:
          ValueError: for a setting that cannot be read.
        """
        unique = list(dict.fromkeys(runs))
        found = {r: kept for r in unique if (kept := load(r, self.out)) is not None}
        missing = [run for run in unique if run not in found]
        note = f", {len(found)} kept from before" if found else ""
        if missing:
            print(f"{label}: {len(unique)} runs{note}", flush=True)
        progress = _Progress(label, len(missing))
        for run, outcome in self._make(missing):
            found[run] = outcome
            progress(run, outcome)
        progress.close()
        return {run: found[run] for run in unique}

    def _make(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Outcome]]:
        make = functools.partial(_make, out=str(self.out), data_dir=self.data_dir)
        if self.processes == 1:
            yield from ((run, make(run)) for run in runs)
            return
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.processes, multiprocessing.get_context("spawn"),
                initializer=_begin, initargs=(str(self.out / "programs"),),
            )  # fmt: skip
        waiting = {self._pool.submit(make, run): run for run in runs}
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()

    def close(self) -> None:
        """Ends the processes; runs that have not begun are not made."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _begin(cache: str) -> None:
    """A process of the pool, before it touches a device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A process per core: threads of one would only get into another's way.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"


def load(run: Run, out: Path) -> Outcome | None:
    """A finished run, or None."""
    try:
        record = json.loads((out / "runs" / f"{run.key}.json").read_text())
        return _outcome(record)
    except (OSError, ValueError, KeyError):
        return None


def _make(run: Run, out: str, data_dir: str | None) -> Outcome:
    """Makes one run and keeps it."""
    begun = time.monotonic()
    folder = Path(out) / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    task = _task(_only(run), data_dir)
    policy = policies.parse(run.policy, run.workers)
    step = delays.parse(run.delays, run.workers)
    speed = delays.per_step(step, run.local_steps)
    link = communication.parse(run.communication, 0)
    settings: dict[str, Any] = {
        "local_optimizer": _optimizer(run, local=True),
        "aggregate": run.aggregate,
        "eval_every_seconds": run.eval_seconds,
        # Enough for most traces, so that they share a compiled program.
        "slots": 1 << (4 * run.workers).bit_length(),
    }
    if policies.reads_loss(policy, run.workers) or run.until_seconds is not None:
        result = simulate.train(
            task, policy, speed, _optimizer(run), seed=run.seed,
            until_epochs=run.epochs, until_seconds=run.until_seconds,
            communication=link, local_steps=run.local_steps,
            loss_every=run.loss_every, **settings,
        )  # fmt: skip
        trained = run.key
    else:
        pushes = simulate.push_limit(task, None, None, run.epochs, run.local_steps)
        assert pushes is not None
        trace = simulate.schedule(
            policy, speed, pushes, run.seed, communication=link,
            local_steps=run.local_steps, task=task.name,
        )  # fmt: skip
        trained = _training(run, trace)
        copy = folder / f"{trained}.trained.json"
        if copy.exists():
            record = json.loads(copy.read_text()) | {
                "measures": _measures(trace), "took": time.monotonic() - begun,
            }  # fmt: skip
            _write(folder / f"{run.key}.json", record, run)
            return _outcome(record)
        result = replay.replay(task, _optimizer(run), trace, run.seed, **settings)
    record = {
        "records": [_short(r) for r in result.history.records],
        "stopped": result.stopped,
        "measures": _measures(result.trace),
        "took": time.monotonic() - begun,
        "trained": trained,
    }
    if trained != run.key:
        _write(folder / f"{trained}.trained.json", record, run)
    _write(folder / f"{run.key}.json", record, run)
    return _outcome(record)


def _only(run: Run) -> Run:
    """The run without what its task does not depend on, for the cache of tasks."""
    return Run(
        "", run.task, run.model, run.workers, "", run.batch_size, 0.0, None, 0.0,
        augment=run.augment, limit_train=run.limit_train, limit_test=run.limit_test,
        validation=run.validation, partition=run.partition, shrink=run.shrink,
    )  # fmt: skip


@functools.lru_cache(maxsize=8)
def _task(run: Run, data_dir: str | None):
    return tasks.parse(
        run.task, run.workers, model=run.model, batch_size=run.batch_size,
        data_dir=data_dir, augment=run.augment, limit_train=run.limit_train,
        limit_test=run.limit_test, validation=run.validation, partition=run.partition,
        shrink=run.shrink,
    )  # fmt: skip


def _optimizer(run: Run, local: bool = False):
    return _sgd(
        run.learning_rate, run.drops, 0.0 if local else run.momentum,
        run.weight_decay, run.clock,
    )  # fmt: skip


@functools.lru_cache  # the same object again, so that jit knows it
def _sgd(learning_rate, drops, momentum, weight_decay, clock):
    return optimizers.sgd(
        optimizers.drops(learning_rate, drops), momentum=momentum,
        weight_decay=weight_decay, clock=clock,
    )  # fmt: skip


def _training(run: Run, trace: traces.Trace) -> str:
    """A digest of what training depends on: the trace, and not whose it is."""
    columns = [getattr(trace, name).tobytes() for name in sorted(traces.COLUMNS)]
    trained = dataclasses.asdict(run) | {
        "policy": "", "communication": "", "delays": "",
        "trace": hashlib.sha256(b"".join(columns)).hexdigest(),
    }  # fmt: skip
    return _digest([trained, traces.package_versions()])


def _measures(trace: traces.Trace) -> dict[str, float]:
    staleness = trace.staleness
    return {
        "pushes": len(trace),
        "commits": trace.commits,
        "seconds": trace.seconds,
        "mean_staleness": float(staleness.mean()) if len(trace) else 0.0,
        "max_staleness": int(staleness.max(initial=0)),
        "max_gap": int(trace.gaps.max(initial=0)),
        "waiting_share": trace.waiting_share,
        "cancelled_share": trace.cancelled_share,
        "restarts": int(trace.restarts.sum()),
    }


def _short(record: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.7g}") for name, value in record.items()}


def _outcome(record: Mapping[str, Any]) -> Outcome:
    return Outcome(
        History(tuple(record["records"]), np.empty(0)), record["stopped"],
        record["measures"], record["took"], record["trained"],
    )  # fmt: skip


def _write(path: Path, record: Mapping[str, Any], run: Run) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"run": dataclasses.asdict(run)} | dict(record)))
    partial.replace(path)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class _Progress:
    """A bar on a terminal, a line per finished run elsewhere."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.done = label, total, 0
        self.begun = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            import tqdm

            self.bar = tqdm.tqdm(
                desc=label, total=total, unit=" runs", leave=False, dynamic_ncols=True
            )

    def __call__(self, run: Run, outcome: Outcome) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
            return
        left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        ending = "" if outcome.stopped == "end" else f", {outcome.stopped}"
        print(
            f"{self.label} [{self.done}/{self.total}] {run.policy} {run.model} "
            f"rate {run.learning_rate:g} seed {run.seed}: accuracy "
            f"{outcome.final:.3f} ({outcome.took:.0f} s{ending}; {left:.0f} s left)",
            flush=True,
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
