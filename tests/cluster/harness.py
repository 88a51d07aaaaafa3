"""A whole cluster inside the test: server and workers as threads, real transports."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp import optimizers, policies, tasks
from abs_dssp.cluster import keys, log, run, server, topology, transport
from abs_dssp.cluster.core import RunLimits
from abs_dssp.cluster.messages import Kind, Message, push_for
from abs_dssp.cluster.settings import Settings
from abs_dssp.replay import Result
from abs_dssp.training import checkpoints, flat, update

OPTIMIZER = optimizers.sgd(0.1, momentum=0.5)
LOCAL = optimizers.sgd(0.1)
# With a state of both kinds of numbers, a mean and a count.
REMEMBERS = optax.chain(
    optax.trace(0.9),
    optax.scale_by_schedule(lambda count: -0.1 / (1 + count.astype(jnp.float32))),
)
KEPT = {
    "push": "displacement",
    "local_state": "kept",
    "local_optimizer": REMEMBERS,
}
QUICK = Settings(
    beat=0.2, lease=2.0, resend=0.2, empty=3.0, checkpoint=0.3, evaluate=0.5
)


@functools.cache
def task(num_workers: int = 4) -> tasks.Task:
    """A small problem: logistic regression."""
    return tasks.logistic(num_workers, samples=200, dim=20, batch_size=8)


@functools.cache
def divisible(num_workers: int) -> tasks.Task:
    """A network whose layers several devices can divide."""
    return tasks.digits(num_workers, model="mlp(hidden=[32,16])", batch_size=8)


def train(
    out: Path,
    text: str,
    *,
    num_workers: int = 4,
    transport: str = "shm",
    pushes: int = 200,
    local_steps: int = 1,
    aggregate: str = "mean",
    settings: Settings = QUICK,
    key_file: str | None = None,
    formats: tuple[str, str] = ("float32", "float32"),
    max_workers: int | None = None,
    local_optimizer: optax.GradientTransformation = LOCAL,
    problem: tasks.Task | None = None,
    devices_per_worker: int = 1,
    **more,
) -> Result:
    """Trains on `num_workers` threads over a real transport."""
    options = topology.Options(
        transport=transport, key_file=key_file, max_workers=max_workers,
        push_format=formats[0], pull_format=formats[1],
        devices_per_worker=devices_per_worker,
    )  # fmt: skip
    cluster = topology.alone(options, num_workers)
    num_workers = cluster.num_workers
    result = run.train(
        cluster, problem or task(num_workers), policies.parse(text, num_workers),
        OPTIMIZER, 7, out=out, num_pushes=pushes, local_steps=local_steps,
        aggregate=aggregate, local_optimizer=local_optimizer, settings=settings,
        say=lambda line: None, **more,
    )  # fmt: skip
    assert result is not None
    return result


def saved(out: Path) -> np.ndarray:
    """The parameters of the newest checkpoint."""
    found = checkpoints.Store(out / "checkpoints", None).latest()
    assert found is not None
    return found.leaves[0]


def vector(result: Result) -> np.ndarray:
    """The parameters of a result."""
    return np.asarray(flat.flatten(result.variables))


def functions(num_workers: int) -> flat.Functions:
    """What workers and server compute with."""
    return flat.Functions(task(num_workers), update.rule(OPTIMIZER))


def sizes(num_workers: int) -> transport.Sizes:
    """Of the vectors of `task`, float32."""
    count = functions(num_workers).layout.size
    dtype = np.dtype(np.float32)
    return transport.Sizes(4 * count, dtype, 4 * count, dtype)


class Serving:
    """A server in a thread, for tests that speak to it by hand."""

    def __init__(
        self,
        out: Path,
        text: str = "asp()",
        *,
        num_workers: int = 2,
        shared: bool = True,
        network: str | None = None,
        keys: keys.Keys | None = None,
        identity: dict[str, Any] | None = None,
        settings: Settings = QUICK,
        store: Any = None,
    ):
        self.said: list[str] = []
        self.log = log.Log(out, {"num_workers": num_workers, "run": {}})
        self.functions = functions(num_workers)
        policy = policies.parse(text, num_workers)
        listening = server.Listening(shared=shared, network=network, keys=keys)
        self.server = server.Server(
            server.Training(task(num_workers), policy, self.functions, 7),
            server.ServerConfig(RunLimits(), identity or {}, settings, None, listening),
            self.log,
            store=store,
            say=self.said.append,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            self.server.serve()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Waits for the end."""
        self._thread.join(30)
        assert not self._thread.is_alive()

    def __enter__(self) -> "Serving":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.server.stop("test is over")
        self.join()
        self.server.close()
        self.log.close()

    def connect(self, key: keys.Keys | None = None) -> transport.Channel:
        """A connection of whatever kind the server takes."""
        address = self.server.address
        if address["shared"]:
            return transport.SharedChannel(address["shared"])
        return transport.NetworkChannel(address["network"], key)

    def worker(self, index: int, nonce: str = "n", **more) -> "ByHand":
        """A worker that says hello."""
        return ByHand(self, index, nonce, **more)


class ByHand:
    """A worker whose messages a test sends one by one."""

    def __init__(self, serving: Serving, index: int, nonce: str, key=None, said=None):
        self.index = index
        self.channel = serving.connect(key)
        text = {"nonce": nonce, "process": "a test", "run": said or {}}
        self.channel.send(Message(Kind.HELLO, index, text=text))
        self.size = serving.functions.layout.size
        self.channel.expect(serving.server.sizes)

    def ready(self) -> None:
        self.expect(Kind.WELCOME)
        self.channel.send(Message(Kind.READY, self.index))

    def expect(self, kind: Kind, seconds: float = 10.0) -> Message:
        """The next message that is not a WAIT, unless that is expected."""
        while True:
            message = self.channel.receive(seconds)
            assert message is not None, f"no {kind.name}"
            if message.kind is kind:
                if message.payload is not None:  # the server will use it again
                    message.payload = np.array(message.payload)
                return message
            assert message.kind is Kind.WAIT, message

    def nothing(self, seconds: float = 0.3) -> None:
        """Nothing comes."""
        assert self.channel.receive(seconds) is None

    def push(self, grant: Message, value: Any = 1.0, **changes) -> None:
        """Answers a grant with this gradient, or a constant one."""
        message = push_for(grant, **({"seconds": 0.1} | changes))
        vector = np.ascontiguousarray(np.broadcast_to(np.float32(value), self.size))
        self.channel.send(message, vector)


@contextlib.contextmanager
def two(out: Path, text: str = "asp()", key=None, **more) -> Iterator[tuple]:
    """A server and two workers that have got their first grants."""
    with Serving(out, text, keys=key, **more) as serving:
        workers = [serving.worker(i, f"n{i}", key=key) for i in range(2)]
        for worker in workers:
            worker.ready()
        grants = [worker.expect(Kind.GRANT) for worker in workers]
        yield serving, workers, grants
        for worker in workers:
            worker.channel.close()
