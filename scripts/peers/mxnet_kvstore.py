"""MXNet 1.9.1's `dist_async` KVStore (ps-lite with an updater), as DSSP's paper used.

Its wheel needs an environment of its own: pip install mxnet==1.9.1 "numpy<1.24".
"""

import json
import os
import subprocess
import sys

import common

try:
    import numpy

    numpy.bool = bool  # which MXNet still asks for
except ImportError:
    sys.exit(2)


def work(size: int, seconds: float) -> None:
    import mxnet

    store = mxnet.kv.create("dist_async")
    start = mxnet.nd.zeros(size)
    store.init("vector", start)
    if store.rank == 0:
        store.set_optimizer(mxnet.optimizer.SGD(learning_rate=common.RATE, wd=0.0))
    store._barrier()
    push, pulled = mxnet.nd.ones(size), mxnet.nd.zeros(size)

    def round_trip():
        store.push("vector", push)
        store.pull("vector", pulled)
        pulled.wait_to_read()

    print(json.dumps(common.loop(round_trip, seconds)), flush=True)
    store._barrier()


def main() -> None:
    given = common.arguments()
    if "DMLC_ROLE" in os.environ:
        work(given.bytes // 4, given.seconds)
        return
    if subprocess.run([sys.executable, "-c", _CHECK], capture_output=True).returncode:
        sys.exit(2)
    shared = common.parameter_server(given.workers)

    def start(role: str, command: list[str]) -> subprocess.Popen:
        variables = os.environ | shared | {"DMLC_ROLE": role}
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE)

    others = [
        start(role, [sys.executable, "-c", _CHECK]) for role in ("scheduler", "server")
    ]
    workers = [
        start("worker", [sys.executable, *sys.argv]) for _ in range(given.workers)
    ]
    times = [json.loads(worker.communicate()[0].splitlines()[-1]) for worker in workers]
    for process in others:
        process.wait(20)
    common.answer(times, given.seconds)


# Importing it is what a server or a scheduler does until the run is over.
_CHECK = "import numpy; numpy.bool = bool; import mxnet"

if __name__ == "__main__":
    main()
