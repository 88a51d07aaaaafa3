"""The coordination service of `jax.distributed`, in a process of its own.

    python -m abs_dssp.cluster.coordinator --bind=127.0.0.1:1234 --num_processes=4

Prints `ready at HOST:PORT` when it serves. By default process 0 of a run hosts this
service, and its death ends every other process. Hosted here it is apart from the
server: any process may die, process 0 too, and come back under its index. The service
is neither encrypted nor authenticated: bind loopback or a private network, never an
open one.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

# A process that was silent for so long counts as dead, and is ended when it speaks
# again. It beats twice in the time that it was told itself: tell all of them this one.
HEARTBEAT_SECONDS = 600
_SHUTDOWN_SECONDS = 5


class Service(NamedTuple):
    """A running coordination service; it runs while this is referred to."""

    address: str  # HOST:PORT
    handle: Any  # jaxlib's
    claim: socket.socket  # keeps a port that was chosen here from being chosen again


def serve(bind: str, num_processes: int) -> Service:
    """Starts the service at `bind` (`HOST:PORT`; port 0: a free one).

    Raises:
      ValueError: if an argument makes no sense.
      OSError: if the address is taken or not of this machine.
      RuntimeError: if the installed jax offers no such service.
    """
    if num_processes < 1:
        raise ValueError(f"--num_processes must be at least 1, got {num_processes}.")
    address, claim = _claim(bind)
    # This start-up takes 0.1 s with jaxlib alone, and 0.4 s with all of jax.
    from jaxlib import _jax, version  # type: ignore[attr-defined]  # compiled

    # The one private call of the project: jax offers no public way to host the service
    # outside process 0.
    start: Any = getattr(_jax, "get_distributed_runtime_service", None)
    try:
        handle = start(  # None, or another signature: one and the same for the user
            address,
            num_processes,
            heartbeat_timeout=HEARTBEAT_SECONDS,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            recoverable=True,
        )
    except TypeError:
        raise RuntimeError(
            f"jaxlib {version.__version__} cannot host the coordination service apart; "
            "install jax 0.10, or let process 0 host it, without --coordinator_apart."
        ) from None
    return Service(address, handle, claim)


def _claim(bind: str) -> tuple[str, socket.socket]:
    """The address to serve at, and a socket that claims it.

    The service itself (SO_REUSEPORT) would share a port with another of its kind, and
    neither would notice: so its port must first be had alone.
    """
    host, _, port = bind.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"--bind must be HOST:PORT with a port in 0..65535, got {bind!r}."
        )
    plain = host.strip("[]")  # of an IPv6 address
    claim = socket.socket(socket.AF_INET6 if ":" in plain else socket.AF_INET)
    try:
        if int(port):  # past connections that are still closing, but no listener
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.bind((plain, int(port)))
        if int(port):
            claim.listen()
            claim.close()
        elif sys.platform == "linux":
            # Ours alone until here; from now on it lets the service, and no other
            # claim, have the port too. It never listens, so it takes no connection.
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = claim.getsockname()[1]
        else:
            port = claim.getsockname()[1]
            claim.close()
    except OSError as error:
        claim.close()
        raise OSError(
            f"the coordinator cannot bind {bind} ({error.strerror}); choose another "
            "port, or end the program that holds this one."
        ) from None
    return f"{host}:{port}", claim


def main(argv: Sequence[str]) -> None:
    """Serves until a signal, or with --end_with_stdin until standard input ends.

    With --linger_seconds, SIGTERM leaves it that much time: where every process of a
    run is told to end at once, the others need it to end in order.
    """
    parser = argparse.ArgumentParser(prog="coordinator", allow_abbrev=False)
    parser.add_argument("--bind", required=True, help="HOST:PORT (0: free).")
    parser.add_argument("--num_processes", type=int, required=True)
    parser.add_argument(
        "--end_with_stdin",
        action="store_true",
        help="End when standard input does, that is with the program that feeds it.",
    )
    parser.add_argument(
        "--linger_seconds",
        type=float,
        default=0.0,
        help="Go on for so long after SIGTERM, which others may have got too.",
    )
    options = parser.parse_args(argv)
    # Errors only; the deaths of processes are the launcher's and the server's to tell.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    def end(*_):
        if not options.linger_seconds:
            os._exit(0)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, options.linger_seconds)

    signal.signal(signal.SIGTERM, end)
    try:
        service = serve(options.bind, options.num_processes)
        print(f"ready at {service.address}", flush=True)
        if options.end_with_stdin:
            while os.read(sys.stdin.fileno(), 4096):
                pass
        else:
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        pass
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    os._exit(0)  # an orderly shutdown would wait for processes that may be gone


if __name__ == "__main__":
    main(sys.argv[1:])
