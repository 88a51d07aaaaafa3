"""The workers of one process: their threads, connections and signs of life."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from abs_dssp.cluster import addresses, memory, run_config, topology, transport
from abs_dssp.cluster.settings import spin_seconds
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.transport import Channel, ClosedError
from abs_dssp.cluster.worker import (
    EndedError,
    Heartbeats,
    OverError,
    StragglerInjection,
    Worker,
    WorkerError,
    WorkerPlan,
)
from abs_dssp.simulation import delays
from abs_dssp.simulation.delays import Delays


class LocalWorkers:
    """One thread for every worker of this process, and one for their heartbeats."""

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
        self._cluster, self._say = cluster, say
        self._run = run_config.digest(plan.agreed)
        self._system = system
        self._spin = spin_seconds(plan.settings, cluster.processes)
        self.server: Any = None  # a `Server`, if it is in this process
        self._errors: list[BaseException] = []
        self._name = f"process {cluster.process}, pid {system.os.getpid()}"
        # Tells this process from an earlier one with the same index.
        same = system.os.urandom(8).hex()
        identity = {"nonce": same, "process": self._name, "run": plan.agreed}
        # Whoever waits in a thread must not be kept from the interpreter's lock.
        sys.setswitchinterval(1e-3)
        self._heartbeats = Heartbeats(self._connect, plan.settings, same, system)
        self.workers = [
            Worker(
                index,
                devices,
                plan,
                self._connect,
                identity,
                self._heartbeats,
                injections[index],
                system,
            )
            for index, devices in cluster.mine.items()
        ]
        self._heartbeats.workers = self.workers
        self._threads = [
            system.threading.Thread(
                target=self._guarded, args=(w,), name=f"worker {w.index}", daemon=True
            )
            for w in self.workers
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
        for reason in sorted({w.reason for w in self.workers if w.resumes}):
            raise EndedError(self._name, reason)
        for reason in sorted({w.reason for w in self.workers}):
            if reason != "end":
                self._say(f"{self._name}: {reason}")

    def stop(self) -> None:
        """Ends the threads; the run is over for this process."""
        if not self.workers:
            return
        now = self._system.time.perf_counter
        end = now() + 5
        for thread in self._threads:
            thread.join(max(0.0, end - now()))
        self._heartbeats.stop()

    def _ask_to_leave(self) -> None:
        for worker in self.workers:
            worker.leaving = True

    def _guarded(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:  # raised by `run`, in the main thread
            self._errors.append(error)
            if self.server is not None:
                self._say(str(error))
            else:
                self._ask_to_leave()

    def _connect(self) -> Channel:
        options = self._cluster.options
        if self.server is not None:
            if options.transport in ("auto", "reference"):
                return transport.ReferenceChannel(
                    self.server.inbox, self.server.pool, self._name
                )
        address = self._cluster.lookup(1.0)
        if address is None:
            raise ClosedError("the server has not said where it is")
        if "over" in address:  # a run that the same service has seen
            if address["run"] == self._run:
                raise OverError(address["over"])
            raise ClosedError("the server has not said where it is")
        same = {
            k: address.get(k) for k in ("boot", "namespace")
        } == self._cluster.host()
        wanted = options.transport
        if wanted == "reference":
            raise WorkerError(
                "--transport=reference: the server is in another process; use auto."
            )
        shared = address.get("shared") and same and memory.supported()
        if wanted == "shm" and not shared:
            raise WorkerError(
                "--transport=shm: the server is on another host; use auto or tcp."
            )
        if shared and wanted != "tcp":
            return transport.SharedChannel(address["shared"], self._spin, self._system)
        endpoint = address.get("network")
        if not endpoint:
            raise WorkerError(
                "the server takes workers of its own host only; start all processes "
                "with --transport=tcp."
            )
        if not same and addresses.is_loopback(addresses.parts(endpoint)[0]):
            raise WorkerError(
                f"the server listens at {endpoint}, which only its own host reaches; "
                "start process 0 with --listen=HOST[:PORT], an address of its host."
            )
        try:
            keys = topology.load_keys(options) if address["encrypted"] else None
        except ValueError as error:
            raise WorkerError(str(error)) from None
        return transport.NetworkChannel(endpoint, keys, self._spin, self._system)


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
