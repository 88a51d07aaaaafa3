"""The modules through which a process of a cluster touches the world.

Server, workers, log and checkpoints name none of them directly: clock, threads,
sockets and disk come from one `System`, so that a test can run the very same code on
simulated ones (see `simulate`).
"""

import dataclasses
import fcntl
import os
import queue
import select
import selectors
import signal
import socket
import threading
import time
from typing import Any


@dataclasses.dataclass(frozen=True)
class System:
    """Modules of the standard library, or what stands in for them."""

    os: Any = os
    time: Any = time
    threading: Any = threading
    queue: Any = queue
    socket: Any = socket
    select: Any = select
    fcntl: Any = fcntl
    selectors: Any = selectors
    signal: Any = signal


REAL = System()
