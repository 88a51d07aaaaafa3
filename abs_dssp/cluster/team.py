"""A worker over several processes of a host: the first one leads, the others follow.

For everybody else the leader is the worker. It has the connection to the server, grants
and pushes, and tells the others over a socket which program is next, since processes
that compute together must start the same programs in the same order. Versions and
pushes lie in memory that they share; every device is given its slices of it, and writes
its slices to it.

Whoever dies leaves the others within a sum that has no end. So a process that sees
another one's end ends itself, by a signal, and whatever starts crashed processes again
starts all of them: the worker leaves, and returns, as one.
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
import numpy as np

from abs_dssp.cluster import bootstrap, memory, run_config
from abs_dssp.cluster.local_workers import LocalWorkers
from abs_dssp.cluster.topology import Cluster, Team
from abs_dssp.cluster.transport import Sizes, shared
from abs_dssp.cluster.worker import (
    EndedError,
    LostError,
    StragglerInjection,
    WorkerError,
    WorkerPlan,
)
from abs_dssp.training import mesh, update

_HELLO, _GO, _REFUSED, _END = b"h", b"g", b"r", b"e"  # each with JSON behind it
_PUSH, _BEGIN, _STEP, _FINISH = b"P", b"B", b"S", b"F"  # the programs, as `Order`s
_PLACED, _DONE = b"p", b"d"  # a version is on the devices; a push is in the memory
_LEAVE = b"l"  # a follower was asked to end
_ORDER = struct.Struct("=ciiiif")
_LIMIT = 1 << 20  # bytes of a message
_PATIENCE = 0.2  # seconds between two looks for the leader
_SILENCE = 5.0  # seconds for the first words of who has connected


def take_part(
    cluster: Cluster,
    plan: WorkerPlan,
    straggling: dict[int, StragglerInjection],
    say: Callable[[str], None],
) -> None:
    """Works as one of a worker's processes until the run is over.

    Args:
      cluster: joined, with a team.
      plan: what the worker computes; its functions are those of a mesh.
      straggling: injected, by worker of this process.
      say: prints a line.

    Raises:
      WorkerError: if the processes of the worker do not find each other, disagree or
        are on several hosts, or if the server refuses the worker.
      EndedError: if this was not the end of the run.
    """
    team = cluster.team
    assert team is not None
    if not memory.supported():
        raise WorkerError(
            "--processes_per_worker: the processes of a worker share memory as Linux "
            "has it, and this system does not; give 1."
        )
    if cluster.follows:
        _Follower(cluster, team, plan).run()
        return
    with _Leader(cluster, team, plan) as leader:
        led = plan._replace(functions=leader.functions)
        workers = LocalWorkers(cluster, led, straggling, say)
        leader.leave = workers.ask_to_leave
        workers.run()


class _Order(NamedTuple):
    """A program to start, and its numbers. Those that it has no use for are 0."""

    kind: bytes
    number: int = 0
    worker: int = 0
    clock: int = 0
    version: int = 0
    epoch: float = 0.0

    @property
    def context(self) -> update.PushContext:
        """As `flat.Functions.compute` makes it."""
        integers = map(np.int32, (self.worker, self.clock, self.version))
        return update.PushContext._make((*integers, np.float32(self.epoch)))


class _Link:
    """A connection to another process of the team, read by a thread of its own."""

    def __init__(self, connection: socket.socket, whose: str):
        self.name = whose
        self.heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.leave: Callable[[], None] = lambda: None  # called if the other one asks to
        self._socket, self._over = connection, False

    def send(self, kind: bytes, message: Any = None, descriptors=()) -> None:
        """Sends; an order as it is, all else as JSON."""
        data = kind
        if isinstance(message, _Order):
            data = _ORDER.pack(*message)
        elif message is not None:
            data += json.dumps(message).encode()
        self._over |= kind == _END
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
            if data[:1] == _LEAVE:
                self.leave()
                continue
            if not data and not self._over:
                _end_with(f"{self.name} has ended")
            self._over |= data[:1] == _END
            self.heard.put(data)
            if self._over:
                return


class _Leader(contextlib.AbstractContextManager):
    """The first process's side; `functions` are those with which its worker computes.

    Attributes:
      leave: called when a process that follows was asked to end.
    """

    def __init__(self, cluster: Cluster, team: Team, plan: WorkerPlan):
        self.leave: Callable[[], None] = lambda: None
        functions = plan.functions
        assert isinstance(functions, mesh.MeshFunctions)
        sizes = Sizes.of_functions(functions)
        segments = memory.Segment(sizes.pull), memory.Segment(sizes.push)
        self._version = segments[0].array(sizes.pull_dtype)
        self.push = segments[1].array(sizes.push_dtype)
        self._links = _gathered(cluster, team, plan)
        for link in self._links:
            link.leave = lambda: self.leave()
        # Nobody computes before all have come, and nothing is left of earlier ones.
        bootstrap.forget_collectives(team.devices)
        for link in self._links:
            link.send(_GO, None, [segment.descriptor for segment in segments])
            link.watch()
        for segment in segments:
            segment.close()
        self._owed: list[bytes] = []  # answers that each of them has still to give
        self.functions = _LedFunctions(plan, functions, self)

    def __exit__(self, kind, error, trace) -> None:
        end = {"reason": "end", "resumes": False, "error": ""}
        if isinstance(error, EndedError):
            end |= {"reason": error.reason, "resumes": True}
        elif isinstance(error, KeyboardInterrupt):
            end |= {"reason": "interrupted by SIGINT", "resumes": True}
        elif error is not None:
            end["error"] = str(error)
        for link in self._links:
            link.send(_END, end)

    def give(self, vector: np.ndarray, order: _Order, *answers: bytes) -> None:
        """Has the others start a program that begins with a version."""
        self.settle()  # they have read the last one
        np.copyto(self._version, vector)
        self.tell(order, _PLACED, *answers)

    def tell(self, order: _Order, *answers: bytes) -> None:
        """Has the others start a program."""
        for link in self._links:
            link.send(order.kind, order)
        self._owed += answers

    def settle(self) -> None:
        """Waits for what the others owe."""
        for answer in self._owed:
            for link in self._links:
                heard = link.heard.get()
                assert heard[:1] == answer, (heard, answer)
        self._owed.clear()


def _gathered(cluster: Cluster, team: Team, plan: WorkerPlan) -> list[_Link]:
    """Connections to the processes that follow, once all of them are there."""
    patience = plan.settings.start
    end = time.monotonic() + patience
    name = f"abs_dssp-team-{secrets.token_hex(8)}"
    found: dict[int, _Link] = {}
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
            link = _Link(connection, "")
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


class _LedFunctions(mesh.MeshFunctions):
    """Those of the worker, whose programs the others start as well."""

    def __init__(self, plan: WorkerPlan, made: mesh.MeshFunctions, leader: _Leader):
        super().__init__(plan.task, made.config, made.wire, made.split)
        self._leader = leader

    def programs(self, key: Any) -> Any:
        return _LedPrograms(super().programs(key), self._leader)


class _LedPrograms:
    """`push`, `begin`, `step` and `finish`, here and in the processes that follow."""

    def __init__(self, programs: mesh.Programs, leader: _Leader):
        self._programs, self._leader = programs, leader

    def push(self, vector, data, key, context):
        """See `flat.Functions`."""
        self._leader.give(vector, _Order(_PUSH, 0, *context), _DONE)
        with _together():
            push, loss = self._programs.push(vector, data, key, context)
        return _TeamPush(push, self._leader), loss

    def begin(self, vector):
        """See `flat.Functions`."""
        self._leader.give(vector, _Order(_BEGIN))
        with _together():
            return self._programs.begin(vector)

    def step(self, data, key, state, context, number):
        """See `flat.Functions`."""
        self._leader.tell(_Order(_STEP, int(number), *context))
        with _together():
            return self._programs.step(data, key, state, context, number)

    def finish(self, state):
        """See `flat.Functions`."""
        self._leader.tell(_Order(_FINISH), _DONE)
        with _together():
            push, loss = self._programs.finish(state)
        return _TeamPush(push, self._leader), loss


class _TeamPush(mesh.Shards):
    """A push whose parts lie on the devices of all of a worker's processes."""

    def __init__(self, push: mesh.Shards, leader: _Leader):
        self._own, self._leader = push, leader
        self.leaves, self.shape, self.dtype = push.leaves, push.shape, push.dtype

    def block_until_ready(self) -> "_TeamPush":
        """Waits for the devices, and until all parts are in the shared memory."""
        with _together():
            self._own.block_until_ready()
        self._own.copy_to(self._leader.push)
        self._leader.settle()
        return self

    def copy_to(self, vector: np.ndarray) -> None:
        """Copies the push; the worker has not begun another one since."""
        np.copyto(vector, self._leader.push)


class _Follower:
    """Starts what the leader starts, until it says that this is the end."""

    def __init__(self, cluster: Cluster, team: Team, plan: WorkerPlan):
        self._name = f"process {cluster.process}, pid {os.getpid()}"
        functions = self._functions = plan.functions
        assert isinstance(functions, mesh.MeshFunctions)
        sizes = Sizes.of_functions(functions)
        self._link, (version, push) = _connected(cluster, team, plan)
        self._version = memory.Segment(sizes.pull, version).array(sizes.pull_dtype)
        self._push = memory.Segment(sizes.push, push).array(sizes.push_dtype)
        self._data = functions.placed(plan.task.data, team.devices)
        self._key = functions.placed(jax.random.key(plan.seed), team.devices)
        self._programs = functions.programs(self._key)

    def run(self) -> None:
        """Follows.

        Raises:
          WorkerError: if the leader's worker failed.
          EndedError: if this was not the end of the run.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._link.send(_LEAVE))
        self._link.watch()
        state: Any = None
        while (data := self._link.heard.get())[:1] != _END:
            with _together():
                state = self._do(_Order(*_ORDER.unpack(data)), state)
        end = json.loads(data[1:])
        if end["error"]:
            raise WorkerError(end["error"])
        if end["resumes"]:
            raise EndedError(self._name, end["reason"])

    def _do(self, order: _Order, state: Any) -> Any:
        """Starts a program; gives the state between two local steps."""
        programs, context = self._programs, order.context
        if order.kind == _STEP:
            return programs.step(
                self._data, self._key, state, context, np.int32(order.number)
            )
        if order.kind == _BEGIN:
            state = programs.begin(self._version)
            self._link.send(_PLACED)
            return state
        if order.kind == _PUSH:
            push, _ = programs.push(self._version, self._data, self._key, context)
            self._link.send(_PLACED)
        else:
            push, _ = programs.finish(state)
        push.block_until_ready().copy_to(self._push)
        self._link.send(_DONE)
        return None


def _connected(
    cluster: Cluster, team: Team, plan: WorkerPlan
) -> tuple[_Link, list[int]]:
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
        link = _Link(connection, f"process {leader}, which leads worker {team.worker},")
        with contextlib.suppress(OSError):  # it is an earlier leader's: look again
            if told is None:
                raise OSError
            connection.connect("\0" + told["name"])
            hello = {"process": cluster.process, "run": dict(plan.agreed)}
            connection.send(_HELLO + json.dumps(hello).encode())
            kind, descriptors = link.receive()
            if kind[:1] == _REFUSED:
                raise WorkerError(json.loads(kind[1:]))
            if kind[:1] == _GO:
                return link, descriptors
        connection.close()
        if time.monotonic() > end:
            raise LostError(
                f"worker {team.worker}: process {leader}, which leads it, has not come "
                f"within {plan.settings.start:.0f} s; look at what it says."
            )
        time.sleep(_PATIENCE)


@contextlib.contextmanager
def _together() -> Iterator[None]:
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
