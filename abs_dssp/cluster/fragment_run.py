"""One process of a run of fragments: its workers, and the servers of its group.

Process p of the first S serves the fragments p, p + S, p + 2 S, ..., each with a log
and checkpoints in a folder of its own. A server's address lies there, too: all
processes must see the folder of the run.
"""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abs_dssp import files
from abs_dssp.cluster import addresses, fragment_log, run_config, topology
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.connections import Listening
from abs_dssp.cluster.connector import Connector
from abs_dssp.cluster.fragment_server import FragmentServer
from abs_dssp.cluster.fragment_worker import FragmentWorker, Link
from abs_dssp.cluster.local_workers import WorkerThreads
from abs_dssp.cluster.push_store import PushStore
from abs_dssp.cluster.server import ServerConfig, ServerError, Training
from abs_dssp.cluster.stopping import Stopper
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.transport import Sizes
from abs_dssp.cluster.worker import Heartbeats, StragglerInjection, WorkerPlan
from abs_dssp.history import trace_format
from abs_dssp.training import checkpoints
from abs_dssp.training.evaluation import History
from abs_dssp.training.fragmented import Division, PartFunctions
from abs_dssp.training.replayer import Result

_OVER = "over.json"  # in the folder of a fragment whose server has ended
_PATIENCE = 60.0  # seconds for the other servers to end


@dataclasses.dataclass(frozen=True)
class Layout:
    """Who serves what."""

    parts: Division
    servers: int  # S

    def of_process(self, process: int) -> list[int]:
        """The fragments that a process serves."""
        if process >= self.servers:
            return []
        return list(range(process, len(self.parts.servers), self.servers))


def take_part(
    cluster: Cluster,
    job: Any,
    layout: Layout,
    straggling: dict[int, StragglerInjection],
    say: Callable[[str], None],
    begun: Callable[[], None] | None = None,
) -> Result | None:
    """Takes part until the run is over; see `run.train`.

    Args:
      cluster: joined.
      job: a `run.Job`.
      layout: who serves what.
      straggling: injected, by worker of this process.
      say: prints a line.
      begun: see `run.train`.

    Returns:
      In process 0 the trace, the final parameters and their evaluation; None in others.

    Raises:
      ServerError: if the run cannot go on.
      LogError: if a log cannot be read or written.
      WorkerError: if a server refuses this process, or cannot be found.
    """
    workers = _Workers(cluster, job, layout, straggling, say)
    mine = layout.of_process(cluster.process)
    try:
        if not mine:
            workers.run()
            return None
        with contextlib.ExitStack() as stack:
            servings = [
                stack.enter_context(_Serving(cluster, job, layout, fragment, say))
                for fragment in mine
            ]
            if begun is not None:
                begun()
            _serve(servings, workers)
        if cluster.process == 0:
            return _result(job, layout, servings[0].server.stopped)
        return None
    finally:
        cluster.leave()


class _Serving:
    """The server of one fragment, with its log, pushes and checkpoints."""

    def __init__(self, cluster: Cluster, job: Any, layout: Layout, fragment: int, say):
        task, policy, functions, seed = job.training
        self._cluster, self._folder = cluster, fragment_log.folder_of(job.out, fragment)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = run_config.digest(job.agreed)
        part = PartFunctions(functions, layout.parts, fragment)
        names = list(layout.parts.names[fragment])
        header = {"num_workers": task.num_workers, "run": job.agreed, "fragment": names}
        sync = job.settings.sync_log
        self._log = logs.Log(self._folder, header, sync=sync)
        format_ = Sizes.of(layout.parts.sizes[fragment], functions.wire)
        size = layout.parts.sizes[fragment]
        self._error: BaseException | None = None
        try:
            self._pushes = PushStore(self._folder, size, format_.push_dtype, sync=sync)
            limits = job.limits
            if limits.pushes is not None:
                count = len(layout.parts.servers)
                share = max(1, -(-(limits.pushes - fragment) // count))
                limits = dataclasses.replace(limits, pushes=share)
            agreed = job.agreed, job.settings
            run = repr(sorted(job.agreed.items()))
            self.server = FragmentServer(
                Training(task, policy, part, seed),
                ServerConfig(limits, *agreed, cluster.present, _listening(cluster)),
                self._log,
                self._pushes,
                store=checkpoints.Store(self._folder / "checkpoints", f"{run}{names}"),
                say=lambda line: say(f"fragment {fragment}: {line}"),
            )
        except BaseException:
            self._log.close()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"fragment {fragment}")

    def __enter__(self) -> "_Serving":
        with contextlib.suppress(OSError):
            (self._folder / _OVER).unlink()
        address = self.server.address | self._cluster.host()
        coordinator = self._cluster.coordinator
        address["network"] = addresses.offered(address["network"], coordinator)
        path = self._folder / topology.ADDRESS
        files.write(path, json.dumps(address), private=True)
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):
            (self._folder / topology.ADDRESS).unlink()
        server = self.server
        if server.stopped and not server.resumable and self._error is None:
            over = {"over": server.stopped, "run": self._run}
            files.write(self._folder / _OVER, json.dumps(over))
        server.close()
        self._pushes.close()
        self._log.close()

    def start(self) -> None:
        """Serves in a thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def finish(self) -> None:
        """After the thread: raises what ended it, or saves the state at the end."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        self.server.save_last()

    def _serve(self) -> None:
        try:
            self.server.serve()
        except BaseException as error:  # raised by `finish`
            self._error = error


def _serve(servings: list[_Serving], workers: "_Workers") -> None:
    """Serves, beside this process's workers, until all servers have ended."""
    workers.serves = True
    over = any(serving.server.stopped for serving in servings)  # before it began
    with Stopper([serving.server for serving in servings]):
        for serving in servings:
            serving.start()
        if not over:
            workers.start()
        try:
            while any(serving.alive for serving in servings):
                time.sleep(0.05)
                if not all(serving.alive for serving in servings):
                    _end_together(servings)
        finally:
            for serving in servings:
                serving.finish()
            if not over:
                workers.stop()


def _end_together(servings: list[_Serving]) -> None:
    """One fragment has ended: so has the run."""
    ended = next(s.server for s in servings if not s.alive)
    for serving in servings:
        if serving.alive:
            why = ended.stopped or "another fragment's server has failed"
            serving.server.stop(why, resumes=ended.resumable)


class _Workers(WorkerThreads):
    """The workers of this process, each linked to the servers of all fragments."""

    def __init__(self, cluster: Cluster, job: Any, layout: Layout, straggling, say):
        task, _, functions, seed = job.training
        plan = WorkerPlan(task, functions, seed, job.agreed, job.settings)
        super().__init__(cluster, plan, say)
        parts, identity = layout.parts, self.identity
        workers = [
            FragmentWorker(index, devices, plan, parts, straggling[index])
            for index, devices in cluster.mine.items()
        ]
        beats = []
        for fragment in range(len(parts.servers)):
            lookup = _Lookup(fragment_log.folder_of(job.out, fragment))
            connect = Connector(cluster, plan, lookup, self.name)
            own = Heartbeats(connect, job.settings, identity["nonce"])
            numbers = Sizes.of(parts.sizes[fragment], functions.wire)
            for worker in workers:
                link = Link(fragment, worker, connect, identity, own, numbers)
                worker.links.append(link)
                own.workers.append(link)
            beats.append(own)
        self._make(workers, _Beats(beats))

    def stop(self) -> None:
        """Ends the threads; who was not told of the run's end is not waited for."""
        self._ask_to_leave()
        super().stop()


class _Beats:
    """The signs of life to all servers."""

    def __init__(self, beats: list[Heartbeats]):
        self._beats = beats

    def start(self) -> None:
        """See `Heartbeats`."""
        for each in self._beats:
            each.start()

    def stop(self) -> None:
        """See `Heartbeats`."""
        for each in self._beats:
            each.stop()


class _Lookup:
    """Where a fragment's server is, by its folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while True:
            for name in (topology.ADDRESS, _OVER):
                with contextlib.suppress(OSError, ValueError):
                    return json.loads((self._folder / name).read_text())
            if time.monotonic() > end:
                return None
            time.sleep(0.1)


def _listening(cluster: Cluster) -> Listening:
    """How workers reach a server: over TCP, which never shows half a new version."""
    network = cluster.network or "tcp://127.0.0.1:0"
    if cluster.options.listen and len(cluster.options.listen.rpartition(":")[0]):
        network = network.rpartition(":")[0] + ":0"  # one port cannot serve several
    keys = None if cluster.network is None else topology.load_keys(cluster.options)
    busy = cluster.processes if cluster.is_local else len(cluster.mine) + 1
    return Listening(False, network, keys, busy + 1)


def settings_of(job: Any) -> dict[str, Any]:
    """What the trace of a run says of it."""
    task, policy, functions, seed = job.training
    steps = functions.config.local_steps
    known = trace_format.settings_of(policy, task.num_workers, steps, task.name)
    return known | {"seed": seed}


def _result(job: Any, layout: Layout, stopped: str) -> Result:
    """What all logs and the last checkpoints say; after all servers have ended.

    Raises:
      ServerError: if one does not end.
    """
    parts, task, functions = layout.parts, job.training.task, job.training.functions
    count = len(parts.servers)
    run = run_config.digest(job.agreed)
    end = time.monotonic() + _PATIENCE
    for fragment in range(count):
        lookup = _Lookup(fragment_log.folder_of(job.out, fragment))
        while (lookup(0.0) or {}).get("run") != run:
            if time.monotonic() > end:
                raise ServerError(
                    f"the server of fragment {fragment} has not ended within "
                    f"{_PATIENCE:.0f} s; look at its log, and start the same command "
                    "again."
                )
            time.sleep(0.1)
    trace, losses = fragment_log.read(
        job.out, parts.names, parts.sizes, settings_of(job)
    )
    vectors, _ = fragment_log.parameters(job.out, count)
    vector = parts.join([jax.numpy.asarray(np.asarray(each)) for each in vectors])
    measures = functions.evaluate(task.data, vector)
    samples = task.batch_size * functions.config.local_steps
    record = {
        "push": len(trace),
        "version": trace.commits,
        "seconds": trace.seconds,
        "epoch": len(trace) * samples / task.samples_per_epoch,
        **{name: float(value) for name, value in measures.items()},
    }
    return Result(
        trace=trace,
        variables=functions.layout.unflatten(vector),
        history=History((record,), losses),
        stopped=stopped,
    )
