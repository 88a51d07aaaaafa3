"""PyTorch RPC: a remote function that updates under a lock and gives the vector."""

import os
import socket
import sys
import threading

import common

try:
    import torch
    import torch.distributed.rpc as rpc
    import torch.multiprocessing as multiprocessing
except ImportError:
    sys.exit(2)

vector, lock = None, threading.Lock()


def update(push):
    with lock:
        global vector
        if vector is None:
            vector = torch.zeros_like(push)
        vector.add_(push, alpha=-common.RATE)
        return vector.clone()


def run(rank: int, port: int, size: int, workers: int, seconds: float, results) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    rpc.init_rpc(f"process{rank}", rank=rank, world_size=workers + 1)
    if rank:
        push = torch.ones(size)
        results.put(
            common.loop(lambda: rpc.rpc_sync("process0", update, (push,)), seconds)
        )
    rpc.shutdown()


def main() -> None:
    given = common.arguments()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    settings = (port, given.bytes // 4, given.workers, given.seconds, results)
    processes = [
        context.Process(target=run, args=(rank, *settings))
        for rank in range(given.workers + 1)
    ]
    for process in processes:
        process.start()
    times = [results.get() for _ in range(given.workers)]
    for process in processes:
        process.join()
    common.answer(times, given.seconds)


if __name__ == "__main__":
    main()
