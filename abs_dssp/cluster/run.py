"""One process of a cluster: its workers, and the server in process 0."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from abs_dssp import policies
from abs_dssp.cluster import addresses, fragment_run, run_config, team, topology
from abs_dssp.cluster import log as logs
from abs_dssp.cluster import status as statuses
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
from abs_dssp.cluster.stopping import Stopper
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.worker import StragglerInjection, WorkerPlan
from abs_dssp.cluster.worker_errors import WorkerError
from abs_dssp.history.trace_format import settings_of
from abs_dssp.policies import Policy
from abs_dssp.simulation import fragment_schedule
from abs_dssp.simulation.delays import Delays
from abs_dssp.tasks import splitting
from abs_dssp.tasks.base import Task, require_accuracy
from abs_dssp.training import checkpoints, flat, fragmented, mesh
from abs_dssp.training.checkpoints import read_file
from abs_dssp.training.config import UpdateConfig
from abs_dssp.training.driver import Result
from abs_dssp.training.evaluation import History


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, the same for all of its processes."""

    training: Training
    limits: RunLimits
    agreed: Mapping[str, Any]  # what all processes must agree on, by name
    settings: Settings
    out: Path  # its folder, for process 0


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
    push: str = "gradients",
    local_state: str = "fresh",
    fragments: int = 1,
    servers: int = 1,
    identity: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),  # noqa: B008
    slowdown: Sequence[float] | None = None,
    pace: Delays | None = None,
    begun: Callable[[], None] | None = None,
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
      local_optimizer: see `config.UpdateConfig`.
      aggregate: see `config.UpdateConfig`.
      push: see `config.UpdateConfig`.
      local_state: see `config.UpdateConfig`.
      fragments: F, parts of the parameters with a server each; see `virtual.train`.
      servers: S, processes that have these servers, from process 0 on; at most F. With
        more than one fragment, all processes must see the folder `out`.
      identity: what else all processes must agree on, by name; values for JSON.
      settings: times and limits.
      slowdown: per worker, how many times as long its computations take.
      pace: seconds that computations take at least, as in virtual time.
      begun: called in process 0 once the run in `out` is this one and nobody else's,
        before anything is written there but the log.
      watch: called every second with the server's state, in process 0.
      recorder: called with every evaluation, in process 0.
      say: prints a line.

    Returns:
      In process 0 the trace, the final parameters and the evaluations; None in others.

    Raises:
      ServerError: if the run cannot go on.
      WorkerError: if the server refuses this process, or cannot be found.
      EndedError: if the run was interrupted, or a process without the server was.
    """
    if task.num_workers != cluster.num_workers:
        raise ValueError(
            f"train: the cluster has {cluster.num_workers} workers, "
            f"the task {task.num_workers}."
        )
    require_accuracy("train", task, target_accuracy)
    kinds = (aggregate, push, local_state)
    config = UpdateConfig(optimizer, local_optimizer, local_steps, *kinds)
    options = cluster.options
    wire = flat.wire(options.push_format, options.pull_format)
    count, together = options.devices_per_worker, options.processes_per_worker
    split = splitting.of_task(task, count, options.sharding, together)
    functions = mesh.functions(task, config, wire, split)
    if cluster.is_server:
        functions.placed(())  # it computes pushes again: refused at once if it cannot
    agreed = {
        "seed": seed,
        "policy": policies.describe(policy),
        "task": task.name,
        "num_workers": task.num_workers,
        "batch_size": task.batch_size,
        "local_steps": local_steps,
        "aggregate": aggregate,
        "push": push,
        "local_state": local_state,
        "parameters": functions.layout.size,
        "formats": list(functions.wire),
        "devices_per_worker": count,
        "sharding": "" if split is None else split.digest,
        "code": run_config.code_digest(),
        **(identity or {}),
    }
    limits = RunLimits(num_pushes, until_seconds, target_accuracy)
    training = Training(task, policy, functions, seed)
    straggling = injections(cluster, slowdown, pace, seed)
    if fragments > 1:
        layout = _layout(cluster, training, fragments, servers, target_accuracy)
        agreed |= {"fragments": fragments, "servers": servers}
        job = Job(training, limits, agreed, settings, Path(out))
        return fragment_run.take_part(
            cluster, job, layout, straggling, say or _say, begun, watch, recorder
        )
    return take_part(
        cluster,
        Job(training, limits, agreed, settings, Path(out)),
        straggling,
        begun=begun,
        watch=watch,
        recorder=recorder,
        say=say or _say,
    )


def _layout(
    cluster: Cluster, training: Training, fragments: int, servers: int, target: Any
) -> fragment_run.Layout:
    """Who serves which fragments.

    Raises:
      ValueError: for what several fragments cannot have.
    """
    task, policy, functions, _ = training
    fragment_schedule.require_policy("train", policy, task.num_workers)
    stated = policy.properties
    if stated.waits and not stated.commits_every_push and stated.max_gap is None:
        raise ValueError(
            "--fragments: real workers die, and a rule that waits for a number of "
            "pushes may then wait for ever, for those who wait at another fragment, "
            f"got {policies.describe(policy)}; take bsp(), asp(), ssp(), dssp() or "
            "k_batch_async()."
        )
    fragmented.require_displacement("train", functions.config)
    most = min(fragments, cluster.processes)
    if not 1 <= servers <= most:
        raise ValueError(
            f"--servers: must be 1 to {most}, as many as there are fragments and "
            f"processes at most, got {servers}."
        )
    if functions.split is not None:
        raise ValueError(
            "--devices_per_worker: workers of a run with --fragments have one device "
            f"each, got {functions.split.devices}."
        )
    if target is not None:
        raise ValueError(
            "--target_accuracy: no server of a run with --fragments sees all "
            f"parameters, which are evaluated at the end alone, got {target}."
        )
    parts = fragmented.division(task, functions.config, fragments)
    return fragment_run.Layout(parts, servers)


def take_part(
    cluster: Cluster,
    job: Job,
    straggling: dict[int, StragglerInjection],
    *,
    begun: Callable[[], None] | None = None,
    watch: Callable[[Status], None] | None = None,
    recorder: Callable[[dict[str, float]], None] | None = None,
    say: Callable[[str], None],
    system: System = REAL,
) -> Result | None:
    """What `train` does when everything is known; on any system.

    Args:
      cluster: joined.
      job: the run.
      straggling: injected, by worker of this process.
      begun: see `train`.
      watch: see `train`.
      recorder: see `train`.
      say: prints a line.
      system: clock, threads, sockets and disk.

    Returns:
      See `train`.

    Raises:
      ServerError: if the run cannot go on.
      LogError: if its log cannot be read or written.
      WorkerError: if the server refuses this process, or cannot be found.
    """
    task, _, functions, seed = job.training
    plan = WorkerPlan(task, functions, seed, job.agreed, job.settings)
    try:
        if cluster.team is not None:
            team.take_part(cluster, plan, straggling, say)
            return None
        workers = LocalWorkers(cluster, plan, straggling, say, system)
        if not cluster.is_server:
            workers.run()
            return None
        with _Serving(cluster, job, say, recorder, system) as serving:
            if begun is not None:
                begun()
            serving.publish()
            return serving.run(workers, watch)
    finally:
        cluster.leave()


class _Serving:
    """The server with its log and checkpoints, closed at the end whatever happens."""

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        say: Callable[[str], None],
        recorder: Callable[[dict[str, float]], None] | None,
        system: System,
    ):
        self._cluster, self._training, self._out = cluster, job.training, job.out
        self._expected, self._system = cluster.present, system
        agreed, settings = job.agreed, job.settings
        self._run = run_config.digest(agreed)
        header = {"num_workers": job.training.task.num_workers, "run": agreed}
        split = job.training.functions.split
        if split is not None:
            header["split"] = split.record
        sync = settings.sync_log
        self._log = logs.Log(job.out, header, sync=sync, system=system)
        run = repr(sorted(agreed.items()))
        config = ServerConfig(
            job.limits, agreed, settings, cluster.present, _listening(cluster)
        )
        try:
            self._server = Server(
                job.training,
                config,
                self._log,
                store=checkpoints.Store(job.out / "checkpoints", run, system.os),
                say=say,
                recorder=recorder,
                system=system,
            )
        except BaseException:
            self._log.close()
            raise

    def __enter__(self) -> "_Serving":
        return self

    def __exit__(self, *error) -> None:
        server = self._server
        over = {"over": server.stopped, "run": self._run}
        done = server.stopped and not server.resumable
        self._cluster.withdraw(self._out, over if done else None)
        self._server.close()
        self._log.close()  # last: from here on the folder may be another's

    def publish(self) -> None:
        """Tells the workers where the server is."""
        address = self._server.address | self._cluster.host()
        coordinator = self._cluster.coordinator
        address["network"] = addresses.offered(address["network"], coordinator)
        self._cluster.publish(address, self._out)

    def run(
        self, workers: LocalWorkers, watch: Callable[[Status], None] | None
    ) -> Result:
        """Serves until the run is over, beside this process's workers."""
        server = self._server
        workers.serve(server)
        threading = self._system.threading
        ended = threading.Event()
        viewer = threading.Thread(
            target=_view, args=(server, watch, ended), name="view"
        )
        try:
            workers.start()
            viewer.start()
            with Stopper([server], self._system):
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
        path = self._log.path
        try:
            _, entries, _ = logs.parse(read_file(self._system.os, path), path)
        except OSError as error:
            raise logs.LogError(
                f"{path}: {error.strerror}; start the same command again."
            ) from error
        steps, split = functions.config.local_steps, functions.split
        settings = settings_of(policy, task.num_workers, steps, task.name)
        settings |= {"seed": seed, "split": {} if split is None else split.record}
        losses = [e.event.loss for e in entries if e.event.kind == "push"]
        return Result(
            trace=logs.to_trace(entries, settings).validate(),
            variables=functions.layout.unflatten(server.arithmetic.vector),
            history=History(tuple(server.records), np.array(losses, np.float32)),
            stopped=server.stopped,
            missing=statuses.missing(entries, self._expected),
        )


def _view(server: Server, watch, ended: Any) -> None:
    """Shows the run every second; at once over if nobody watches."""
    while watch is not None and not ended.wait(1.0):
        watch(server.status())


def _listening(cluster: Cluster) -> Listening:
    """How workers reach the server: over TCP where they may be on other hosts."""
    options, local = cluster.options, cluster.is_local
    network = cluster.network
    keys = None if network is None else topology.load_keys(options)
    busy = cluster.processes if local else len(cluster.mine) + 1
    return Listening(options.transport in ("auto", "shm"), network, keys, busy)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


__all__ = ["Job", "ServerError", "WorkerError", "take_part", "train"]
