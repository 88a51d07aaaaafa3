"""Under which address other hosts reach this one."""

import ipaddress
import socket

_ELSEWHERE = "192.0.2.1"  # documentation only (RFC 5737): any address far away


def own(coordinator: str | None) -> str:
    """An IPv4 address of this host that others can reach, if it has any.

    That of the interface which leads to the coordinator, or else away from here. What
    the host's name stands for comes last: on some systems it is loopback.

    Args:
      coordinator: HOST:PORT of the coordination service.
    """
    hosts = [] if coordinator is None else [coordinator.rpartition(":")[0]]
    for host in (*hosts, _ELSEWHERE):
        found = _towards(host)
        if found is not None and not is_loopback(found):
            return found
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def offered(network: str | None, coordinator: str | None) -> str | None:
    """An endpoint as others are told of it: all addresses become one of this host.

    Args:
      network: `tcp://HOST:PORT`; None where there is none.
      coordinator: HOST:PORT of the coordination service.

    Example:
      >>> offered("tcp://10.0.0.7:5555", None)
      'tcp://10.0.0.7:5555'
    """
    everywhere = "//0.0.0.0:"
    if network is None or everywhere not in network:
        return network
    return network.replace(everywhere, f"//{own(coordinator)}:")


def parts(endpoint: str) -> tuple[str, int]:
    """Host and port of `tcp://HOST:PORT`.

    Example:
      >>> parts("tcp://[::1]:5555")
      ('::1', 5555)
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]").replace("*", ""), int(port)


def endpoint(host: str, port: int) -> str:
    """The inverse of `parts`."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address leads no further than its own host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _towards(host: str) -> str | None:
    """The local end of the way to a host; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return probe.getsockname()[0]
    except OSError:  # no such host, or no way to it
        return None
