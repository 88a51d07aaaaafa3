"""One worker of mxnet_training.py, in MXNet's environment; not to be started by hand.

It trains with MXNet's Module on batches that it is given, or pushes known numbers and
reads what MXNet's server makes of them.
"""

import argparse
import json
import time
from pathlib import Path

WORKERS, BATCH, HIDDEN, PIXELS = 4, 32, 64, 64
PACE = [0.02, 0.02, 0.02, 0.06]  # seconds that a computation takes, filled by sleeping
NAMES = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")
SCHEDULE = 4  # updates after which the observed scheduler halves the step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", choices=("train", "observe"), required=True)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    given = parser.parse_args()
    (_train if given.work == "train" else _observe)(given)


def _mxnet():
    import numpy

    numpy.bool = bool  # which MXNet still asks for
    import mxnet

    return mxnet


def _train(given: argparse.Namespace) -> None:
    """One worker: MXNet's own Module, as its examples use it."""
    mx = _mxnet()
    import numpy as np

    store = mx.kv.create(given.mode)
    rank, sync = store.rank, given.mode == "dist_sync"
    with np.load(given.folder / "given.npz") as file:
        batches = [
            mx.io.DataBatch([mx.nd.array(x)], [mx.nd.array(y)])
            for x, y in zip(file["inputs"][rank], file["labels"][rank], strict=True)
        ]
        start = {name: mx.nd.array(file[name]) for name in NAMES}
    module = _module(mx, start)
    module.init_optimizer(
        store, "sgd", {"learning_rate": given.learning_rate, "wd": 0.0}
    )
    group = module._exec_group
    arrays = [array for (array,) in group.param_arrays]
    weights = dict(zip(group.param_names, arrays, strict=True))
    gradients = [array for (array,) in group.grad_arrays]

    def wait(arrays: list) -> None:
        for array in arrays:
            array.wait_to_read()

    module.forward_backward(batches[0])  # warms up; changes nothing
    wait(gradients)
    # Rounds need everybody; so they are counted.
    steps = int(given.seconds / max(PACE)) if sync else len(batches)
    snapshots, rows = [], []
    store._barrier()
    begin = now = time.perf_counter()
    for batch in batches[:steps]:
        begun = now
        if rank == 0:
            snapshots.append([weights[name].asnumpy() for name in NAMES])
        module.forward_backward(batch)
        wait(gradients)
        time.sleep(max(0.0, begun + PACE[rank] - time.perf_counter()))
        computed = time.perf_counter()
        module.update()
        wait(arrays)
        now = time.perf_counter()
        rows.append((begun, computed, now))
        if now - begin > given.seconds and not sync:
            break
    saved = {"rows": np.array(rows), "begin": begin}
    saved["rescale"] = module._optimizer.rescale_grad * BATCH
    for place, name in enumerate(NAMES if rank == 0 else ()):
        saved[name] = np.stack([snapshot[place] for snapshot in snapshots])
    np.savez(given.folder / f"worker{rank}.npz", **saved)
    store._barrier()


def _module(mx, start: dict):
    """The network with its initial weights."""
    net = mx.sym.Variable("data")
    net = mx.sym.FullyConnected(net, num_hidden=HIDDEN, name="fc1")
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.FullyConnected(net, num_hidden=10, name="fc2")
    net = mx.sym.SoftmaxOutput(net, name="softmax")
    module = mx.mod.Module(net)
    module.bind([("data", (BATCH, PIXELS))], [("softmax_label", (BATCH,))])
    module.init_params(arg_params=start)
    return module


def _observe(given: argparse.Namespace) -> None:
    """One worker: known pushes, and what they made of the weights."""
    mx = _mxnet()
    store = mx.kv.create(given.mode)
    found = {}

    def optimizer(**more) -> None:
        """The server's, made anew."""
        if store.rank == 0:
            store.set_optimizer(
                mx.optimizer.SGD(learning_rate=1.0, wd=0.0, rescale_grad=1.0, **more)
            )
        store._barrier()

    def weight(key: int) -> float:
        pulled = mx.nd.zeros(1)
        store.pull(key, pulled)
        return float(pulled.asnumpy()[0])

    def push(key: int, value: float) -> float:
        store.push(key, mx.nd.array([value]))
        return weight(key)

    def schedule():
        return mx.lr_scheduler.FactorScheduler(step=SCHEDULE, factor=0.5, base_lr=1.0)

    optimizer()
    total, clock, often, seldom = 1, 2, 3, 4  # keys; 0 is the Trainer's
    for key in (total, clock, often, seldom):
        store.init(key, mx.nd.zeros(1))
    store._barrier()
    push(total, store.rank + 1.0)
    store._barrier()
    found["sum"] = weight(total)
    # A schedule, and pushes of 1: together in a round, or one after the other.
    optimizer(lr_scheduler=schedule())
    turns = 1 if "_sync" in given.mode else WORKERS
    seen = []
    for _ in range(3 * SCHEDULE):
        for turn in range(turns):
            if turns == 1 or store.rank == turn:
                push(clock, 1.0)
            store._barrier()
            seen.append(weight(clock))
            store._barrier()
    found["clock"] = seen
    # Two vectors, of which one is pushed more often.
    optimizer(lr_scheduler=schedule())
    for _ in range(SCHEDULE + 1):
        if turns == 1 or store.rank == 0:
            push(often, 1.0)
    store._barrier()
    if turns == 1 or store.rank == 0:
        push(seldom, 1.0)
    store._barrier()
    found["seldom"] = weight(seldom) / (WORKERS if turns == 1 else 1)
    _step_of_trainer(mx, store)
    found["gluon"] = weight(0)
    (given.folder / f"observed{store.rank}.json").write_text(json.dumps(found))
    store._barrier()


def _step_of_trainer(mx, store) -> None:
    """One step of gluon's Trainer on a gradient of 1 to `WORKERS`; its key is 0."""
    parameter = mx.gluon.Parameter("weight", shape=(1,), init="zeros")
    parameter.initialize()
    settings = {"learning_rate": 1.0, "wd": 0.0}
    trainer = mx.gluon.Trainer([parameter], "sgd", settings, kvstore=store)
    with mx.autograd.record():
        loss = parameter.data() * (store.rank + 1.0)
    loss.backward()
    trainer.step(1)
    parameter.data().wait_to_read()
    store._barrier()


if __name__ == "__main__":
    main()
