"""One process of a cluster: its workers, and the server in process 0."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from abs_dssp import policies
from abs_dssp.cluster import bootstrap, memory, run_config, transport
from abs_dssp.cluster import keys as keys_lib
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.core import RunLimits
from abs_dssp.cluster.server import (
    Listening,
    Server,
    ServerConfig,
    ServerError,
    Training,
)
from abs_dssp.cluster.settings import Settings, spin_seconds
from abs_dssp.cluster.status import Status
from abs_dssp.cluster.topology import Cluster, Options
from abs_dssp.cluster.transport import Channel, ClosedError
from abs_dssp.cluster.worker import (
    Heartbeats,
    StragglerInjection,
    Worker,
    WorkerError,
    nonce,
)
from abs_dssp.history import traces
from abs_dssp.policies import Policy
from abs_dssp.simulation import delays
from abs_dssp.simulation.delays import Delays
from abs_dssp.tasks.base import Task
from abs_dssp.training import checkpoints, flat, update
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
    rule = update.rule(optimizer, local_optimizer, local_steps, aggregate)
    options = cluster.options
    functions = flat.Functions(
        task, rule, flat.wire(options.push_format, options.pull_format)
    )
    say = say or _say
    known = {
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
    paces = _paces(cluster, slowdown, pace, seed)
    member = _Membership(cluster, task, functions, seed, known, settings, paces, say)
    if not cluster.is_server:
        try:
            member.run()
        finally:
            cluster.leave()
        return None
    try:
        return _serve(
            cluster, task, policy, functions, seed, known, member, Path(out),
            num_pushes, until_seconds, target_accuracy, settings, watch, recorder, say,
        )  # fmt: skip
    finally:
        cluster.leave()


def _serve(
    cluster, task, policy, functions, seed, known, member, out, num_pushes, until,
    target, settings, watch, recorder, say,
) -> Result:  # fmt: skip
    options = cluster.options
    header = {"num_workers": task.num_workers, "run": known}
    log = logs.Log(out, header, sync=settings.sync_log)
    store = checkpoints.Store(out / "checkpoints", repr(sorted(known.items())))
    local = cluster.is_local
    network = keys = None
    if options.transport == "zmq" or (options.transport == "auto" and not local):
        network = _listen_address(options, local)
        keys = _keys(options)
    processes = cluster.processes if local else len(cluster.mine) + 1
    server = Server(
        Training(task, policy, functions, seed),
        ServerConfig(
            RunLimits(num_pushes, until, target),
            agreed=known,
            settings=settings,
            expected=cluster.present,
            listening=Listening(
                options.transport in ("auto", "shm"), network, keys, processes
            ),
        ),
        log,
        store=store,
        say=say,
        recorder=recorder,
    )
    cluster.publish(server.address | bootstrap.host(), out)
    member.here = server
    stopper = _Stopper(server)
    viewer = None
    ended = threading.Event()
    try:
        member.start()
        if watch is not None:
            viewer = threading.Thread(
                target=_view, args=(server, watch, ended), name="view", daemon=True
            )
            viewer.start()
        with stopper:
            server.serve()
        server.evaluate_last()
        server.save_last()
    finally:
        ended.set()
        if viewer is not None:
            viewer.join()
        member.stop()
        log.close()
        server.close()
        cluster.withdraw(out)
    if watch is not None:
        watch(server.status())
    _, entries, _ = logs.read(log.path)
    trace = logs.to_trace(
        entries,
        {
            "num_workers": task.num_workers,
            "policy": policies.describe(policy),
            "local_steps": functions.config.local_steps,
            "seed": seed,
            "task": task.name,
            "versions": traces.package_versions(),
        },
    )
    variables = functions.layout.unflatten(server.arithmetic.vector)
    losses = [e.event.loss for e in entries if e.event.kind == "push"]
    return Result(
        trace=trace.validate(),
        variables=variables,
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


class _Membership:
    """The workers of this process and their signs of life."""

    def __init__(
        self, cluster: Cluster, task, functions, seed, known, settings, paces, say
    ):
        self._cluster, self._settings, self._say = cluster, settings, say
        self.here: Server | None = None  # the server, if it is in this process
        self._errors: list[BaseException] = []
        self._name = f"process {cluster.process}, pid {os.getpid()}"
        same = nonce()
        identity = {"nonce": same, "place": self._name, "run": known}
        # Whoever waits in a thread must not be kept from the interpreter's lock.
        sys.setswitchinterval(1e-3)
        self.beats = Heartbeats(self._connect, settings, same)
        self.workers = [
            Worker(
                index, self._connect, task, functions, device, seed, identity,
                self.beats, settings, paces[index], say,
            )
            for index, device in cluster.mine.items()
        ]  # fmt: skip
        self.beats.workers = self.workers
        self._threads = [
            threading.Thread(
                target=self._guarded, args=(w,), name=f"worker {w.index}", daemon=True
            )
            for w in self.workers
        ]

    def start(self) -> None:
        """Starts all threads."""
        if not self.workers:
            return
        self.beats.start()
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        """Works until the end; raises a worker's error."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self._ask_to_leave())
        self.start()
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.5)
        except KeyboardInterrupt:
            self._ask_to_leave()
            raise
        finally:
            self.stop()
        if self._errors:
            raise self._errors[0]
        for reason in sorted({w.reason for w in self.workers}):
            if reason != "end":
                self._say(f"{self._name}: {reason}")

    def stop(self) -> None:
        """Ends the threads; the run is over for this process."""
        if not self.workers:
            return
        end = time.monotonic() + 5
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.beats.stop()

    def _ask_to_leave(self) -> None:
        for worker in self.workers:
            worker.leaving = True

    def _guarded(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:  # raised by `run`, in the main thread
            self._errors.append(error)
            if self.here is not None:
                self._say(str(error))
            else:
                self._ask_to_leave()

    def _connect(self) -> Channel:
        options = self._cluster.options
        if self.here is not None:
            if options.transport in ("auto", "reference"):
                return transport.ReferenceChannel(
                    self.here.inbox, self.here.pool, self._name
                )
        address = self._cluster.lookup(1.0)
        if address is None:
            raise ClosedError("the server has not said where it is")
        same = {k: address.get(k) for k in ("boot", "namespace")} == bootstrap.host()
        wanted = options.transport
        if wanted == "reference":
            raise WorkerError(
                "--transport=reference: the server is in another process; use auto."
            )
        shared = address.get("shared") and same and memory.supported()
        if wanted == "shm" and not shared:
            raise WorkerError(
                "--transport=shm: the server is on another host; use auto or zmq."
            )
        if shared and wanted != "zmq":
            spin = spin_seconds(self._settings, self._cluster.processes)
            return transport.SharedChannel(address["shared"], spin)
        endpoint = address.get("network")
        if not endpoint:
            raise WorkerError(
                "the server takes workers of its own host only; start all processes "
                "with --transport=zmq."
            )
        keys = _keys(options) if address["encrypted"] else None
        return transport.NetworkChannel(endpoint, keys)


def _view(server: Server, watch, ended: threading.Event) -> None:
    while not ended.wait(1.0):
        watch(server.status())


def _paces(cluster: Cluster, slowdown, pace: Delays | None, seed: int):
    count = cluster.num_workers
    if slowdown is not None:
        if len(slowdown) != count or any(not s >= 1 for s in slowdown):
            raise ValueError(
                f"--slowdown: expected {count} numbers of at least 1, one per worker, "
                f"got {list(slowdown)}."
            )
    table = None if pace is None else delays.table(pace, 4096, seed)
    return {
        index: StragglerInjection(
            1.0 if slowdown is None else float(slowdown[index]),
            None if table is None else table[index],
        )
        for index in cluster.mine
    }


def _listen_address(options: Options, local: bool) -> str:
    import socket

    host, _, port = options.listen.partition(":")
    if not host:
        host = "127.0.0.1" if local else socket.gethostbyname(socket.gethostname())
    return f"tcp://{host}:{port or 0}"


def _keys(options: Options):
    if not options.encrypt:
        return None
    if options.key_file is None:
        raise WorkerError(
            "connections between hosts are encrypted and need --key_file: make one "
            "with python -m abs_dssp.cluster.keys PATH and give it to every process, "
            "or say --noencrypt on a network that you trust."
        )
    return keys_lib.load(options.key_file)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


__all__ = ["ServerError", "WorkerError", "train"]
