"""A run of three workers on two hosts, and of one server in process 0."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from abs_dssp import optimizers, policies, tasks
from abs_dssp.cluster import run, topology
from abs_dssp.cluster.core import RunLimits
from abs_dssp.cluster.log import LogError
from abs_dssp.cluster.messages import Message
from abs_dssp.cluster.server import Training
from abs_dssp.cluster.simulate import checks
from abs_dssp.cluster.simulate.checks import Checker
from abs_dssp.cluster.simulate.disk import Host
from abs_dssp.cluster.simulate.keeper import Keeper
from abs_dssp.cluster.simulate.operated import (
    NUM_WORKERS,
    OUT,
    SETTINGS,
    Diverging,
    Operated,
    Place,
)
from abs_dssp.cluster.simulate.strangers import Strangers
from abs_dssp.cluster.simulate.world import Process
from abs_dssp.cluster.transport import Sizes, stream
from abs_dssp.replay import Result
from abs_dssp.tasks import splitting
from abs_dssp.training import mesh
from abs_dssp.training.config import UpdateConfig

POLICIES = (
    "asp()",
    "bsp()",
    "ssp(s=2)",
    "dssp(s_lower=1,s_upper=4)",
    "k_sync(k=2)",
    "ringmaster(threshold=2,stop=True)",
    "quorum(k=2,grace=1.0)",
    "deadline(k=1.0,floor=0.25)",
)


# Of the first, several versions may be made in one call; the second needs what every
# push was computed from.
_AGGREGATORS = ("mean", "compensated")


@functools.cache
def training(text: str, local_steps: int, aggregator: str, devices: int) -> Training:
    """What is trained by workers of so many devices, compiled once for all seeds."""
    task = tasks.logistic(NUM_WORKERS, samples=30, dim=6, batch_size=2)
    # A rate on the clock of epochs, so that it matters which one a version has.
    server = optimizers.sgd(lambda epoch: 0.1 / (1 + epoch), momentum=0.5)
    update = UpdateConfig(server, optimizers.sgd(0.1), local_steps, aggregator)
    policy = policies.parse(text, NUM_WORKERS)
    split = splitting.of_task(task, devices)
    return Training(task, policy, mesh.functions(task, update, split=split), 7)


class _Place(Place):
    """The server's address is known to everybody at once."""

    def __init__(self, scenario: "Scenario", process: Process, index: int):
        super().__init__(process, index, scenario.options)
        self._scenario = scenario

    def publish(self, address: dict[str, Any], folder: Path) -> None:
        self._process.call()
        self._scenario.served(address)

    def withdraw(self, folder: Path, over: dict[str, Any] | None) -> None:
        self._process.call()
        self._scenario.address = None

    def lookup(self, seconds: float) -> dict[str, Any] | None:
        self._process.call()
        if self._scenario.address is None:
            self._process.pass_time(seconds)
        return self._scenario.address


class Scenario(Operated):
    """One seed's run of a server that has all parameters, in process 0."""

    pushes = 240
    devices = 1  # of a worker

    def _prepare(self, seed: int) -> None:
        world = self.world
        self.address: dict[str, Any] | None = None
        text = POLICIES[seed % len(POLICIES)]
        others = seed // len(POLICIES)
        steps, aggregator = 1 + others % 2, _AGGREGATORS[others // 2 % 2]
        self.training = training(text, steps, aggregator, self.devices)
        sync = bool(world.random.getrandbits(1))
        settings = dataclasses.replace(SETTINGS, sync_log=sync)
        limits = RunLimits(pushes=self.pushes)
        agreed = {"policy": text, "num_workers": NUM_WORKERS, "seed": seed}
        self._job = run.Job(self.training, limits, agreed, settings, OUT)
        self._hosts = {name: Host(world, name) for name in "ab"}
        server = self._hosts["a"]
        server.disk.folders.add(str(OUT))
        # In some runs the server comes back where it was, in some no worker has memory
        # in common with it, and in some a vector is sent apart from its header.
        self.options = topology.Options(
            listen="a:5555" if world.random.random() < 0.5 else "a:0",
            transport="tcp" if world.random.random() < 0.3 else "auto",
            encrypt=False,
            devices_per_worker=self.devices,
        )
        self._joined = world.random.choice([1, stream._JOINED])
        push = Sizes.of_functions(self.training.functions).push
        self._strangers = Strangers(world, self._network, push, agreed)
        self._keeper = Keeper(world, server.disk, OUT, sync)
        self._checker = Checker(NUM_WORKERS, self._keeper.content)
        self._keeper.checker = self._checker
        server.lost_power = lambda: self._keeper.lost_power(server)

    def served(self, address: dict[str, Any]) -> None:
        """The server has recovered and says where it is."""
        self.address = address
        self._keeper.require_noticed()

    def _host(self, index: int) -> Host:
        return self._hosts["b" if index == 2 else "a"]

    def _take_part(self, process, index, straggling, system) -> Result | None:
        job = self._job
        if index:  # the server computes again with the true ones
            functions: Any = Diverging(self.training.functions, self.dice)
            job = dataclasses.replace(
                job, training=self.training._replace(functions=functions)
            )
        return run.take_part(
            _Place(self, process, index),
            job,
            straggling,
            say=self._said(process),
            system=system,
        )

    def _logged(self) -> int:
        return sum(self._checker.model.pushes)

    def _check(self, result: Result) -> None:
        checks.require_replay(result, self.training)
        checks.require_decisions(result.trace, self.training)

    def _look(self) -> None:
        self._checker.look()

    def _sent(self, process: Process, message: Message) -> None:
        if process.name == "process 0":
            self._checker.sent(message)

    def _flip(self, process: Process, name: str, file: Any) -> None:
        self._keeper.flip(name, file)

    def _mend(self, index: int, error: BaseException) -> None:
        if index == 0 and isinstance(error, LogError):
            self._keeper.mend(str(error))

    def _stranger(self) -> None:
        if self.address is not None and self.dice.falls("stranger"):
            self._strangers.come(self._hosts["a"], self.address)


class Divided(Scenario):
    """The same, of workers whose two devices have a part of the parameters each."""

    devices = 2
