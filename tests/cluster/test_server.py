"""What the server does with the messages of well-behaved and other workers."""

import contextlib
import dataclasses
import gc
import os
import resource
import socket
import ssl
import threading
import time

import harness
import numpy as np
import pytest

from abs_dssp.cluster import addresses, keys, log, messages, transport
from abs_dssp.cluster.messages import Kind, Message

# Workers by hand give no signs of life.
PATIENT = dataclasses.replace(harness.QUICK, lease=120.0)
NETWORK = {"shared": False, "network": "tcp://127.0.0.1:0"}


def rows(serving):
    """Pushes in the log on disk."""
    _, records, _ = log.read(serving.log.path)
    return [(e.event.worker, e.version) for e in records if e.event.kind == "push"]


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_a_push_is_applied_once_and_answered_twice(kind, tmp_path):
    more = NETWORK if kind == "tcp" else {}
    with harness.two(tmp_path, **more) as (serving, (one, _), (grant, _)):
        one.push(grant)
        first = one.expect(Kind.GRANT)
        one.push(grant)  # again, as after a lost answer
        second = one.expect(Kind.GRANT)
        assert first.grant_id == second.grant_id == 2
        assert first.version == second.version == 1
        np.testing.assert_array_equal(first.payload, second.payload)
        assert rows(serving) == [(0, 0)]
        # sgd with step 0.1: gradient 1 everywhere moves every parameter by -0.1.
        np.testing.assert_allclose(grant.payload - first.payload, 0.1, rtol=1e-6)


class _Peer(transport.Peer):
    """Remembers what it was sent, as a worker would see it."""

    def __init__(self, pool):
        self.pool, self.sent = pool, []

    def send(self, message):
        vector = self.pool.arrays[message.buffer] if message.buffer >= 0 else None
        self.sent.append((message, None if vector is None else np.array(vector)))

    def close(self):
        pass


@pytest.mark.often(3)
@pytest.mark.parametrize(
    "text",
    ["asp()", "ssp(s=1)", "bsp()", "k_async(k=2)", "ringmaster(threshold=1,stop=True)"],
)
def test_pushes_that_come_together_are_taken_as_one_by_one(text, tmp_path):
    """The same log but for the times, versions, answers and parameters."""

    def run(together: bool):
        folder = tmp_path / str(together)
        folder.mkdir()
        serving = harness.Serving(folder, text, num_workers=4, settings=PATIENT)
        server, taken = serving.server, []
        peers = [_Peer(server.pool) for _ in range(4)]

        def take(arrivals):
            while arrivals:
                taken.append(server._take(arrivals))
                del arrivals[: taken[-1]]

        for index, peer in enumerate(peers):
            hello = {"nonce": str(index), "process": "a test", "run": {}}
            take([(peer, Message(Kind.HELLO, index, text=hello))])
            take([(peer, Message(Kind.READY, index))])
        random = np.random.default_rng(5)
        for _ in range(40):
            arrivals = []
            for index in random.permutation(4)[: random.integers(1, 5)]:
                last, _ = peers[index].sent[-1]
                vector = random.normal(size=serving.functions.layout.size)
                if last.kind is Kind.GRANT:
                    push = messages.push_for(last, loss=0.5)
                    push.payload = vector.astype(np.float32)
                    arrivals.append((peers[index], push))
            for group in [arrivals] if together else [[one] for one in arrivals]:
                take(group)
        _, entries, _ = log.read(serving.log.path)
        vector = np.array(server.arithmetic.vector)
        server.close()
        serving.log.close()
        last = [peer.sent[-1][0] for peer in peers]
        told = [(m.kind, m.grant_id, m.version) for m in last]
        given = {
            (message.worker, message.grant_id, message.version): value.tolist()
            for peer in peers
            for message, value in peer.sent
            if value is not None
        }
        entries = [e._replace(event=e.event._replace(time=0.0)) for e in entries]
        return entries, vector.tolist(), told, given, max(taken)

    one, many = run(False), run(True)
    assert one[:3] == many[:3]
    assert many[3].items() <= one[3].items()  # grants that are void at once stay unsent
    # Under ringmaster each push cancels what the others computed.
    assert one[4] == 1 and many[4] == (1 if "stop" in text else 4)


def test_a_waiting_pusher_is_acknowledged_and_granted_later(tmp_path):
    with harness.two(tmp_path, "bsp()") as (serving, (one, other), grants):
        one.push(grants[0], 1.0)
        one.expect(Kind.WAIT)
        assert rows(serving) == [(0, 0)]  # on disk before the answer
        other.push(grants[1], 3.0)
        new = one.expect(Kind.GRANT)
        assert new.version == 1
        np.testing.assert_allclose(grants[0].payload - new.payload, 0.2, rtol=1e-6)


def test_a_dead_worker_is_waited_for_no_longer(tmp_path):
    with harness.two(tmp_path, "bsp()") as (serving, (one, other), grants):
        one.push(grants[0])
        one.expect(Kind.WAIT)
        other.channel.close()
        assert one.expect(Kind.GRANT).version == 1
        assert "worker 1 is gone" in "".join(serving.said)


def test_one_who_comes_back_joins_at_the_slowest_living_clock(tmp_path):
    with harness.two(tmp_path, "ssp(s=1)") as (serving, (one, other), grants):
        other.channel.close()
        grant = grants[0]
        for _ in range(5):
            one.push(grant)
            grant = one.expect(Kind.GRANT)
        again = serving.worker(1, "another process")
        again.ready()
        back = again.expect(Kind.GRANT)
        assert (back.version, back.clock) == (5, 1)
        # With its own clock, 0, worker 0 would now wait for it; at 5 it may lead by 1.
        one.push(grant)
        grant = one.expect(Kind.GRANT)
        one.push(grant)
        one.expect(Kind.WAIT)
        one.nothing()
        again.push(back)
        one.expect(Kind.GRANT)


def test_a_silent_worker_is_left_out_and_taken_back_when_it_moves(tmp_path):
    quick = dataclasses.replace(harness.QUICK, lease=0.5)
    with harness.two(tmp_path, "bsp()", settings=quick) as (serving, (one, other), g):
        beats = serving.connect()

        def beat(index, steps):
            text = [f"n{index}", [[index, 1, steps, False]]]
            beats.send(Message(Kind.HEARTBEAT, text=text))

        end = time.monotonic() + 1.5
        while time.monotonic() < end:  # only worker 0 gives signs of life
            beat(0, 1)
            time.sleep(0.1)
        assert "worker 1 is left out: no sign of life" in "".join(serving.said)
        one.push(g[0])
        assert one.expect(Kind.GRANT).version == 1
        beat(1, 1)
        assert other.expect(Kind.GRANT).version == 1


def test_a_stuck_worker_is_left_out_though_it_beats(tmp_path):
    quick = dataclasses.replace(harness.QUICK, progress=0.5)
    with harness.two(tmp_path, "bsp()", settings=quick) as (serving, (one, _), _):
        beats = serving.connect()
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            lives = [[0, 1, time.monotonic_ns(), False], [1, 1, 5, False]]
            for index in range(2):
                text = [f"n{index}", [lives[index]]]
                beats.send(Message(Kind.HEARTBEAT, text=text))
            time.sleep(0.1)
        said = "".join(serving.said)
        assert "worker 1 is left out: alive, but without progress" in said
        assert "worker 0" not in said


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pushes_that_are_not_finite_are_dropped_and_their_worker_expelled(
    value, tmp_path
):
    with harness.two(tmp_path, "bsp()") as (serving, (one, other), grants):
        other.push(grants[1])
        other.expect(Kind.WAIT)
        grant = grants[0]
        for _ in range(2):
            one.push(grant, value)
            grant = one.expect(Kind.GRANT)
            assert grant.clock == 1  # the same push is asked for again
        one.push(grant, value)
        assert "not finite" in one.expect(Kind.STOP).text["reason"]
        assert other.expect(Kind.GRANT).version == 1
        assert rows(serving) == [(1, 0)]


def test_large_but_finite_pushes_are_taken(tmp_path):
    with harness.two(tmp_path) as (serving, (one, _), grants):
        one.push(grants[0], 3e38)  # its square overflows
        one.expect(Kind.GRANT)
        assert rows(serving) == [(0, 0)]


def test_an_impostor_takes_the_place_and_the_old_process_is_told(tmp_path):
    with harness.two(tmp_path) as (serving, (one, _), _):
        again = serving.worker(0, "newer")
        again.ready()
        assert again.expect(Kind.GRANT).clock == 1
        assert "another process" in one.expect(Kind.STOP).text["reason"]


@pytest.mark.parametrize(
    ("index", "said", "complaint"),
    [
        (0, {"seed": 1}, "its seed is 1, the server's 0"),
        (0, {}, "its seed is None"),
        (0, {"seed": 0, "flags": {"momentum": 0}}, "its momentum is 0, the server's"),
        (7, {"seed": 0}, "there is no worker 7"),
    ],
)
def test_others_are_refused_with_a_reason(index, said, complaint, tmp_path):
    agreed = {"seed": 0, "flags": {"momentum": 0.9}}
    with harness.Serving(tmp_path, identity=agreed) as serving:
        worker = serving.worker(index, said=said)
        assert complaint in worker.expect(Kind.REFUSED).text


def test_whoever_did_not_say_hello_is_asked_to(tmp_path):
    with harness.Serving(tmp_path) as serving:
        channel = serving.connect()
        channel.send(Message(Kind.READY, 0))
        answer = channel.receive(5)
        assert answer is not None and answer.kind is Kind.HELLO
        channel.close()


def frames():
    good = messages.encode(Message(Kind.HELLO, 0, text={"a": 1}))
    return {
        "garbage": b"GET / HTTP/1.1\r\n\r\n",
        "nothing": b"x",
        "other magic": b"XXXX" + good[4:],
        "other version": good[:4] + b"\x63" + good[5:],
        "cut short": good[:-1],
        "too long": good + b"{}",
        "not json": good[:-3] + b"}}}",
        "unknown kind": good[:5] + b"\xc8" + good[6:],
        "endless text": good[:-12] + b"\xff\xff\xff\x7f" + good[-8:],
    }


@pytest.mark.parametrize("name", list(frames()))
def test_garbage_on_the_socket_ends_that_connection_only(name, tmp_path):
    with harness.two(tmp_path) as (serving, (one, _), (grant, _)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            other.connect("\0" + serving.server.address["shared"])
            other.send(frames()[name])
            other.settimeout(5)
            assert other.recv(1) == b""  # hung up on, without a word
        one.push(grant)
        one.expect(Kind.GRANT)


@pytest.mark.parametrize(
    "changes", [{"clock": 3}, {"grant_id": 2**40}, {"version": 9}], ids=str
)
def test_a_push_for_another_grant_is_not_applied(changes, tmp_path):
    with harness.two(tmp_path) as (serving, (one, _), (grant, _)):
        one.push(grant, **changes)
        assert one.expect(Kind.GRANT).grant_id == 1
        assert rows(serving) == []


def test_a_push_of_another_size_ends_the_connection(tmp_path):
    with harness.two(tmp_path) as (serving, (one, _), (grant, _)):
        one.channel.send(Message(Kind.PUSH, 0, clock=1, grant_id=1, buffer=1, nbytes=4))
        with pytest.raises(transport.ClosedError):
            one.channel.receive(5)
        assert rows(serving) == []


def test_without_the_key_nothing_is_answered(tmp_path):
    good, bad = keys.make(tmp_path / "good"), keys.make(tmp_path / "bad")
    with harness.Serving(tmp_path, keys=good, **NETWORK) as serving:
        with pytest.raises(transport.ClosedError, match="has another key"):
            serving.worker(0, key=bad)
        trusting = good.context(server=False)
        anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anonymous.check_hostname = False
        anonymous.load_verify_locations(cadata=good.pem)
        with bad.file() as path:  # has the server's certificate, but not its key
            trusting.load_cert_chain(path)
        for context in (None, trusting, anonymous):
            assert answer(serving, context, Message(Kind.HELLO, 0)) == b""
        worker = serving.worker(0, key=good)
        worker.expect(Kind.WELCOME)
        worker.channel.close()


def answer(serving, context, message) -> bytes:
    """What the server's port says to a message; with TLS, or without."""
    address = addresses.parts(serving.server.address["network"])
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        with socket.create_connection(address, timeout=5) as plain:
            wrapped = plain if context is None else context.wrap_socket(plain)
            with wrapped:
                wrapped.sendall(messages.encode(message))
                return wrapped.recv(4096)
    return b""


def test_garbage_and_oversized_messages_on_the_port_change_nothing(tmp_path):
    good = keys.make(tmp_path / "good")
    with harness.two(tmp_path, key=good, **NETWORK) as (serving, (one, _), (grant, _)):
        host, port = serving.server.address["network"][6:].split(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(100_000), b"\xff" * 64):
            with socket.create_connection((host, int(port))) as other:
                other.sendall(data)
                other.settimeout(0.5)
                try:
                    told = other.recv(4096)
                except (TimeoutError, ConnectionError):
                    told = b""
                assert b"abs" not in told.lower() and b"ADSP" not in told
        large = np.zeros(10**6, np.float32)
        with pytest.raises(transport.ClosedError):  # hung up on; the worker comes back
            one.channel.send(Message(Kind.PUSH, 0, clock=1, grant_id=1), large)
            one.channel.receive(5)
        again = serving.worker(0, "n0", key=good)
        again.ready()
        again.push(again.expect(Kind.GRANT))
        again.expect(Kind.GRANT)
        again.channel.close()
        assert rows(serving) == [(0, 0)]


def test_a_full_disk_ends_the_run_in_one_sentence(tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with harness.two(tmp_path) as (serving, (one, other), (grant, _)):
        one.push(grant)
        grant = one.expect(Kind.GRANT)
        whole = serving.log.path.stat().st_size
        try:  # a file may grow by 7 bytes more: part of a record
            resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 7, old[1]))
            one.push(grant)
            reason = one.expect(Kind.STOP).text["reason"]
            other.expect(Kind.STOP)
            serving.join()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert "File too large; make room" in reason
        assert isinstance(serving.error, log.LogError)
        assert serving.log.path.stat().st_size == whole
        assert rows(serving) == [(0, 0)]


def test_nothing_is_left_behind(tmp_path):
    def run(number):
        (tmp_path / str(number)).mkdir()
        with harness.two(tmp_path / str(number)) as (_, (one, _), (grant, _)):
            one.push(grant)
            one.expect(Kind.GRANT)

    def held():
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    run(0)  # libraries open what they keep
    before = held()
    for number in range(1, 4):
        run(number)
    assert held() == before
