"""`jax.distributed`: who takes part, and where the server is.

No collective is ever on the path of a push. The service's store says where the server
listens, and nothing secret: whoever reaches the service can read it.
"""

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from abs_dssp.cluster import coordinator

_KEY = "abs_dssp/server"


class Place(NamedTuple):
    """This process among the others."""

    process: int  # index of this one
    processes: int


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    apart: bool = False,
    timeout: int = 60,
) -> Place:
    """Joins the cluster; call it before anything uses a device.

    Without arguments, `jax.distributed` finds a cluster that it knows: Slurm, Open MPI,
    Kubernetes, TPU.

    Args:
      coordinator_address: HOST:PORT of the coordination service.
      num_processes: processes in all.
      process_id: index of this one.
      apart: the service runs in a process of its own, as the launcher starts it.
      timeout: seconds to look for the service.

    Raises:
      ValueError: if there is no cluster, or its service cannot be reached.
    """
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
    given = None not in (coordinator_address, num_processes, process_id)
    host = (coordinator_address or "").rsplit(":", 1)[0]
    local = host in ("127.0.0.1", "localhost")
    if apart and process_id == 0:
        bind: str | None = (
            "127.0.0.1:0"  # jax insists that process 0 hosts one: an unused one
        )
    elif local:
        bind = coordinator_address  # never open to others
    else:
        bind = None  # all interfaces: where the other hosts come from is unknown
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            coordinator_bind_address=bind,
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=coordinator.HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=5,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"no cluster found ({error}); start with scripts/launch, or give "
            "--coordinator_address, --num_processes and --process_id."
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"cannot join the cluster at {coordinator_address} as process {process_id} "
            f"of {num_processes} ({reason}); check that the coordinator runs, its "
            "address, and that every process is given the same number."
        ) from None
    index, count = _state().process_id, _state().num_processes
    if index == 0:
        # What an earlier process 0 left would be taken for this one's.
        for platform in ("cpu", "cuda", "rocm"):
            with contextlib.suppress(Exception):
                _client().key_value_delete(f"{platform}:global_topology/{platform}")
    return Place(index, count)


def leave() -> None:
    """Leaves the cluster, without waiting for those who do not answer."""
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()


def publish(address: dict[str, Any]) -> None:
    """Tells where the server is; replaces what an earlier one told."""
    _client().key_value_set(_KEY, json.dumps(address), allow_overwrite=True)


def lookup(seconds: float) -> dict[str, Any] | None:
    """Where the server is; None if nobody has told within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            return json.loads(_client().key_value_try_get(_KEY))
        except (jax.errors.JaxRuntimeError, ValueError):
            if time.monotonic() > end:
                return None
            time.sleep(0.1)


def host() -> dict[str, str]:
    """What two processes on one host have in common."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/net").readlink())  # abstract sockets'
    except OSError:
        boot, namespace = socket.gethostname(), ""
    return {"boot": boot, "namespace": namespace}


def _state() -> Any:
    from jax._src import distributed  # there is no public way to the store

    return distributed.global_state


def _client() -> Any:
    return _state().client
