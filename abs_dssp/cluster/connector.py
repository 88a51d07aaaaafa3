"""How a worker finds its server, and by which transport it reaches it."""

from collections.abc import Callable
from typing import Any

from abs_dssp.cluster import addresses, memory, run_config, topology, transport
from abs_dssp.cluster.settings import spin_seconds
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.topology import Cluster
from abs_dssp.cluster.transport import Channel, ClosedError
from abs_dssp.cluster.worker import WorkerPlan
from abs_dssp.cluster.worker_errors import OverError, WorkerError

Lookup = Callable[[float], dict[str, Any] | None]


class Connector:
    """Opens connections to one server; called from any thread.

    Attributes:
      server: a `Server`, if it is in this process.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: WorkerPlan,
        lookup: Lookup,
        name: str,
        system: System = REAL,
    ):
        """Nothing is opened.

        Args:
          cluster: joined.
          plan: what the workers compute.
          lookup: where the server is; None if nobody tells within so many seconds.
          name: of this process.
          system: has clock, threads and sockets.
        """
        self._cluster, self._lookup, self._name = cluster, lookup, name
        self._run = run_config.digest(plan.agreed)
        self._spin = spin_seconds(plan.settings, cluster.processes)
        self._system = system
        self.server: Any = None

    def __call__(self) -> Channel:
        """A new connection.

        Raises:
          ClosedError: if the server has not said where it is.
          OSError: if nobody listens there.
          OverError: if the run is over.
          WorkerError: if there is no transport for it.
        """
        options = self._cluster.options
        if self.server is not None:
            if options.transport in ("auto", "reference"):
                return transport.ReferenceChannel(
                    self.server.inbox, self.server.pool, self._name
                )
        address = self._lookup(1.0)
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
