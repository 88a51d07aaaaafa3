"""How workers reach the server: its sockets, and the memory that it sends from."""

import dataclasses
import selectors
from typing import Any

from abs_dssp.cluster import memory, transport
from abs_dssp.cluster.keys import Keys
from abs_dssp.cluster.system import System
from abs_dssp.cluster.transport import Sizes
from abs_dssp.cluster.transport.base import Event


@dataclasses.dataclass(frozen=True)
class Listening:
    """How workers reach the server."""

    shared: bool = True  # over shared memory, where this system has it
    network: str | None = None  # TCP address; None for none
    keys: Keys | None = None  # for TLS
    busy: int = 1  # processes on this machine, workers included


class Connections:
    """All of a server's. Belongs to the serving thread, but for `inbox`."""

    def __init__(self, listening: Listening, sizes: Sizes, spin: float, system: System):
        """Listens.

        Args:
          listening: where.
          sizes: of the vectors.
          spin: seconds to look for a message before sleeping.
          system: has sockets and the clock.

        Raises:
          ValueError: if the address cannot be listened on.
        """
        shared = listening.shared and memory.supported()
        self.pool = memory.Pool(sizes.pull, sizes.pull_dtype, shared)  # of versions
        self.inbox = transport.Inbox(system)
        self._spin, self._system = spin, system
        self._shared: transport.SharedAcceptor | None = None
        self._network: transport.NetworkAcceptor | None = None
        self._selector = system.selectors.DefaultSelector()
        self._selector.register(
            self.inbox, selectors.EVENT_READ, lambda _: self.inbox.ready()
        )
        name = f"abs_dssp-{system.os.urandom(16).hex()}"
        try:
            if shared:
                self._shared = transport.SharedAcceptor(name, self.pool, sizes, system)
                self._shared.register(self._selector)
            if listening.network is not None:
                where, key = listening.network, listening.keys
                self._network = transport.NetworkAcceptor(
                    where, self.pool, sizes, key, system, seldom=not spin
                )
                self._network.register(self._selector)
        except BaseException:
            self.close()
            raise
        self.address = {  # where it listens, for the workers
            "shared": name if self._shared else None,
            "network": self._network.endpoint if self._network else None,
            "encrypted": listening.keys is not None,
        }

    def wait(self, most: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits a while for something to come; what `take` needs.

        Args:
          most: seconds; not longer than these, and than a fifth of one.
        """
        if self._network is not None and self._network.has_more:
            return self._selector.select(0)
        if self._spin:
            clock = self._system.time.perf_counter
            end = clock() + min(self._spin, most)
            while clock() < end:
                keys = self._selector.select(0)
                if keys:
                    return keys
                self._system.os.sched_yield()  # to whoever has something to do
        return self._selector.select(max(0.0, min(0.2, most)))

    def take(self, keys: list[tuple[selectors.SelectorKey, int]]) -> list[Event]:
        """What has come: `(peer, message)`, the message None at a connection's end.

        Messages that come together on one connection are taken one at a time.
        """
        events: list[Any] = [event for key, mask in keys for event in key.data(mask)]
        if self._network is not None:
            events += self._network.rest()
        return events

    def strangers(self) -> int:
        """Connections refused for their key since the last call."""
        return 0 if self._network is None else self._network.strangers()

    @property
    def refused(self) -> int:
        """Messages and connections that were dropped."""
        return sum(a.refused for a in (self._shared, self._network) if a is not None)

    def close(self) -> None:
        """Closes them, and frees the memory."""
        for acceptor in (self._shared, self._network):
            if acceptor is not None:
                acceptor.close()
        self._selector.close()
        self.inbox.close()
        self.pool.close()
