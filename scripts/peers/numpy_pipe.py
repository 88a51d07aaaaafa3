"""The plainest parameter server: NumPy vectors over multiprocessing's pipes."""

import multiprocessing

import common
import numpy as np


def serve(size: int, pipes) -> None:
    from multiprocessing.connection import wait

    vector = np.zeros(size, np.float32)
    while pipes:
        for pipe in wait(pipes):
            try:
                push = np.frombuffer(pipe.recv_bytes(), np.float32)
            except EOFError:
                pipes.remove(pipe)
                continue
            vector -= common.RATE * push
            pipe.send_bytes(vector)


def work(pipe, size: int, seconds: float, results) -> None:
    push, pulled = np.ones(size, np.float32), np.empty(size, np.float32)

    def round_trip():
        pipe.send_bytes(push)
        pipe.recv_bytes_into(pulled)

    results.put(common.loop(round_trip, seconds))


def main() -> None:
    given = common.arguments()
    size = given.bytes // 4
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(given.workers)]
    results = context.Queue()
    server = context.Process(target=serve, args=(size, [a for a, _ in pairs]))
    workers = [
        context.Process(target=work, args=(b, size, given.seconds, results))
        for _, b in pairs
    ]
    for process in (server, *workers):
        process.start()
    for pair in pairs:
        for end in pair:
            end.close()
    times = [results.get() for _ in workers]
    for process in (*workers, server):
        process.join()
    common.answer(times, given.seconds)


if __name__ == "__main__":
    main()
