"""How the processes of a worker find each other, and what they tell each other.

Orders go from the process that leads to those that follow, answers the other way. The
leader says by the coordination service where it listens; who has connected is there, so
what an earlier process said is not taken for a later one's.
"""

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from abs_dssp.cluster import bootstrap, run_config
from abs_dssp.cluster.topology import Cluster, Team
from abs_dssp.cluster.transport import shared
from abs_dssp.cluster.worker import WorkerPlan
from abs_dssp.cluster.worker_errors import LostError, WorkerError
from abs_dssp.training import flat, update

_HELLO, GO, _REFUSED, END = b"h", b"g", b"r", b"e"  # each with JSON behind it
PUSH, BEGIN, STEP, FINISH = b"P", b"B", b"S", b"F"  # the programs, as `Order`s
PLACED, DONE = b"p", b"d"  # a version is on the devices; a push is in the memory
LEAVE = b"l"  # a follower was asked to end
_ORDER = struct.Struct("=ciiiif")
_LIMIT = 1 << 20  # bytes of a message
_PATIENCE = 0.2  # seconds between two looks for the leader
_SILENCE = 5.0  # seconds for the first words of who has connected


class Order(NamedTuple):
    """A program to start, and its numbers. Those that it has no use for are 0."""

    kind: bytes
    number: int = 0
    worker: int = 0
    clock: int = 0
    version: int = 0
    epoch: float = 0.0

    @classmethod
    def read(cls, data: bytes) -> "Order":
        """What `Link.send` has made of an order."""
        return cls(*_ORDER.unpack(data))

    @property
    def context(self) -> update.PushContext:
        """Of the push that the program is for."""
        return flat.push_context(self.worker, self.clock, self.version, self.epoch)


class Link:
    """A connection to another process of the team, read by a thread of its own."""

    def __init__(self, connection: socket.socket, whose: str):
        self.name = whose
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.leave: Callable[[], None] = lambda: None  # called if the other one asks to
        self._socket, self._over = connection, False

    def send(self, kind: bytes, message: Any = None, descriptors=()) -> None:
        """Sends; an order as it is, all else as JSON."""
        data = kind
        if isinstance(message, Order):
            data = _ORDER.pack(*message)
        elif message is not None:
            data += json.dumps(message).encode()
        self._over |= kind == END
        try:
            socket.send_fds(self._socket, [data], descriptors)
        except OSError as error:
            if not self._over:
                _end_with(f"{self.name} does not listen ({error})")

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message and the descriptors with it, before the thread reads."""
        data, descriptors, _, _ = socket.recv_fds(self._socket, _LIMIT, 2)
        return data, descriptors

    def watch(self) -> None:
        """Reads from now on."""
        threading.Thread(target=self._read, name="team", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(_LIMIT)
            except OSError:
                data = b""
            if data[:1] == LEAVE:
                self.leave()
                continue
            if not data and not self._over:
                _end_with(f"{self.name} has ended")
            self._over |= data[:1] == END
            self.heard.put(data)
            if self._over:
                return


def gathered(cluster: Cluster, team: Team, plan: WorkerPlan) -> list[Link]:
    """Connections to the processes that follow, once all of them are there."""
    patience = plan.settings.start
    end = time.monotonic() + patience
    name = f"abs_dssp-team-{secrets.token_hex(8)}"
    found: dict[int, Link] = {}
    missing = set(team.processes[1:])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("\0" + name)
        listening.listen()
        bootstrap.publish({"name": name} | cluster.host(), _key(team))
        while missing:
            listening.settimeout(max(0.0, end - time.monotonic()))
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                some = ", ".join(map(str, sorted(missing)))
                raise LostError(
                    f"worker {team.worker}: process {some} has not come within "
                    f"{patience:.0f} s; look at what it says."
                ) from None
            if shared.whose(connection)[1] != os.getuid():
                connection.close()
                continue
            link = Link(connection, "")
            connection.settimeout(_SILENCE)
            kind = b""
            with contextlib.suppress(OSError):
                kind, _ = link.receive()
            if kind[:1] != _HELLO:
                connection.close()  # it has ended already, or is none of us
                continue
            connection.settimeout(None)
            hello = json.loads(kind[1:])
            process = hello["process"]
            link.name = f"process {process}, of the same worker,"
            differs = run_config.first_difference(dict(plan.agreed), hello["run"])
            if differs is not None:
                setting, here, there = differs
                said = (
                    f"processes {cluster.process} and {process} of worker "
                    f"{team.worker} must agree on {setting}, got {here!r} and "
                    f"{there!r}; give them the same flags."
                )
                link.send(_REFUSED, said)
                raise WorkerError(said)
            found[process] = link
            missing.discard(process)
    return [found[process] for process in team.processes[1:]]


def connected(cluster: Cluster, team: Team, plan: WorkerPlan) -> tuple[Link, list[int]]:
    """A connection to the leader, and the memory for versions and pushes."""
    end = time.monotonic() + plan.settings.start
    leader, host = team.processes[0], cluster.host()
    while True:
        told = bootstrap.lookup(max(0.0, end - time.monotonic()), _key(team))
        if told is not None and any(told[name] != host[name] for name in host):
            raise WorkerError(
                f"--processes_per_worker: processes {leader} and {cluster.process} of "
                f"worker {team.worker} must be on one host, and are not; give as many "
                "consecutive processes to each host."
            )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = Link(connection, f"process {leader}, which leads worker {team.worker},")
        with contextlib.suppress(OSError):  # it is an earlier leader's: look again
            if told is None:
                raise OSError
            connection.connect("\0" + told["name"])
            hello = {"process": cluster.process, "run": dict(plan.agreed)}
            connection.send(_HELLO + json.dumps(hello).encode())
            kind, descriptors = link.receive()
            if kind[:1] == _REFUSED:
                raise WorkerError(json.loads(kind[1:]))
            if kind[:1] == GO:
                return link, descriptors
        connection.close()
        if time.monotonic() > end:
            raise LostError(
                f"worker {team.worker}: process {leader}, which leads it, has not come "
                f"within {plan.settings.start:.0f} s; look at what it says."
            )
        time.sleep(_PATIENCE)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process where a program fails, as all do when one process dies."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        _end_with(f"a program of several processes failed ({error})")


def _end_with(reason: str) -> None:
    """Ends this process as a crash does, so that it is started again.

    Args:
      reason: for the user.
    """
    line = f"{reason}; this process ends as well, for their worker to return as one."
    print(line, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # nothing else happens here any more


def _key(team: Team) -> str:
    return f"abs_dssp/team/{team.worker}"
