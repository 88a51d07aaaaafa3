"""A run of fragments: three workers on two hosts, and one or two processes that serve.

The folder of the run lies on a disk that both hosts share and that keeps its power: a
host that loses its own loses what its processes have written there and not synced.
Without `sync_log` the logs may then not fit each other, which is to be said, and the
operator begins the run again. With it, everything is promised as after a kill.
"""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp import optimizers, policies, tasks
from abs_dssp.cluster import fragment_log, fragment_run, run, topology
from abs_dssp.cluster.core import RunLimits
from abs_dssp.cluster.fragment_run import Layout
from abs_dssp.cluster.messages import Message
from abs_dssp.cluster.server import Training
from abs_dssp.cluster.simulate import checks
from abs_dssp.cluster.simulate.checks import ViolationError
from abs_dssp.cluster.simulate.disk import Disk, Host
from abs_dssp.cluster.simulate.fragment_keeper import FragmentChecker, FragmentKeeper
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
from abs_dssp.cluster.transport import stream
from abs_dssp.replay import Result
from abs_dssp.training import flat, fragmented
from abs_dssp.training.config import UpdateConfig

POLICIES = ("asp()", "bsp()", "ssp(s=2)", "dssp(s_lower=1,s_upper=4)")
# What ends a process for good, unless the operator does something.
_LASTING = (
    *("damaged", "not a log", "is not there", "lacks push", "do not fit each other"),
    *("decided otherwise", "written with"),
)


@functools.cache
def _task() -> tasks.Task:
    """A network of four arrays, 26 values."""
    random = np.random.default_rng(0)
    samples = random.normal(size=(30, 5)).astype("f4"), random.integers(0, 2, 30)

    def init(key):
        one, other = jax.random.split(key)
        return [
            (jax.random.normal(one, (5, 3)), jnp.zeros(3)),
            (jax.random.normal(other, (3, 2)), jnp.zeros(2)),
        ]

    def network(layers, inputs):
        (w, b), (v, c) = layers
        return jnp.tanh(inputs @ w + b[None]) @ v + c[None]

    return tasks.from_functions(
        init, network, samples, samples, NUM_WORKERS, batch_size=2
    )


@functools.cache
def _functions(local_state: str) -> flat.Functions:
    """What workers and servers compute, compiled once for all seeds."""
    server = optimizers.sgd(lambda epoch: 0.7 / (1 + epoch), momentum=0.5)
    # With a state of both kinds of numbers, a mean and a count.
    rate = optax.scale_by_schedule(lambda count: -0.1 / (1 + count.astype("f4")))
    local, steps = optax.chain(optax.trace(0.9), rate), 1 + (local_state == "fresh")
    update = UpdateConfig(
        server, local, steps, "mean", push="displacement", local_state=local_state
    )
    return flat.Functions(_task(), update)


@functools.cache
def training(text: str, local_state: str) -> Training:
    """What is trained."""
    policy = policies.parse(text, NUM_WORKERS)
    return Training(_task(), policy, _functions(local_state), 7)


@functools.cache
def division(local_state: str, fragments: int) -> fragmented.Division:
    """The fragments of what is trained, compiled once for all seeds."""
    config = _functions(local_state).config
    return fragmented.division(_task(), config, fragments)


class FragmentsScenario(Operated):
    """One seed's run of a server for each fragment."""

    pushes, longest = 90, 120.0
    _hopes = 12

    def _prepare(self, seed: int) -> None:
        world = self.world
        text, more = POLICIES[seed % len(POLICIES)], seed // len(POLICIES)
        self._count, state = 2 + more % 2, ("kept", "fresh")[more // 2 % 2]
        self.training = training(text, state)
        servers = world.random.choice([1, 2, 2])
        self._layout = Layout(division(state, self._count), servers)
        sync = bool(world.random.getrandbits(1))
        settings = dataclasses.replace(SETTINGS, sync_log=sync)
        agreed = {"policy": text, "num_workers": NUM_WORKERS, "seed": seed}
        limits = RunLimits(pushes=self.pushes)
        self._job = run.Job(self.training, limits, agreed, settings, OUT)
        self._disk = Disk()
        self._hosts = {name: Host(world, name, self._disk) for name in "ab"}
        self._second = self._hosts[world.random.choice("ab")]
        self._joined = world.random.choice([1, stream._JOINED])
        self._network.reuses_ports = world.random.random() < 0.5
        self._bounds = checks.Bounds(self._count)
        self._strangers, self._keepers, self._checkers = [], [], []
        for fragment, size in enumerate(self._layout.parts.sizes):
            folder = fragment_log.folder_of(OUT, fragment)
            keeper = FragmentKeeper(world, self._disk, folder, sync)
            keeper.checker = FragmentChecker(NUM_WORKERS, keeper, size)
            self._keepers.append(keeper)
            self._checkers.append(keeper.checker)
            stranger = Strangers(world, self._network, 4 * size, agreed)
            self._strangers.append(stranger)
        for host in self._hosts.values():
            host.lost_power = functools.partial(self._lost_power, host)

    # Processes.

    def _host(self, index: int) -> Host:
        return (self._hosts["a"], self._second, self._hosts["b"])[index]

    def _take_part(self, process, index, straggling, system) -> Result | None:
        functions: Any = Diverging(self.training.functions, self.dice)
        known = self.training._replace(functions=functions)
        options = topology.Options(listen=f"{process.host.name}:0", encrypt=False)
        return fragment_run.take_part(
            Place(process, index, options),
            dataclasses.replace(self._job, training=known),
            self._layout,
            straggling,
            self._said(process),
            system=system,
        )

    def _mend(self, index: int, error: BaseException) -> None:
        sentence = str(error)
        for keeper in self._keepers:
            if keeper.folder[:-1] in sentence and keeper.mend(sentence):
                return
        if not any(each in sentence for each in _LASTING):
            return
        if any(keeper.lost for keeper in self._keepers):
            self._begin_anew()
        else:
            self.world.fail(ViolationError(f"process {index} ends for good: {error}"))

    def _begin_anew(self) -> None:
        """The operator does what is said if the logs are of no use any more."""
        self.world.note("the operator removes the folder of the run and begins again")
        for process in list(self.world.processes):
            process.die("is ended by the operator")
        self._disk.clear(str(OUT))
        for keeper in self._keepers:
            keeper.begin_anew()

    # What must hold.

    def _logged(self) -> int:
        return sum(sum(checker.model.pushes) for checker in self._checkers)

    def _look(self) -> None:
        for checker in self._checkers:
            checker.look()

    def _check(self, result: Result) -> None:
        trace: Any = result.trace
        checks.require_replay(result, self.training)
        for fragment, checker in enumerate(self._checkers):
            mine = trace.of_fragment(fragment)
            checks.require_decisions(mine, self.training)
            if len(mine) != sum(checker.model.pushes):
                raise ViolationError(
                    f"the trace has {len(mine)} pushes of fragment {fragment}, its log "
                    f"{sum(checker.model.pushes)}"
                )

    def _sent(self, process: Process, message: Message) -> None:
        name, _, number = process.current().name.partition(" ")
        if name == "fragment":
            self._checkers[int(number)].sent(message)
            self._keepers[int(number)].require_noticed()

    # Faults.

    def _flip(self, process: Process, name: str, file: Any) -> None:
        mine = self._layout.of_process(int(process.name.split()[-1]))
        for fragment, keeper in enumerate(self._keepers):
            if name == keeper.path and fragment not in mine:
                return  # it is another process that is to notice it
            if name.startswith(keeper.folder):
                keeper.flip(name, file)

    def _lost_power(self, host: Host) -> None:
        for index in range(self._layout.servers):
            if self._host(index) is host:
                for fragment in self._layout.of_process(index):
                    self._keepers[fragment].lost_power(host)
        host.synced = True

    def _stranger(self) -> None:
        if not self.dice.falls("stranger"):
            return
        fragment = self.world.random.randrange(self._count)
        folder = fragment_log.folder_of(OUT, fragment)
        file = self._disk.files.get(str(folder / topology.ADDRESS))
        if file is not None and file.content:
            address = json.loads(bytes(file.content))
            self._strangers[fragment].come(self._hosts["a"], address)
