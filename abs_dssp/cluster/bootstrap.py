"""`jax.distributed`: who takes part, and where the server is.

No collective is ever on the path of a push. The service's store says where the server
listens, and nothing secret: whoever reaches the service can read it.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from abs_dssp import checks, compilation
from abs_dssp.cluster import coordinator

_KEY = "abs_dssp/server"
_LEFT = "abs_dssp/left/"  # of processes that leave, by index
_PATIENCE = 10.0  # seconds for the others to leave
_GRACE = 0.5
_COLLECTIVES = "cpu:gloo"  # where jax keeps who adds up with whom
_hosting = False  # whether this process hosts the service that the others need


class Place(NamedTuple):
    """This process among the others."""

    process: int  # index of this one
    processes: int


_GIVEN = {  # by the environment, as Kubeflow's trainer does
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def given(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `join` that the environment names; none unless it names them all.

    Args:
      environment: `os.environ`.

    Raises:
      ValueError: if a number is none.

    Example:
      >>> given({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"})
      {}
    """
    if not all(name in environment for name in _GIVEN.values()):
        return {}
    found: dict[str, Any] = {}
    for argument, name in _GIVEN.items():
        found[argument] = value = environment[name]
        if argument != "coordinator_address":
            if not value.isdecimal():
                raise ValueError(f"{name} must be a whole number, got {value!r}.")
            found[argument] = int(value)
    return found


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    apart: bool = False,
    together: bool = False,
    timeout: int = 30,
) -> Place:
    """Joins the cluster; call it before anything uses a device.

    Without arguments, `jax.distributed` finds a cluster that it knows: Slurm, Open MPI,
    Kubernetes, TPU. See `given` for what others say in the environment.

    Args:
      coordinator_address: HOST:PORT of the coordination service.
      num_processes: processes in all.
      process_id: index of this one.
      apart: the service runs in a process of its own, as the launcher starts it.
      together: processes compute together; elsewhere they do not need each other.
      timeout: seconds to look for the service.

    Raises:
      ValueError: if there is no cluster, or its service cannot be reached.
    """
    _configure(together)
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
    known = None not in (coordinator_address, num_processes, process_id)
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
    if known and (apart or process_id):
        _await_service(str(coordinator_address), timeout)
    try:
        what = f"cannot join the cluster at {coordinator_address} as process "
        with _in_one_sentence(f"{what}{process_id} of {num_processes}"):
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                coordinator_bind_address=bind,
                cluster_detection_method="deactivate" if known else None,
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
        raise checks.TransientError(
            f"cannot join the cluster at {coordinator_address} as process {process_id} "
            f"of {num_processes} ({reason}); check that the coordinator runs, its "
            "address, and that every process is given the same number."
        ) from None
    index, count = _state().process_id, _state().num_processes
    global _hosting
    _hosting = index == 0 and not apart
    with contextlib.suppress(Exception):
        _client().key_value_delete(f"{_LEFT}{index}")  # it was here before
    if index == 0:
        # What an earlier process 0 left would be taken for this one's.
        for platform in ("cpu", "cuda", "rocm"):
            with contextlib.suppress(Exception):
                _client().key_value_delete(f"{platform}:global_topology/{platform}")
    return Place(index, count)


def _configure(together: bool) -> None:
    compilation.compute_in_the_calling_thread()
    # A worker with several devices of one process adds within it alone, and in the
    # order in which a replay does that knows no other processes.
    chosen = "gloo" if together else None
    jax.config.update("jax_cpu_collectives_implementation", chosen)


def by_itself() -> None:
    """Has this process's devices add up as those of several processes would.

    For the replay of a run whose workers had several processes each; call it before
    anything uses a device.

    Raises:
      RuntimeError: if something has used one.
    """
    _configure(together=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    jax.distributed.initialize(address, 1, 0, coordinator_bind_address=address)


def forget_collectives(devices: Sequence[Any]) -> None:
    """Deletes what earlier processes said of how to reach them for sums.

    Args:
      devices: of whoever has come again; all of their processes must have ended.
    """
    ours = {str(device.id) for device in devices}
    for key, _ in _client().key_value_dir_get_bytes(_COLLECTIVES):
        among = key.removeprefix(f"{_COLLECTIVES}/").partition("/")[0].split(",")
        if ours & set(among):
            _client().key_value_delete(key)


def _await_service(address: str, seconds: float) -> None:
    """Waits until something listens there: jax itself ends the process otherwise."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--coordinator_address: expected HOST:PORT, got {address!r}.")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise checks.TransientError(
                    f"nobody listens at --coordinator_address={address} ({error}); "
                    "start process 0 or the coordinator first, and check the address."
                ) from None
            time.sleep(0.5)


_FILTER = """
import re, sys
said = sys.stdin.buffer.read()
if not said.endswith(b"\\0"):
    text = said.decode(errors="replace")
    found = re.search(r"absl::Status: (.*)", text)
    reason = found[1] if found else text.strip()[-300:]
    sys.exit(f"error: {sys.argv[1]}: {reason}; every process must be given the same "
             "--num_processes, and an index of its own.")
"""


@contextlib.contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """Has a small process say why, should jax end this one here, which it may do.

    What libraries write to standard error in the meantime is kept from the user.
    """
    teller = subprocess.Popen(
        [sys.executable, "-S", "-c", _FILTER, what], stdin=subprocess.PIPE
    )
    assert teller.stdin is not None
    real = os.dup(2)
    os.dup2(teller.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(real, 2)
        os.close(real)
        teller.stdin.write(b"\0")
        teller.stdin.close()
        teller.wait()


def leave() -> None:
    """Leaves the cluster.

    Where this process hosts the service, it waits for the others to leave before, a few
    seconds at most: jax aborts every process that is still connected when it stops.
    """
    with contextlib.suppress(Exception):
        if _hosting:
            _await_others()
        else:
            key = f"{_LEFT}{_state().process_id}"
            _client().key_value_set(key, "", allow_overwrite=True)
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()


def _await_others() -> None:
    others, end = _state().num_processes - 1, time.monotonic() + _PATIENCE
    if not others:
        return
    while len(_client().key_value_dir_get(_LEFT)) < others:
        if time.monotonic() > end:  # they have died
            return
        time.sleep(0.05)
    time.sleep(_GRACE)  # they have said so, and disconnect now


def publish(address: dict[str, Any], key: str = _KEY) -> None:
    """Tells where the server is; replaces what an earlier one told.

    Args:
      address: how to reach it; values for JSON.
      key: says who is reached there, if it is not the server.
    """
    _client().key_value_set(key, json.dumps(address), allow_overwrite=True)


def lookup(seconds: float, key: str = _KEY) -> dict[str, Any] | None:
    """Where the server is, or who else has the key; None if nobody told in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            return json.loads(_client().key_value_try_get(key))
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


def coordinator_address() -> str | None:
    """HOST:PORT of the coordination service, whoever found it; None before `join`."""
    return _state().coordinator_address


def _state() -> Any:
    from jax._src import distributed  # there is no public way to the store

    return distributed.global_state


def _client() -> Any:
    return _state().client
