"""Messages over a real socket pair, in pieces, large and small."""

import contextlib
import select
import socket

import numpy as np
import pytest

from abs_dssp.cluster import messages
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.transport import stream
from abs_dssp.cluster.transport.base import ClosedError


@pytest.fixture(params=[False, True], ids=["early", "seldom"])
def ends(request):
    """A TCP connection: a plain socket, and a `Stream`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    reading = stream.Stream(near, seldom=request.param)
    with contextlib.closing(reading), far:
        yield far, reading


def _all(vector):
    return messages.encode(Message(Kind.PUSH, 1, nbytes=vector.nbytes)) + bytes(vector)


def _next(reader, reading, seconds=5.0):
    """The next message, waiting as a worker does; None if the time is over."""
    ready = select.poll()
    ready.register(reading.socket, select.POLLIN)
    while True:
        try:
            return reader.next()
        except BlockingIOError:
            if not ready.poll(1e3 * seconds):
                return None


@pytest.mark.parametrize("pieces", [1, 3, 40])
@pytest.mark.parametrize("size", [4, 1_000, 700_000, 3_000_000])
def test_a_vector_arrives_whole_and_so_does_the_message_after_it(ends, size, pieces):
    far, reading = ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size + 10_000)
    place = np.zeros(size // 4, np.float32)
    reader = stream.Reader(reading, lambda message: place)
    for number in range(2):
        sent = np.arange(number, number + size // 4, dtype=np.float32)
        data = _all(sent)
        cuts = [len(data) * i // pieces for i in range(pieces + 1)]
        got = None
        for start, end in zip(cuts, cuts[1:], strict=False):
            far.setblocking(False)
            rest = memoryview(data)[start:end]
            while rest:  # a piece may be more than the sockets hold
                with contextlib.suppress(BlockingIOError):
                    rest = rest[far.send(rest) :]
                if rest or end < len(data):
                    with contextlib.suppress(BlockingIOError):
                        got = got or reader.next()
        got = got or _next(reader, reading)
        assert got is not None and got.kind is Kind.PUSH
        np.testing.assert_array_equal(got.payload, sent)
        far.send(messages.encode(Message(Kind.HEARTBEAT, text=["x", []])))
        small = _next(reader, reading)
        assert small is not None and small.kind is Kind.HEARTBEAT


def test_an_end_amid_a_vector_is_noticed(ends):
    far, reading = ends
    place = np.zeros(500_000, np.float32)
    reader = stream.Reader(reading, lambda message: place)
    far.send(_all(place)[:100_000])
    assert _next(reader, reading, seconds=0.05) is None
    far.close()
    with pytest.raises(ClosedError):
        _next(reader, reading)


@pytest.mark.parametrize("ends", [True], indirect=True)
def test_a_reader_that_is_to_wake_up_seldom_sleeps_until_the_rest_is_there(ends):
    far, reading = ends
    place = np.zeros(100_000, np.float32)
    reader = stream.Reader(reading, lambda message: place)
    ready = select.poll()
    ready.register(reading.socket, select.POLLIN)
    sent = np.arange(100_000, dtype=np.float32)
    data = _all(sent)
    for start, end in ((0, 100_000), (100_000, 300_000)):
        far.sendall(data[start:end])
        assert bool(ready.poll(50)) == (start == 0)
        if start == 0:
            with pytest.raises(BlockingIOError):
                reader.next()
    far.sendall(data[300_000:])
    assert ready.poll(5000)
    np.testing.assert_array_equal(reader.next().payload, sent)
    far.sendall(messages.encode(Message(Kind.HEARTBEAT_ACK)))  # a small one wakes again
    assert ready.poll(5000)
    assert reader.next().kind is Kind.HEARTBEAT_ACK
