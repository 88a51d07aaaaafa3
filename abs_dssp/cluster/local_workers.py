"""The workers of one process: their threads, connections and signs of life."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from abs_dssp.cluster.connector import Connector
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.worker import Heartbeats, StragglerInjection, Worker, WorkerPlan
from abs_dssp.cluster.worker_errors import EndedError
from abs_dssp.simulation import delays
from abs_dssp.simulation.delays import Delays


class WorkerThreads:
    """One thread for every worker of a process.

    Attributes:
      name: of the process.
      identity: what its workers say of themselves.
      serves: whether a server is in this process, which tells of errors.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: WorkerPlan,
        say: Callable[[str], None],
        system: System = REAL,
    ):
        """Nothing runs yet; `_make` comes before anything else.

        Args:
          cluster: joined.
          plan: what the workers compute.
          say: prints a line for the user.
          system: has clock, threads and sockets.
        """
        self._say, self._system, self.serves = say, system, False
        self._errors: list[BaseException] = []
        self.name = f"process {cluster.process}, pid {system.os.getpid()}"
        # Tells this process from an earlier one with the same index.
        nonce = system.os.urandom(8).hex()
        self.identity = {"nonce": nonce, "process": self.name, "run": plan.agreed}
        # Whoever waits in a thread must not be kept from the interpreter's lock.
        sys.setswitchinterval(1e-3)

    def _make(self, workers: Sequence[Any], heartbeats: Any) -> None:
        """The threads, of what can `run`, and their signs of life."""
        self.workers, self._heartbeats = workers, heartbeats
        self._threads = [
            self._system.threading.Thread(
                target=self._guarded, args=(w,), name=f"worker {w.index}", daemon=True
            )
            for w in workers
        ]

    def start(self) -> None:
        """Starts all threads."""
        if not self.workers:
            return
        self._heartbeats.start()
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        """Works until the end; raises a worker's error.

        Raises:
          EndedError: if this was not the end of the run.
        """
        threading, signal = self._system.threading, self._system.signal
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self.ask_to_leave())
        self.start()
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.5)
        except KeyboardInterrupt:
            self.ask_to_leave()
            raise
        finally:
            self.stop()
        if self._errors:
            raise self._errors[0]
        for reason in sorted({w.reason for w in self.workers if w.resumes}):
            raise EndedError(self.name, reason)
        for reason in sorted({w.reason for w in self.workers}):
            if reason != "end":
                self._say(f"{self.name}: {reason}")

    def stop(self) -> None:
        """Ends the threads; the run is over for this process."""
        if not self.workers:
            return
        now = self._system.time.perf_counter
        end = now() + 5
        for thread in self._threads:
            thread.join(max(0.0, end - now()))
        self._heartbeats.stop()

    def ask_to_leave(self) -> None:
        """Ends the threads soon; the run may go on without this process."""
        for worker in self.workers:
            worker.leaving = True

    def _guarded(self, worker: Any) -> None:
        try:
            worker.run()
        except BaseException as error:  # raised by `run`, in the main thread
            self._errors.append(error)
            if self.serves:
                self._say(str(error))
            else:
                self.ask_to_leave()


class LocalWorkers(WorkerThreads):
    """The workers of one process, for a run with one server."""

    def __init__(
        self,
        cluster: Cluster,
        plan: WorkerPlan,
        injections: dict[int, StragglerInjection],
        say: Callable[[str], None],
        system: System = REAL,
    ):
        """Nothing runs yet.

        Args:
          cluster: joined.
          plan: what the workers compute.
          injections: by worker.
          say: prints a line for the user.
          system: has clock, threads and sockets.
        """
        super().__init__(cluster, plan, say, system)
        self._connect = Connector(cluster, plan, cluster.lookup, self.name, system)
        nonce = self.identity["nonce"]
        heartbeats = Heartbeats(self._connect, plan.settings, nonce, system)
        same = (plan, self._connect, self.identity, heartbeats)
        heartbeats.workers = [
            Worker(index, devices, *same, injections[index], system)
            for index, devices in cluster.mine.items()
        ]
        self._make(heartbeats.workers, heartbeats)

    def serve(self, server: Any) -> None:
        """The server is in this process."""
        self._connect.server, self.serves = server, True


def injections(
    cluster: Cluster,
    slowdown: Sequence[float] | None,
    pace: Delays | None,
    seed: int,
) -> dict[int, StragglerInjection]:
    """The injected straggling of this process's workers.

    Args:
      cluster: joined.
      slowdown: per worker, how many times as long its computations take.
      pace: seconds that computations take at least.
      seed: for the durations.

    Raises:
      ValueError: if there is not one number of at least 1 per worker.
    """
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
