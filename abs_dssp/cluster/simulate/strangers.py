"""Who is no worker of the run, and what he sends."""

import functools
from collections.abc import Mapping
from random import Random
from typing import Any

from abs_dssp.cluster.messages import (
    HEADER_BYTES,
    Kind,
    Message,
    MessageError,
    announced,
    decode,
    encode,
)
from abs_dssp.cluster.simulate import sockets
from abs_dssp.cluster.simulate.disk import Host
from abs_dssp.cluster.simulate.network import End, Network, garbage
from abs_dssp.cluster.simulate.world import Process, World

_TEXTS: tuple[Any, ...] = (
    *(None, [], {}, "no", ["x", []]),
    *(["x", [[each, 0, 0, True]]] for each in (1e400, None, "a", 0.5)),
)
_CROWD = 90  # more than the server bears with at a time
_HOST = "c"


class Strangers:
    """They come over the host's own sockets and over TCP."""

    def __init__(
        self, world: World, network: Network, push: int, agreed: Mapping[str, Any]
    ):
        """Nobody has come.

        Args:
          world: decides.
          network: that they come over.
          push: bytes of a push's vector.
          agreed: what a worker must know of the run.
        """
        self._world, self._network = world, network
        self._push, self._agreed = push, agreed
        self._number = 0

    def come(self, host: Host, address: Mapping[str, Any]) -> None:
        """One comes to the server on this host, which has this address."""
        endpoint = address["network"].removeprefix("tcp://").split(":")
        far = self._network.listening.get((endpoint[0], int(endpoint[1])))
        near = host.listening.get("\0" + str(address["shared"]))
        if near is not None and self._world.random.random() < 0.5:
            self._come_near(near, host)
        elif far is not None:
            self._come_from_afar(far)

    def _come_near(self, listener: sockets.Socket, host: Host) -> None:
        world = self._world
        data = nonsense(world.random, self._push)
        world.note("a stranger sends", len(data), "bytes")
        stranger = Process(world, host, "stranger", 0)
        connection = sockets.Socket(listener.process)
        connection.packets.append((data, []))
        connection.other = sockets.Socket(stranger)
        connection.other.other = connection
        connection.ended = world.random.random() < 0.7
        listener.waiting.append(connection)
        listener.changed.notify()

    def _come_from_afar(self, listener: Any) -> None:
        world, random = self._world, self._world.random
        luck = random.random()
        if luck < 0.01:
            data = random.choice([b"", encode(Message(Kind.HEARTBEAT, text=["x", []]))])
            world.note("a crowd comes and says", len(data), "bytes each")
            for _ in range(_CROWD):
                if (end := self._meet(listener)) is not None:
                    end.wire.write(data)
            return
        end = self._meet(listener)
        if end is None:
            return
        wrong = True
        if luck < 0.03:
            data = self._impostor()
        elif luck < 0.1:
            data = garbage(world)
        else:
            parts = [nonsense(random, self._push) for _ in range(random.randrange(4))]
            data = b"".join(parts)
            wrong = _is_wrong(data)
        world.note("a stranger", end.name, "sends", len(data), "bytes")
        self._send(end, data, wrong)

    def _meet(self, listener: Any) -> End | None:
        self._number += 1
        end: End | None = listener.meet((_HOST, self._number))
        if end is not None:
            end.wire.is_raw = end.other.wire.is_raw = True
        return end

    def _send(self, end: End, data: bytes, wrong: bool) -> None:
        """Sends in pieces, at times reading the answers, and perhaps ends it."""
        world, random = self._world, self._world.random
        when = 0.0

        def say(part: bytes) -> None:
            if random.random() < 0.5:
                end.inbox.clear()
                end.other.changed.notify()
            if not end.broken:
                end.wire.write(part)

        while data:
            size = random.randrange(1, len(data) + 1)
            when += 0.0 if random.random() < 0.8 else 3 * random.random()
            world.at(when, functools.partial(say, data[:size]))
            data = data[size:]
        if wrong:
            world.at(when, end.wire.poison)
        luck = random.random()
        if luck < 0.3:
            world.at(when + random.random(), lambda: self._network.close(end))
        elif luck < 0.4:
            world.at(when + random.random(), lambda: self._network.reset(end))

    def _impostor(self) -> bytes:
        """Takes the place of a worker, and sends no push of the right size."""
        text = {"nonce": str(self._number), "process": "?", "run": self._agreed}
        worker = self._world.random.randrange(self._agreed["num_workers"])
        size = self._world.random.choice([1, self._push - 4, self._push + 4, 2**31])
        push = Message(Kind.PUSH, worker, nbytes=size)
        hello = Message(Kind.HELLO, worker, text=text)
        return encode(hello) + encode(push) + bytes(self._push)


def _is_wrong(data: bytes) -> bool:
    """Whether what a stranger sends cannot be messages: he must be hung up on."""
    while len(data) >= HEADER_BYTES:
        try:
            length = announced(data)
            if len(data) < length:
                return False
            if decode(data[:length]).nbytes:  # a vector, from somebody unknown
                return True
        except MessageError:
            return True
        data = data[length:]
    return False


def nonsense(random: Random, size: int) -> bytes:
    """Bytes that look like a message more or less.

    Args:
      random: decides.
      size: of a push, bytes.
    """
    if random.random() < 0.3:
        return random.randbytes(random.randrange(200))
    kind = random.choice(list(Kind))
    big = random.choice([0, 1, 2, 7, 2**31 - 1])
    message = Message(
        kind,
        big,
        big,
        grant_id=big,
        buffer=random.choice([-1, 0, 1, 9]),
        nbytes=random.choice([0, big, size]),
        text=random.choice(_TEXTS),
    )
    data = bytearray(encode(message))
    if random.random() < 0.5:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)
