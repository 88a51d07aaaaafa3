"""Cables between network namespaces that take time and lose frames, in user space.

    wire.py SECONDS LOSS SEED NAMESPACE:DEVICE NAMESPACE:DEVICE [...]

For kernels without netem. A cable has two ends, network devices that this program makes
in the namespaces named, and carries every Ethernet frame from the one to the other
after so many seconds, or loses it. Says `ready`, and goes on until its standard input
ends; the devices end with it.
"""

import collections
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_FRAME = 65536  # bytes, more than any
_MOST = 5000  # frames on their way in one direction; more are lost, as in a router


def _end(name: str, place: str) -> int:
    """One end of a cable, in its namespace; what is written there arrives there."""
    namespace, device = place.split(":")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    subprocess.run(
        ["ip", "link", "set", name, "name", device, "netns", namespace], check=True
    )
    return descriptor


def main(seconds: float, loss: float, seed: int, places: list[str]) -> None:
    """Carries frames."""
    ends = [_end(f"w{os.getpid()}.{i}", place) for i, place in enumerate(places)]
    other = {end: ends[i ^ 1] for i, end in enumerate(ends)}
    chance = random.Random(seed)
    on_their_way: collections.deque[tuple[float, int, bytes]] = collections.deque()
    print("ready", flush=True)
    while True:
        wait = None
        if on_their_way:
            wait = max(0.0, on_their_way[0][0] - time.monotonic())
        ready, _, _ = select.select([0, *ends], [], [], wait)
        if 0 in ready and not os.read(0, 4096):
            return
        now = time.monotonic()
        for end in ready:
            for _ in range(64 if end else 0):
                try:
                    frame = os.read(end, _FRAME)
                except OSError:  # no more, or its device is down
                    break
                if chance.random() >= loss and len(on_their_way) < _MOST:
                    on_their_way.append((now + seconds, other[end], frame))
        while on_their_way and on_their_way[0][0] <= time.monotonic():
            _, end, frame = on_their_way.popleft()
            try:
                os.write(end, frame)
            except OSError:  # nobody is there to receive it
                pass


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
