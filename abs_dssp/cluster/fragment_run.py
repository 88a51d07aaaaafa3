"""One process of a run of fragments: its workers, and the servers of its group.

Process p of the first S serves the fragments p, p + S, p + 2 S, ..., each with a log
and checkpoints in a folder of its own. A server's address lies there, too: all
processes must see the folder of the run. Fragments do not end at the same push, and
the process that would tell of the end may be dead: whoever serves looks for it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from abs_dssp.cluster import (
    addresses,
    fragment_log,
    fragment_result,
    run_config,
    topology,
)
from abs_dssp.cluster import log as logs
from abs_dssp.cluster.connections import Listening
from abs_dssp.cluster.connector import Connector
from abs_dssp.cluster.duties import Record
from abs_dssp.cluster.fragment_links import Link, LinkHeartbeats, identity_of
from abs_dssp.cluster.fragment_server import FragmentServer
from abs_dssp.cluster.fragment_view import View
from abs_dssp.cluster.fragment_worker import FragmentWorker
from abs_dssp.cluster.local_workers import WorkerThreads
from abs_dssp.cluster.push_store import PushStore
from abs_dssp.cluster.server import ServerConfig, Training
from abs_dssp.cluster.status import Status
from abs_dssp.cluster.stopping import Stopper
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.transport import Sizes
from abs_dssp.cluster.whereabouts import Whereabouts
from abs_dssp.cluster.worker import StragglerInjection, WorkerPlan
from abs_dssp.cluster.worker_errors import EndedError
from abs_dssp.training import checkpoints
from abs_dssp.training.driver import Result
from abs_dssp.training.fragmented import Division, PartFunctions

_LOOK = 1.0  # seconds between two looks at whether another process has ended the run


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
    watch: Callable[[Status], None] | None = None,
    recorder: Callable[[Record], None] | None = None,
    system: System = REAL,
) -> Result | None:
    """Takes part until the run is over; see `run.train`.

    Args:
      cluster: joined.
      job: a `run.Job`.
      layout: who serves what.
      straggling: injected, by worker of this process.
      say: prints a line.
      begun: see `run.train`.
      watch: see `run.train`; what it sees is that of one fragment.
      recorder: see `run.train`.
      system: clock, threads, sockets and disk.

    Returns:
      In process 0 the trace, the final parameters and their evaluation; None in others.

    Raises:
      ServerError: if the run cannot go on.
      LogError: if a log cannot be read or written.
      WorkerError: if a server refuses this process, or cannot be found.
      EndedError: if the run was interrupted.
    """
    places = _Places(job, layout, system)
    workers = _Workers(cluster, job, layout, places, straggling, say, system)
    mine = layout.of_process(cluster.process)
    try:
        if not mine:
            workers.run()
            return None
        with contextlib.ExitStack() as stack:
            servings = [
                stack.enter_context(
                    _Serving(cluster, job, layout, fragment, places, say, system)
                )
                for fragment in mine
            ]
            if begun is not None:
                begun()
            first = next(iter(workers.workers), None)
            seen = servings[0].server, mine[0], first, layout.parts
            view = View(*seen, job, watch, recorder, say, system)
            with view.open():
                _serve(servings, workers, places, system)
        for server in (serving.server for serving in servings):
            if server.resumable:
                raise EndedError(workers.name, server.stopped)
        if cluster.process == 0:
            stopped = servings[0].server.stopped
            return fragment_result.read(
                job, layout, places.of, stopped, view.records, system
            )
        return None
    finally:
        cluster.leave()


class _Places:
    """Where the servers of all fragments are."""

    def __init__(self, job: Any, layout: Layout, system: System):
        count = len(layout.parts.servers)
        limits = list(dataclasses.astuple(job.limits))
        run = {"run": run_config.digest(job.agreed), "limits": limits}
        folders = [fragment_log.folder_of(job.out, f) for f in range(count)]
        self.of = [Whereabouts(folder, run, system) for folder in folders]

    def over(self) -> str:
        """Why the run is over, if a server has said so; else empty."""
        return next(filter(None, (place.over() for place in self.of)), "")


class _Serving:
    """The server of one fragment, with its log, pushes and checkpoints."""

    def __init__(
        self,
        cluster: Cluster,
        job: Any,
        layout: Layout,
        fragment: int,
        places: _Places,
        say: Callable[[str], None],
        system: System,
    ):
        task, policy, functions, seed = job.training
        self._cluster, self._places, self._place = cluster, places, places.of[fragment]
        folder = fragment_log.folder_of(job.out, fragment)
        system.os.makedirs(folder, exist_ok=True)
        part = _part(functions, layout.parts, fragment)
        names = list(layout.parts.names[fragment])
        header = {"num_workers": task.num_workers, "run": job.agreed, "fragment": names}
        sync = job.settings.sync_log
        self._log = logs.Log(folder, header, sync=sync, system=system)
        size = layout.parts.sizes[fragment]
        self._error: BaseException | None = None
        try:
            self._pushes = PushStore(
                folder,
                size,
                Sizes.of(size, functions.wire).push_dtype,
                logged=fragment_log.keys_of(self._log.entries),
                sync=sync,
                system=system,
            )
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
                store=checkpoints.Store(
                    folder / "checkpoints", f"{run}{names}", system.os
                ),
                say=lambda line: say(f"fragment {fragment}: {line}"),
                system=system,
            )
        except BaseException:
            self._log.close()
            raise
        self._thread = system.threading.Thread(
            target=self._serve, name=f"fragment {fragment}"
        )

    def __enter__(self) -> "_Serving":
        if self.server.stopped or self._places.over():
            self._place.withdraw()  # what one that died has left
            return self
        address = self.server.address | self._cluster.host()
        coordinator = self._cluster.coordinator
        address["network"] = addresses.offered(address["network"], coordinator)
        self._place.publish(address)
        return self

    def __exit__(self, *error) -> None:
        server = self.server
        try:
            self._place.withdraw()
            if server.stopped and not server.resumable and self._error is None:
                self._place.end(server.stopped)
        finally:
            server.close()
            self._pushes.close()
            self._log.close()

    def start(self, ended: Callable[[], None]) -> None:
        """Serves in a thread, which calls `ended` at its end."""
        self._ended = ended
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def finish(self) -> BaseException | None:
        """After the thread: saves the state at the end; what has gone wrong."""
        self._thread.join()
        if self._error is None:
            try:
                self.server.save_last()
            except Exception as error:
                self._error = error
        return self._error

    def _serve(self) -> None:
        try:
            self.server.serve()
        except BaseException as error:  # raised by `_serve`, below
            self._error = error
        self._ended()


@functools.lru_cache(maxsize=64)
def _part(functions: Any, parts: Division, fragment: int) -> PartFunctions:
    """Compiled once, however often its server is started in this process."""
    return PartFunctions(functions, parts, fragment)


def _serve(
    servings: list[_Serving], workers: "_Workers", places: _Places, system: System
) -> None:
    """Serves, beside this process's workers, until all servers have ended."""
    workers.serves = True
    changed = system.threading.Event()
    reasons = [places.over(), *(serving.server.stopped for serving in servings)]
    before = next(filter(None, reasons), "")
    with Stopper([serving.server for serving in servings], system):
        for serving in servings:
            serving.start(changed.set)
        if before:  # it was over before this process began
            _stop(servings, before, resumes=False)
        else:
            workers.start()
        try:
            while all(serving.alive for serving in servings):
                changed.wait(_LOOK)
                if over := places.over():
                    _stop(servings, over, resumes=False)
            _end_together(servings)
        finally:
            errors = [error for s in servings if (error := s.finish()) is not None]
            if not before:
                workers.stop()
    if errors:
        raise errors[0]


def _end_together(servings: list[_Serving]) -> None:
    """One fragment has ended: so has the run."""
    ended = next(s.server for s in servings if not s.alive)
    why = ended.stopped or "another fragment's server has failed"
    _stop(servings, why, resumes=ended.resumable)


def _stop(servings: list[_Serving], why: str, resumes: bool) -> None:
    for serving in servings:
        if serving.alive:
            serving.server.stop(why, resumes=resumes)


class _Workers(WorkerThreads):
    """The workers of this process, each linked to the servers of all fragments."""

    def __init__(
        self,
        cluster: Cluster,
        job: Any,
        layout: Layout,
        places: _Places,
        straggling: dict[int, StragglerInjection],
        say: Callable[[str], None],
        system: System,
    ):
        task, policy, functions, seed = job.training
        plan = WorkerPlan(task, functions, seed, job.agreed, job.settings)
        super().__init__(cluster, plan, say, system)
        parts, waits = layout.parts, policy.properties.waits
        workers = [
            FragmentWorker(
                index, devices, plan, parts, straggling[index], waits, system
            )
            for index, devices in cluster.mine.items()
        ]
        beats = []
        for fragment, place in enumerate(places.of):
            connect = Connector(cluster, plan, place, self.name, system)
            identity = identity_of(self.identity, fragment)
            own = LinkHeartbeats(connect, job.settings, identity["nonce"], system)
            numbers = Sizes.of(parts.sizes[fragment], functions.wire)
            for worker in workers:
                link = Link(fragment, worker, connect, identity, own, numbers)
                worker.links.append(link)
                own.workers.append(link)
            beats.append(own)
        self._make(workers, _Beats(beats))

    def stop(self) -> None:
        """Ends the threads; who was not told of the run's end is not waited for."""
        self.ask_to_leave()
        super().stop()


class _Beats:
    """The signs of life to all servers."""

    def __init__(self, beats: list[LinkHeartbeats]):
        self._beats = beats

    def start(self) -> None:
        """See `worker.Heartbeats`."""
        for each in self._beats:
            each.start()

    def stop(self) -> None:
        """See `worker.Heartbeats`."""
        for each in self._beats:
            each.stop()


def _listening(cluster: Cluster) -> Listening:
    """How workers reach a server: over TCP, which never shows half a new version."""
    network = cluster.network or "tcp://127.0.0.1:0"
    if cluster.options.listen and len(cluster.options.listen.rpartition(":")[0]):
        network = network.rpartition(":")[0] + ":0"  # one port cannot serve several
    keys = None if cluster.network is None else topology.load_keys(cluster.options)
    busy = cluster.processes if cluster.is_local else len(cluster.mine) + 1
    return Listening(False, network, keys, busy + 1)
