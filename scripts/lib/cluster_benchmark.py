"""Push + update + pull round trips of the real server, and the cost of decisions.

One server process and W worker processes on this machine; the workers push a fixed
vector instead of computing gradients. Everything else is what a run does: policy, log,
optimiser step, transport.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from abs_dssp import compilation, optimizers, policies
from abs_dssp.cluster import keys, log, memory, server, settings, transport
from abs_dssp.cluster.core import Core, RunLimits
from abs_dssp.cluster.messages import Kind, Message, push_for
from abs_dssp.history.events import Event
from abs_dssp.history.machine import Machine
from abs_dssp.tasks.base import Task, Variables
from abs_dssp.training import flat, update

_ROUNDS = 3  # of which medians are shown
_SECONDS = 2.0
SIZES = (10_000, 1_000_000, 4_000_000, 64_000_000)
_PEERS = ("ps_lite", "mxnet_kvstore", "torch_rpc", "ray_actor", "numpy_pipe")


def main(python_of_peers: str = sys.executable) -> None:
    """Prints round trips beside three memory copies and beside the peers.

    Args:
      python_of_peers: interpreters to try, with commas between them: some peers need
        an environment of their own.
    """
    print("cluster: push + update + pull round trip, fp32, ms (median)")
    names = ("shm", "tcp", "tls", *_PEERS)
    print(f"{'bytes':>12}{'workers':>9}{'3 copies':>10}"
          + "".join(f"{name:>22}" for name in names))  # fmt: skip
    for size in SIZES:
        for workers in (1, 4):
            _line(size, workers, python_of_peers)
    _decisions()
    _recovery()


def _line(size: int, workers: int, python: str) -> None:
    """Every way and every peer in turn, `_ROUNDS` times; their medians."""
    found: dict[str, list[dict]] = {}
    for _ in range(_ROUNDS):
        for kind in ("shm", "tcp", "tls"):
            found.setdefault(kind, []).append(_measure(size, workers, _SECONDS, kind))
        for peer in _PEERS:
            answer = _peer(peer, size, workers, _SECONDS, python)
            found.setdefault(peer, []).extend([answer] if answer else [])
    shown = []
    for each in found.values():
        text = "-"
        if each:
            trip, rate = (
                statistics.median(one[key] for one in each)
                for key in ("median_ms", "updates_per_s")
            )
            text = f"{trip:.3f} ms {rate:,.0f}/s"
        shown.append(f"{text:>22}")
    print(f"{size:>12,}{workers:>9}{3 * _copy_ms(size):>10.3f}" + "".join(shown),
          flush=True)  # fmt: skip


def _copy_ms(size: int) -> float:
    source, target = np.ones(size // 4, np.float32), np.ones(size // 4, np.float32)
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def _measure(size: int, workers: int, seconds: float, kind: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        base = [
            sys.executable, __file__, f"--bytes={size}", f"--workers={workers}",
            f"--seconds={seconds}", f"--kind={kind}", f"--folder={folder}",
        ]  # fmt: skip
        if kind == "tls":
            keys.make(Path(folder) / "key")
        serving = subprocess.Popen([*base, "--role=server"], stdout=subprocess.PIPE)
        assert serving.stdout is not None
        address = serving.stdout.readline().decode()
        children = [
            subprocess.Popen(
                [*base, f"--role={index}", f"--address={address}"],
                stdout=subprocess.PIPE,
            )
            for index in range(workers)
        ]
        results = [json.loads(child.communicate()[0]) for child in children]
        serving.terminate()
        serving.wait()
    return {
        "median_ms": statistics.median(r["median_ms"] for r in results),
        "updates_per_s": sum(r["updates_per_s"] for r in results),
    }


def _peer(name: str, size: int, workers: int, seconds: float, python: str):
    program = Path(__file__).parents[1] / "peers" / f"{name}.py"
    if not program.exists():
        return None
    for each in python.split(","):
        done = subprocess.run(
            [each, program, f"--bytes={size}", f"--workers={workers}",
             f"--seconds={seconds}"],
            capture_output=True, text=True,
        )  # fmt: skip
        if not done.returncode:
            return json.loads(done.stdout.splitlines()[-1])
    return None


def _task(size: int, workers: int) -> Task:
    """A vector of parameters and nothing to compute."""
    zero = jnp.float32(0)
    return Task(
        name="nothing", num_workers=workers, batch_size=1, samples_per_epoch=workers,
        data=(), init=lambda key: Variables(jnp.zeros(size // 4, jnp.float32), {}),
        batch=lambda data, key, worker, index: (),
        loss=lambda variables, batch, key: (zero, {}),
        evaluate=lambda data, variables: {}, objective=lambda data, variables: zero,
    )  # fmt: skip


def _serve(size: int, workers: int, kind: str, folder: Path) -> None:
    task = _task(size, workers)
    functions = flat.Functions(task, update.rule(optimizers.sgd(1e-3)))
    held = log.Log(folder, {"num_workers": workers})
    key = keys.load(folder / "key") if kind == "tls" else None
    network = None if kind == "shm" else f"tcp://{_HOST}:0"
    running = server.Server(
        server.Training(task, policies.asp(workers), functions, 0),
        server.ServerConfig(
            RunLimits(),
            agreed={},
            settings=settings.Settings(evaluate=1e9, checkpoint=1e9, start=20),
            listening=server.Listening(kind == "shm", network, key, workers + 1),
        ),
        held,
        say=lambda line: None,
    )
    print(json.dumps(running.address), flush=True)
    running.serve()


def _work(index: int, address: dict, size: int, kind: str, seconds: float, folder):
    channel: transport.Channel
    if kind == "shm":
        channel = transport.SharedChannel(address["shared"], _SPIN)
    else:
        key = keys.load(folder / "key") if kind == "tls" else None
        channel = transport.NetworkChannel(address["network"], key, _SPIN)
    text = {"nonce": str(index), "process": "benchmark", "run": {}}
    channel.send(Message(Kind.HELLO, index, text=text))
    _await(channel, Kind.WELCOME)
    dtype = np.dtype(np.float32)
    channel.expect(transport.Sizes(size, dtype, size, dtype))
    device = jax.local_devices()[0]
    vector = jax.device_put(np.full(size // 4, 1e-3, np.float32), device)
    views = memory.Views([device])  # as a worker reads what it was granted
    channel.send(Message(Kind.READY, index))
    grant = _await(channel, Kind.GRANT)
    times: list[float] = []
    warm, begun = time.perf_counter() + 0.5, time.perf_counter()
    while begun < warm + seconds:
        begun = time.perf_counter()
        channel.send(push_for(grant), vector)
        grant = _await(channel, Kind.GRANT)
        views.of(grant.payload)
        if begun > warm:
            times.append(time.perf_counter() - begun)
    print(json.dumps({
        "median_ms": 1e3 * statistics.median(times),
        "updates_per_s": len(times) / sum(times),
    }))  # fmt: skip


def _await(channel: transport.Channel, kind: Kind) -> Message:
    while True:
        message = channel.receive(30)
        if message is None:
            sys.exit("no answer for 30 s")
        if message.kind is kind:
            return message


def _decisions() -> None:
    print("\ndecision of one push, N = 32, microseconds (median)")
    n = 32
    for text in ("asp()", "bsp()", "ssp(s=3)", "dssp(s_lower=3,s_upper=15)",
                 "k_sync(k=8)", "k_async(k=8)", "abs(k0=2,a=50)"):  # fmt: skip
        machine = Machine(policies.parse(text, n), n)
        generator = np.random.default_rng(0)
        running, times = set(range(n)), []
        for number in range(3000):
            event = Event("push", int(generator.choice(sorted(running))), float(number))
            begun = time.perf_counter()
            done = machine.apply(event, 0.0)
            times.append(time.perf_counter() - begun)
            running.discard(event.worker)
            running |= set(done.grants)
        print(f"  {text:<32}{1e6 * statistics.median(times[500:]):>8.1f}")


def _recovery() -> None:
    """What a row of the log costs a server that comes back; the same for any length."""
    print("\nrecovery of a log without a checkpoint, N = 4, 10,000 bytes")
    task = _task(10_000, 4)
    functions = flat.Functions(task, update.rule(optimizers.sgd(1e-3)))
    policy = policies.asp(4)
    for rows in (1_000, 10_000, 100_000):
        core = Core(policy, 4, RunLimits(), 1.0)
        core.start()
        with tempfile.TemporaryDirectory() as folder:
            made = log.Log(Path(folder), {"num_workers": 4})
            for number in range(rows):
                appended = core.apply(Event("push", number % 4, float(number)))[0]
                made.append(appended.entries)
            made.close()
            again = log.Log(Path(folder), {"num_workers": 4})
            config = server.ServerConfig(RunLimits(), {}, settings.Settings())
            training = server.Training(task, policy, functions, 0)
            said: list[str] = []
            running = server.Server(training, config, again, say=said.append)
            running.close()
            again.close()
        took = float(said[-1].rpartition("(")[2].removesuffix(" s)"))
        print(f"  {rows:>9,} rows {took:>8.1f} s {1e3 * took / rows:>8.3f} ms per row")


_SPIN = 0.0
_HOST = "127.0.0.1"

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--kind")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--role")
    parser.add_argument("--address")
    parser.add_argument("--host", default=_HOST)  # that a server listens on
    given = parser.parse_args()
    _HOST = given.host
    _SPIN = settings.spin_seconds(settings.Settings(), given.workers + 1)
    compilation.compute_in_the_calling_thread()
    if given.role == "server":
        _serve(given.bytes, given.workers, given.kind, given.folder)
    else:
        _work(int(given.role), json.loads(given.address), given.bytes, given.kind,
              given.seconds, given.folder)  # fmt: skip
