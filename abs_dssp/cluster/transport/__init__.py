"""Channels between workers and server: three kinds behind one interface.

The server's thread owns every server-side object; nothing is ever pickled.
"""

from abs_dssp.cluster.transport.base import Channel, ClosedError, Peer, Sizes
from abs_dssp.cluster.transport.network import NetworkAcceptor, NetworkChannel
from abs_dssp.cluster.transport.reference import Inbox, ReferenceChannel
from abs_dssp.cluster.transport.shared import SharedAcceptor, SharedChannel

NAMES = ("auto", "reference", "shm", "tcp")
OLD_NAMES = {"zmq": "tcp"}  # for one release

__all__ = [
    "NAMES",
    "OLD_NAMES",
    "Channel",
    "ClosedError",
    "Inbox",
    "NetworkAcceptor",
    "NetworkChannel",
    "Peer",
    "ReferenceChannel",
    "SharedAcceptor",
    "SharedChannel",
    "Sizes",
]
