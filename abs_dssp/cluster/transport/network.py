"""Between hosts: ZeroMQ, vectors as frames that are not copied, CURVE.

A peer without the key gets nothing: ZeroMQ drops it before a message reaches us.
"""

import dataclasses
import hmac
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from abs_dssp.cluster import memory, messages
from abs_dssp.cluster.keys import Keys
from abs_dssp.cluster.messages import Kind, Message, MessageError
from abs_dssp.cluster.system import REAL, System
from abs_dssp.cluster.transport.base import (
    Channel,
    ClosedError,
    Event,
    Outbox,
    Peer,
    Sizes,
)

_QUEUED = 4  # messages of the server to one worker, vectors among them
_PATIENCE = 60.0  # seconds that a message waits for a way to its peer
_PEERS = 4096  # connections remembered


class NetworkChannel(Channel):
    """A worker on any host."""

    transport = "zmq"

    def __init__(self, endpoint: str, keys: Keys | None, system: System = REAL):
        """Connects in the background; ZeroMQ reconnects by itself.

        Args:
          endpoint: such as `tcp://10.0.0.1:5555`.
          keys: for CURVE; None without encryption.
          system: has ZeroMQ.
        """
        self._zmq = zmq = system.zmq()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.routing_id = b"w" + system.os.urandom(15)
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = 100, 5000
        if keys is not None:
            self._socket.curve_serverkey = keys.server_public
            self._socket.curve_publickey = keys.client_public
            self._socket.curve_secretkey = keys.client_secret
            self.silence = (
                f"the server at {endpoint} does not answer: it is out of reach, or its "
                "--key_file is another one"
            )
        self._sizes: Sizes | None = None
        self._vectors: list[np.ndarray] = []
        self._socket.connect(endpoint)

    def expect(self, sizes: Sizes) -> None:
        self._sizes = sizes
        memory.keep_pages()
        # A device uses memory of ours in place; ZeroMQ's would be copied to new pages,
        # which takes ten times as long. Two: one is computed from, one received.
        self._vectors = [memory.aligned(sizes.pull, sizes.pull_dtype) for _ in range(2)]

    def send(self, message: Message, vector: Any = None) -> None:
        frames: list[Any] = []
        if vector is not None:
            array = np.asarray(vector)
            message.nbytes = array.nbytes
            frames = [_bytes(array)]
        try:
            self._socket.send_multipart(
                [messages.encode(message), *frames], self._zmq.NOBLOCK, copy=False
            )
        except self._zmq.Again:
            pass  # not connected: the message is sent again later
        except self._zmq.ZMQError as error:
            raise ClosedError(str(error)) from error

    def receive(self, seconds: float) -> Message | None:
        if not self._socket.poll(math.ceil(max(seconds, 0) * 1e3)):
            return None
        head, *rest = self._socket.recv_multipart(copy=False)
        message = messages.decode(head.buffer)
        if message.nbytes:
            if self._sizes is None:
                raise MessageError("a vector before the welcome.")
            if len(rest) != 1 or len(rest[0].buffer) != self._sizes.pull:
                raise MessageError("a vector of another size.")
            self._vectors.reverse()
            message.payload = self._vectors[0]
            received = np.frombuffer(rest[0].buffer, self._sizes.pull_dtype)
            np.copyto(message.payload, received)
        return message

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class NetworkAcceptor:
    """The server's ZeroMQ socket."""

    def __init__(
        self,
        address: str,
        pool: memory.Pool,
        sizes: Sizes,
        keys: Keys | None,
        system: System = REAL,
    ):
        """Listens.

        Args:
          address: `tcp://HOST:PORT`; port 0 takes a free one, see `endpoint`.
          pool: of versions.
          sizes: of the vectors.
          keys: for CURVE; None without encryption.
          system: has ZeroMQ.

        Raises:
          ValueError: if the port is taken or the address is not this host's.
        """
        self._zmq = zmq = system.zmq()
        self._pool, self._sizes = pool, sizes
        memory.keep_pages()
        self._context = zmq.Context()
        self._authenticator = self._monitor = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        self._socket.router_handover = 1
        self._socket.router_mandatory = 1
        self._socket.sndhwm = _QUEUED
        largest = max(sizes.push, messages.HEADER_BYTES + messages.MAX_TEXT)
        self._socket.maxmsgsize = largest + 64  # what CURVE adds to a frame
        if keys is not None:
            from zmq.auth import thread

            authenticator = thread.ThreadAuthenticator(self._context)
            authenticator.start()
            authenticator.configure_curve_callback("*", _Known(keys.client_public))
            self._authenticator = authenticator
            self._socket.curve_server = True
            self._socket.curve_publickey = keys.server_public
            self._socket.curve_secretkey = keys.server_secret
            refusals = zmq.EVENT_HANDSHAKE_FAILED_AUTH
            refusals |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            self._monitor = self._socket.get_monitor_socket(refusals)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(
                f"cannot listen on {address}: {error.strerror}; choose another port."
            ) from None
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.endpoint = bound.rstrip("\0")
        self._peers: dict[bytes, _NetworkPeer] = {}
        # Whose outbox is not empty, and since when.
        self._waiting: dict[_NetworkPeer, float] = {}
        self._now = system.time.perf_counter
        self.refused = 0  # messages

    def fileno(self) -> int:
        """A descriptor that tells of changes only: look at `ready` in any case."""
        return int(self._socket.getsockopt(self._zmq.FD))

    def ready(self) -> list[Event]:
        """Everything that has come. Sends on what a peer had no room for."""
        events: list[Event] = []
        for peer, since in list(self._waiting.items()):
            if self._now() - since > _PATIENCE:  # it is dead, or asks again
                peer.outbox.message = None
                self.forget(peer)
            peer.flush()
        while True:
            try:
                identity, *frames = self._socket.recv_multipart(
                    self._zmq.NOBLOCK, copy=False
                )
            except self._zmq.Again:
                return events
            name = bytes(identity.buffer)
            if name not in self._peers:
                if len(self._peers) >= _PEERS:  # the one that came first
                    self._peers.pop(next(iter(self._peers))).close()
                address = identity.get("Peer-Address") or "?"
                self._peers[name] = _NetworkPeer(self, name, str(address))
            try:
                events.append((self._peers[name], self._message(frames)))
            except MessageError:
                self.refused += 1

    def _message(self, frames: Sequence[Any]) -> Message:
        if not 1 <= len(frames) <= 2:
            raise MessageError(f"{len(frames)} frames.")
        message = messages.decode(frames[0].buffer)
        message.buffer = -1
        if message.kind is Kind.PUSH:
            size = self._sizes.push
            if len(frames) != 2 or len(frames[1].buffer) != size:
                raise MessageError("a push without its vector, or of another size.")
            if message.nbytes != size:
                raise MessageError(f"{message.nbytes} bytes, expected {size}.")
            message.payload = np.frombuffer(frames[1].buffer, self._sizes.push_dtype)
        elif len(frames) != 1:
            raise MessageError("an unexpected vector.")
        return message

    def transmit(self, peer: "_NetworkPeer", message: Message) -> None:
        """Sends, or remembers that the peer has something to send.

        A worker that is out of reach for now comes back under its identity.
        """
        vector = None
        if message.buffer >= 0:
            vector = self._pool.arrays[message.buffer]
            message.nbytes = vector.nbytes
        head = messages.encode(dataclasses.replace(message, buffer=-1))
        frames: list[Any] = [peer.identity, head]
        if vector is not None:
            frames.append(_bytes(vector))
        try:
            self._socket.send_multipart(frames, self._zmq.NOBLOCK, copy=False)
        except self._zmq.ZMQError:
            self._waiting.setdefault(peer, self._now())
        else:
            peer.outbox.message = None
            self._waiting.pop(peer, None)

    def strangers(self) -> int:
        """Connections refused for their key since the last call."""
        if self._monitor is None:
            return 0
        from zmq.utils.monitor import recv_monitor_message

        count = 0
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            # The client's key is another one, or what it takes for the server's is.
            client = event["event"] == self._zmq.EVENT_HANDSHAKE_FAILED_AUTH
            server = event["value"] == self._zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
            count += client or server
        return count

    def forget(self, peer: "_NetworkPeer") -> None:
        """Nothing is sent to it any more."""
        self._waiting.pop(peer, None)

    def close(self) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
        self._socket.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()


class _Known:
    """Accepts one public key, as ZeroMQ's authenticator asks."""

    def __init__(self, key: bytes):
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        del domain  # Z85, as in the key file
        return hmac.compare_digest(key, self._key)


class _NetworkPeer(Peer):
    transport = "zmq"

    def __init__(self, acceptor: NetworkAcceptor, identity: bytes, address: str):
        self._acceptor, self.identity, self.name = acceptor, identity, address
        self.outbox = Outbox()

    def send(self, message: Message) -> None:
        if self.open:
            self.outbox.put(message)
            self.flush()

    def flush(self) -> None:
        """Sends what is in the outbox, if there is room."""
        if self.outbox.message is not None:
            self._acceptor.transmit(self, self.outbox.message)

    def close(self) -> None:
        self.open = False
        self._acceptor.forget(self)


def _bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array without a copy, also of formats that Python lacks."""
    return array.view(np.uint8).data
