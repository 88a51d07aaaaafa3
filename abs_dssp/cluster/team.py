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
import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from abs_dssp.cluster import bootstrap, memory, team_links
from abs_dssp.cluster.local_workers import LocalWorkers
from abs_dssp.cluster.team_links import Order
from abs_dssp.cluster.topology import Cluster, Team
from abs_dssp.cluster.transport import Sizes
from abs_dssp.cluster.worker import StragglerInjection, WorkerPlan
from abs_dssp.cluster.worker_errors import EndedError, WorkerError
from abs_dssp.training import mesh


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
        self._links = team_links.gathered(cluster, team, plan)
        for link in self._links:
            link.leave = lambda: self.leave()
        # Nobody computes before all have come, and nothing is left of earlier ones.
        bootstrap.forget_collectives(team.devices)
        for link in self._links:
            link.send(team_links.GO, None, [segment.descriptor for segment in segments])
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
            link.send(team_links.END, end)

    def give(self, vector: np.ndarray, order: Order, *answers: bytes) -> None:
        """Has the others start a program that begins with a version."""
        self.settle()  # they have read the last one
        np.copyto(self._version, vector)
        self.tell(order, team_links.PLACED, *answers)

    def tell(self, order: Order, *answers: bytes) -> None:
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
        self._leader.give(vector, Order(team_links.PUSH, 0, *context), team_links.DONE)
        with team_links.together():
            push, loss = self._programs.push(vector, data, key, context)
        return _TeamPush(push, self._leader), loss

    def begin(self, vector):
        """See `flat.Functions`."""
        self._leader.give(vector, Order(team_links.BEGIN))
        with team_links.together():
            return self._programs.begin(vector)

    def step(self, data, key, state, context, number):
        """See `flat.Functions`."""
        self._leader.tell(Order(team_links.STEP, int(number), *context))
        with team_links.together():
            return self._programs.step(data, key, state, context, number)

    def finish(self, state):
        """See `flat.Functions`."""
        self._leader.tell(Order(team_links.FINISH), team_links.DONE)
        with team_links.together():
            push, loss = self._programs.finish(state)
        return _TeamPush(push, self._leader), loss


class _TeamPush(mesh.Shards):
    """A push whose parts lie on the devices of all of a worker's processes."""

    def __init__(self, push: mesh.Shards, leader: _Leader):
        self._own, self._leader = push, leader
        self.leaves, self.shape, self.dtype = push.leaves, push.shape, push.dtype

    def block_until_ready(self) -> "_TeamPush":
        """Waits for the devices, and until all parts are in the shared memory."""
        with team_links.together():
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
        self._link, (version, push) = team_links.connected(cluster, team, plan)
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
            signal.signal(number, lambda *_: self._link.send(team_links.LEAVE))
        self._link.watch()
        state: Any = None
        while (data := self._link.heard.get())[:1] != team_links.END:
            with team_links.together():
                state = self._do(Order.read(data), state)
        end = json.loads(data[1:])
        if end["error"]:
            raise WorkerError(end["error"])
        if end["resumes"]:
            raise EndedError(self._name, end["reason"])

    def _do(self, order: Order, state: Any) -> Any:
        """Starts a program; gives the state between two local steps."""
        programs, context = self._programs, order.context
        if order.kind == team_links.STEP:
            return programs.step(
                self._data, self._key, state, context, np.int32(order.number)
            )
        if order.kind == team_links.BEGIN:
            state = programs.begin(self._version)
            self._link.send(team_links.PLACED)
            return state
        if order.kind == team_links.PUSH:
            push, _ = programs.push(self._version, self._data, self._key, context)
            self._link.send(team_links.PLACED)
        else:
            push, _ = programs.finish(state)
        push.block_until_ready().copy_to(self._push)
        self._link.send(team_links.DONE)
        return None
