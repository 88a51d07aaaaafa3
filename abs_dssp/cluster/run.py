"""One process of a cluster: its workers, and the server in process 0."""

import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from abs_dssp import policies
from abs_dssp.cluster import bootstrap, run_config, topology
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.core import RunLimits
from abs_dssp.cluster.local_workers import LocalWorkers, injections
from abs_dssp.cluster.server import (
    Listening,
    Server,
    ServerConfig,
    ServerError,
    Training,
)
from abs_dssp.cluster.settings import Settings
from abs_dssp.cluster.status import Status
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.worker import WorkerError, WorkerPlan
from abs_dssp.history import traces
from abs_dssp.policies import Policy
from abs_dssp.simulation.delays import Delays
from abs_dssp.tasks.base import Task
from abs_dssp.training import checkpoints, flat
from abs_dssp.training.config import UpdateConfig
from abs_dssp.training.evaluation import History
from abs_dssp.training.replayer import Result


def train(
    cluster: Cluster,
    task: Task,
    policy: Policy,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    *,
    out: Path,
    num_pushes: int | None = None,
    until_seconds: float | None = None,
    target_accuracy: float | None = None,
    local_steps: int = 1,
    local_optimizer: optax.GradientTransformation | None = None,
    aggregate: str = "mean",
    identity: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),  # noqa: B008
    slowdown: Sequence[float] | None = None,
    pace: Delays | None = None,
    watch: Callable[[Status], None] | None = None,
    recorder: Callable[[dict[str, float]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Result | None:
    """Takes part in training until the run is over; every process calls it.

    Args:
      cluster: joined.
      task: model and data, of `cluster.num_workers` workers.
      policy: the rule.
      optimizer: the server's.
      seed: of initial parameters, batches and noise.
      out: folder of the run; log and checkpoints are process 0's. A run found there is
        recovered.
      num_pushes: stop after so many pushes.
      until_seconds: stop after so many seconds.
      target_accuracy: stop at the first evaluation of at least this accuracy.
      local_steps: U, gradient steps per push.
      local_optimizer: see `update.rule`.
      aggregate: see `update.rule`.
      identity: what else all processes must agree on, by name; values for JSON.
      settings: times and limits.
      slowdown: per worker, how many times as long its computations take.
      pace: seconds that computations take at least, as in virtual time.
      watch: called every second with the server's state, in process 0.
      recorder: called with every evaluation, in process 0.
      say: prints a line.

    Returns:
      In process 0 the trace, the final parameters and the evaluations; None in others.

    Raises:
      ServerError: if the run cannot go on.
      WorkerError: if the server refuses this process, or cannot be found.
    """
    if task.num_workers != cluster.num_workers:
        raise ValueError(
            f"train: the cluster has {cluster.num_workers} workers, "
            f"the task {task.num_workers}."
        )
    config = UpdateConfig(optimizer, local_optimizer, local_steps, aggregate)
    options = cluster.options
    wire = flat.wire(options.push_format, options.pull_format)
    functions = flat.Functions(task, config, wire)
    agreed = {
        "seed": seed,
        "policy": policies.describe(policy),
        "task": task.name,
        "num_workers": task.num_workers,
        "batch_size": task.batch_size,
        "local_steps": local_steps,
        "aggregate": aggregate,
        "parameters": functions.layout.size,
        "formats": list(functions.wire),
        "code": run_config.code_digest(),
        **(identity or {}),
    }
    say = say or _say
    workers = LocalWorkers(
        cluster,
        WorkerPlan(task, functions, seed, agreed, settings),
        injections(cluster, slowdown, pace, seed),
        say,
    )
    limits = RunLimits(num_pushes, until_seconds, target_accuracy)
    try:
        if not cluster.is_server:
            workers.run()
            return None
        with _Serving(
            cluster,
            Training(task, policy, functions, seed),
            ServerConfig(
                limits, agreed, settings, cluster.present, _listening(cluster)
            ),
            Path(out),
            say=say,
            recorder=recorder,
        ) as serving:
            return serving.run(workers, watch)
    finally:
        cluster.leave()


class _Serving:
    """The server with its log and checkpoints, closed at the end whatever happens."""

    def __init__(
        self,
        cluster: Cluster,
        training: Training,
        config: ServerConfig,
        out: Path,
        *,
        say: Callable[[str], None],
        recorder: Callable[[dict[str, float]], None] | None,
    ):
        self._cluster, self._training, self._out = cluster, training, out
        agreed = config.agreed
        header = {"num_workers": training.task.num_workers, "run": agreed}
        self._log = logs.Log(out, header, sync=config.settings.sync_log)
        run = repr(sorted(agreed.items()))
        store = checkpoints.Store(out / "checkpoints", run)
        self._server = Server(
            training, config, self._log, store=store, say=say, recorder=recorder
        )

    def __enter__(self) -> "_Serving":
        address = self._server.address | bootstrap.host()
        self._cluster.publish(address, self._out)
        return self

    def __exit__(self, *error) -> None:
        self._log.close()
        self._server.close()
        self._cluster.withdraw(self._out)

    def run(
        self, workers: LocalWorkers, watch: Callable[[Status], None] | None
    ) -> Result:
        """Serves until the run is over, beside this process's workers."""
        server = self._server
        workers.server = server
        ended = threading.Event()
        viewer = threading.Thread(
            target=_view, args=(server, watch, ended), name="view"
        )
        try:
            workers.start()
            viewer.start()
            with _Stopper(server):
                server.serve()
            server.evaluate_last()
            server.save_last()
        finally:
            ended.set()
            viewer.join()
            workers.stop()
        if watch is not None:
            watch(server.status())
        return self._result()

    def _result(self) -> Result:
        """What the log and the server's last state say."""
        server, (task, policy, functions, seed) = self._server, self._training
        _, entries, _ = logs.read(self._log.path)
        settings = {
            "num_workers": task.num_workers,
            "policy": policies.describe(policy),
            "local_steps": functions.config.local_steps,
            "seed": seed,
            "task": task.name,
            "versions": traces.package_versions(),
        }
        losses = [e.event.loss for e in entries if e.event.kind == "push"]
        return Result(
            trace=logs.to_trace(entries, settings).validate(),
            variables=functions.layout.unflatten(server.arithmetic.vector),
            history=History(tuple(server.records), np.array(losses, np.float32)),
            stopped=server.stopped,
        )


class _Stopper:
    """Ends the run in order on Ctrl-C or SIGTERM; it can be resumed."""

    def __init__(self, server: Server):
        self._server = server
        self._old: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error):
        for number, old in self._old.items():
            signal.signal(number, old)

    def _stop(self, number, frame):
        del frame
        name = signal.Signals(number).name
        self._server.stop(f"interrupted by {name}", resumes=True)


def _view(server: Server, watch, ended: threading.Event) -> None:
    """Shows the run every second; at once over if nobody watches."""
    while watch is not None and not ended.wait(1.0):
        watch(server.status())


def _listening(cluster: Cluster) -> Listening:
    """How workers reach the server: by ZeroMQ where they may be on other hosts."""
    options, local = cluster.options, cluster.is_local
    network = keys = None
    if options.transport == "zmq" or (options.transport == "auto" and not local):
        host, _, port = options.listen.partition(":")
        if not host:
            host = "127.0.0.1" if local else socket.gethostbyname(socket.gethostname())
        network = f"tcp://{host}:{port or 0}"
        keys = topology.load_keys(options)
    busy = cluster.processes if local else len(cluster.mine) + 1
    return Listening(options.transport in ("auto", "shm"), network, keys, busy)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


__all__ = ["ServerError", "WorkerError", "train"]
