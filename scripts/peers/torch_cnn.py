"""PyTorch's gradient of a small CNN, channels last, on all cores."""

import argparse
import json
import os
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, nargs="+", required=True)
    parser.add_argument("--kernel", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layers, inputs, side = [], 3, 32
    for outputs in given.channels:
        convolution = torch.nn.Conv2d(
            inputs, outputs, given.kernel, padding=given.kernel // 2
        )
        layers += [convolution, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        inputs, side = outputs, side // 2
    layers += [torch.nn.Flatten(), torch.nn.Linear(side * side * inputs, given.hidden)]
    layers += [torch.nn.ReLU(), torch.nn.Linear(given.hidden, 10)]
    network = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)
    images = torch.randn(given.batch, 3, 32, 32)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (given.batch,))
    times = []
    for _ in range(13):
        begun = time.perf_counter()
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        times.append(time.perf_counter() - begun)
    print(json.dumps({"ms": 1e3 * statistics.median(times[3:])}))


if __name__ == "__main__":
    main()
