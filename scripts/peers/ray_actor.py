"""Ray: an actor that holds the vector, and workers that call it."""

import sys

import common
import numpy as np

try:
    import ray
except ImportError:
    sys.exit(2)


@ray.remote
class Server:
    def __init__(self, size: int):
        self.vector = np.zeros(size, np.float32)

    def update(self, push):
        self.vector -= common.RATE * push
        return self.vector


@ray.remote
def work(server, size: int, seconds: float):
    push = np.ones(size, np.float32)
    return common.loop(lambda: ray.get(server.update.remote(push)), seconds)


def main() -> None:
    given = common.arguments()
    ray.init(
        num_cpus=given.workers + 1, include_dashboard=False, logging_level="ERROR",
        log_to_driver=False,
    )  # fmt: skip
    size = given.bytes // 4
    server = Server.remote(size)
    calls = [work.remote(server, size, given.seconds) for _ in range(given.workers)]
    times = ray.get(calls)
    ray.shutdown()
    common.answer(times, given.seconds)


if __name__ == "__main__":
    main()
