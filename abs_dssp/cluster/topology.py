"""Which workers there are, which of them are ours here, and where the server is."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from abs_dssp import checks, compilation, files
from abs_dssp.cluster import addresses, bootstrap, keys, transport
from abs_dssp.tasks import splitting

ADDRESS = "server.json"  # in the folder of a run: where its server is


@dataclasses.dataclass(frozen=True)
class Options:
    """How a process takes part; the same for all processes but `process_id`."""

    coordinator_address: str | None = None  # None: as jax.distributed finds it
    num_processes: int | None = None
    process_id: int | None = None
    coordinator_apart: bool = False
    server_works: bool = True  # whether process 0 has workers beside the server
    transport: str = "auto"  # or "reference", "shm", "tcp"
    listen: str = ""  # HOST[:PORT] for TCP; "": chosen
    encrypt: bool = True
    key_file: str | None = None
    max_workers: int | None = None  # N; more than there are now may come later
    push_format: str = "float32"
    pull_format: str = "float32"
    devices_per_worker: int = 1
    processes_per_worker: int = 1  # among which these devices are divided evenly
    sharding: str | splitting.Rule = "largest"  # see `splitting.of_task`

    def __post_init__(self):
        devices, processes = self.devices_per_worker, self.processes_per_worker
        checks.whole("cluster", "devices_per_worker", devices, least=1)
        checks.whole("cluster", "processes_per_worker", processes, least=1)
        if devices % processes:
            raise ValueError(
                f"--processes_per_worker: must divide --devices_per_worker={devices}, "
                f"got {processes}."
            )
        splitting.parse(self.sharding)  # refuses what it does not know
        name = transport.OLD_NAMES.get(self.transport, self.transport)
        object.__setattr__(self, "transport", name)
        if self.transport not in transport.NAMES:
            known = ", ".join(transport.NAMES)
            raise ValueError(
                f"--transport: must be one of {known}, got {self.transport!r}."
            )

    @property
    def is_local(self) -> bool:
        """Whether all processes are on this machine, as far as the options say."""
        host = (self.coordinator_address or "").rsplit(":", 1)[0]
        return host in ("127.0.0.1", "localhost")

    def on_network(self, local: bool) -> bool:
        """Whether vectors may travel over TCP."""
        return self.transport == "tcp" or (self.transport == "auto" and not local)


class Team(NamedTuple):
    """A worker that has several processes."""

    worker: int  # its index
    processes: tuple[int, ...]  # the first one leads, the others follow
    devices: tuple[Any, ...]  # in the order of the processes, as many of each


class Cluster:
    """This process among the others, before a task is chosen.

    Attributes:
      team: that this process belongs to; None where every worker has one process.
    """

    team: Team | None = None

    def __init__(
        self, options: Options, process: int, processes: int, present: int, mine
    ):
        """Use `joined`, `alone` or `guest`.

        Args:
          options: how to take part.
          process: index of this one; the server is in process 0.
          processes: how many there are.
          present: workers at the start.
          mine: devices of each of this process's workers, by worker.
        """
        self.options = options
        self.process, self.processes = process, processes
        self.present, self.mine = present, mine
        self.num_workers = options.max_workers or present
        if self.num_workers < present:
            raise ValueError(
                f"--max_workers: must be at least the {present} workers that there "
                f"are, got {self.num_workers}."
            )

    @property
    def network(self) -> str | None:
        """The TCP address to listen on for workers of other hosts, if there may be
        any."""
        if not self.options.on_network(self.is_local):
            return None
        host, _, port = self.options.listen.rpartition(":")
        if not port.isdecimal():
            host, port = self.options.listen, "0"
        if not host:
            host = "127.0.0.1" if self.is_local else addresses.own(self.coordinator)
        return f"tcp://{host}:{port}"

    @property
    def coordinator(self) -> str | None:
        """HOST:PORT of the coordination service, if there is one."""
        return bootstrap.coordinator_address()

    @property
    def is_server(self) -> bool:
        """Whether the server runs here."""
        return self.process == 0

    @property
    def follows(self) -> bool:
        """Whether this process computes with another one, which leads."""
        return self.team is not None and self.team.processes[0] != self.process

    @property
    def is_local(self) -> bool:
        """Whether all processes are on this machine."""
        return self.options.is_local

    def publish(self, address: dict[str, Any], folder: Path) -> None:
        """Tells the other processes where the server is, and guests by a file."""
        bootstrap.publish(address)
        _write(address | {"workers": self.num_workers}, folder)

    def withdraw(self, folder: Path, over: dict[str, Any] | None) -> None:
        """The server is nowhere any more.

        Args:
          folder: of the run.
          over: for workers who look for it later; None if the run may go on.
        """
        with contextlib.suppress(OSError):
            (folder / ADDRESS).unlink()
        if over is not None:
            with contextlib.suppress(Exception):  # the service may have gone first
                bootstrap.publish(over)

    def lookup(self, seconds: float) -> dict[str, Any] | None:
        """Where the server is; None if nobody has told within `seconds`."""
        return bootstrap.lookup(seconds)

    def host(self) -> dict[str, str]:
        """What processes on this host have in common."""
        return bootstrap.host()

    def leave(self) -> None:
        """Leaves the others alone."""
        bootstrap.leave()


def joined(options: Options) -> Cluster:
    """The cluster that `jax.distributed` makes; call it before a device is used.

    Raises:
      ValueError: if there is none, or for a setting out of range.
    """
    for name, value in bootstrap.given(os.environ).items():
        if getattr(options, name) is None:
            options = dataclasses.replace(options, **{name: value})
    if options.on_network(options.is_local):
        load_keys(options)  # refuses before anybody waits for this process
    position = bootstrap.join(
        options.coordinator_address,
        options.num_processes,
        options.process_id,
        apart=options.coordinator_apart,
        together=options.processes_per_worker > 1,
    )
    if options.processes_per_worker > 1:
        return _in_teams(options, position)
    working = [
        group
        for index, devices in sorted(_by_process(jax.devices()).items())
        if index > 0 or options.server_works
        for group in _groups(devices, options.devices_per_worker, index)
    ]
    if not working:
        raise ValueError(
            "there are no workers: one process and --noserver_works; start more "
            "processes."
        )
    mine = {
        index: group
        for index, group in enumerate(working)
        if group[0].process_index == position.process
    }
    return Cluster(options, position.process, position.processes, len(working), mine)


def _in_teams(options: Options, position: bootstrap.Place) -> Cluster:
    """Process 0 has the server alone; each worker has the next few processes.

    A worker's process that dies takes the others with it, which the server must not be.

    Raises:
      ValueError: unless the numbers of processes and devices are enough, and even.
    """
    (process, processes), each = position, options.processes_per_worker
    if processes == 1 or (processes - 1) % each:
        raise ValueError(
            f"--processes_per_worker={each}: beside process 0, which serves alone, a "
            f"multiple of {each} processes must be there, got {processes} in all; "
            f"start {1 + each * max(1, round((processes - 1) / each))}."
        )
    share = options.devices_per_worker // each
    found = _by_process(jax.devices())
    for index in range(1, processes):
        if len(found[index]) < share:
            raise ValueError(
                f"--processes_per_worker={each}: process {index} needs {share} of the "
                f"{options.devices_per_worker} devices of its worker, and has "
                f"{len(found[index])}; give --devices_per_process."
            )
    teams = []
    for worker, first in enumerate(range(1, processes, each)):
        members = tuple(range(first, first + each))
        devices = tuple(d for index in members for d in found[index][:share])
        teams.append(Team(worker, members, devices))
    mine = {t.worker: t.devices for t in teams if t.processes[0] == process}
    cluster = Cluster(options, process, processes, len(teams), mine)
    if process == 0:
        bootstrap.forget_collectives(found[0])
    else:
        cluster.team = teams[(process - 1) // each]
    return cluster


class _Alone(Cluster):
    """Everything in this process; without jax.distributed."""

    address: dict[str, Any] | None = None

    @property
    def is_local(self) -> bool:
        return True

    def publish(self, address: dict[str, Any], folder: Path) -> None:
        self.address = address
        _write(address | {"workers": self.num_workers}, folder)

    def lookup(self, seconds: float) -> dict[str, Any] | None:
        return self.address

    def leave(self) -> None:
        pass


def alone(options: Options, num_workers: int) -> Cluster:
    """Server and workers as threads of this very process."""
    _require_one_process(options)
    compilation.compute_in_the_calling_thread()
    mine = _spread(options, 0, num_workers)
    return _Alone(options, 0, 1, num_workers, mine)


class _Guest(Cluster):
    """Workers that come to a run which has begun, and find it by its folder."""

    folder: Path

    @property
    def is_local(self) -> bool:
        return False

    def lookup(self, seconds: float) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / ADDRESS).read_text())
        except (OSError, ValueError):
            return None

    def leave(self) -> None:
        pass


def guest(options: Options, folder: Path, worker: int) -> Cluster:
    """A process with the workers `worker` and up, for a run that runs.

    It has as many as its devices are enough for.

    Raises:
      ValueError: if no run serves there, or it has no such workers.
    """
    _require_one_process(options)
    try:
        known = json.loads((folder / ADDRESS).read_text())["workers"]
    except (OSError, ValueError, KeyError):
        raise ValueError(
            f"no run serves in {folder}: there is no {ADDRESS}; start the run first, "
            "with --max_workers for those who come later."
        ) from None
    if not 0 <= worker < known:
        raise ValueError(
            f"--worker: this run has workers 0 to {known - 1}, got {worker}; start "
            "the run with more --max_workers."
        )
    there = len(jax.local_devices()) // options.devices_per_worker
    mine = _spread(options, worker, min(max(there, 1), known - worker))
    options = dataclasses.replace(options, max_workers=known)
    made = _Guest(options, 1 + worker, 2 + worker, 0, mine)
    made.folder = folder
    return made


def _require_one_process(options: Options) -> None:
    if options.processes_per_worker > 1:
        raise ValueError(
            "--processes_per_worker: guests, and workers beside the server in one "
            f"process, have one process each, got {options.processes_per_worker}."
        )


def _spread(options: Options, first: int, count: int) -> dict[int, Any]:
    """This process's devices, in turn, for workers `first` and up."""
    groups = _groups(jax.local_devices(), options.devices_per_worker, None)
    return {first + i: groups[i % len(groups)] for i in range(count)}


def _by_process(devices: Sequence[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for device in sorted(devices, key=lambda d: (d.process_index, d.id)):
        found.setdefault(device.process_index, []).append(device)
    return found


def _groups(
    devices: Sequence[Any], size: int, process: int | None
) -> list[tuple[Any, ...]]:
    """The devices of each worker of a process.

    Raises:
      ValueError: unless as many as a worker has divide them.
    """
    if len(devices) % size:
        whose = "this process" if process is None else f"process {process}"
        raise ValueError(
            f"--devices_per_worker: {whose} has {len(devices)} devices, which is no "
            f"multiple of {size}; give --devices_per_process={size}, or XLA_FLAGS="
            f"--xla_force_host_platform_device_count={size} where it makes devices of "
            "a CPU."
        )
    return [tuple(devices[i : i + size]) for i in range(0, len(devices), size)]


def _write(address: dict[str, Any], folder: Path) -> None:
    files.write(folder / ADDRESS, json.dumps(address), private=True)


def load_keys(options: Options) -> keys.Keys | None:
    """The keys for connections between hosts; None without encryption.

    Raises:
      ValueError: if there is no key file, or it holds no keys.
    """
    if not options.encrypt:
        return None
    if options.key_file is None:
        raise ValueError(
            "connections between hosts are encrypted and need --key_file: make one "
            "with python -m abs_dssp.cluster.keys PATH and give it to every process, "
            "or say --noencrypt on a network that you trust."
        )
    return keys.load(options.key_file)
