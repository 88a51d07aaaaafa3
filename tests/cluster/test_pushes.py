"""Pushes that come together: as many as may, once each, and only finite ones."""

import pytest
from test_core import N, Peer, deliver, enter, new_core

from abs_dssp.cluster import membership, messages
from abs_dssp.cluster.settings import Settings


def _together(finite=lambda vector, loss: True, text="asp()", **limits):
    """A server whose three workers have been granted, and their pushes in one go."""
    core = new_core(text, **limits)
    core.decide_together(advances=True)
    server = membership.Membership(core, Settings(), {}, "one", N, finite, 0.0)
    peers = [Peer() for _ in range(N)]
    for index, peer in enumerate(peers):
        enter(server, index, peer)
    arrivals = [(p, messages.push_for(p.sent[-1], seconds=0.5)) for p in peers]
    return server, arrivals


def test_of_pushes_that_come_together_none_is_beyond_the_last_of_a_run():
    server, arrivals = _together(pushes=2)
    wanted, taken = server.pushes(arrivals, [1.0, 1.1, 1.2])
    assert taken == server.core.pushes == 2 and server.core.ended == "end"
    assert len(wanted[0].entries) == 2
    assert server.pushes(arrivals[2:], [1.2]) == ([], 0)
    assert server.message(*arrivals[2], 1.2) == []


def test_of_pushes_that_come_together_one_beyond_the_time_is_the_last():
    server, arrivals = _together(seconds=1.05)
    _, taken = server.pushes(arrivals, [1.0, 1.1, 1.2])
    assert taken == server.core.pushes == 2 and server.core.ended == "end"


@pytest.mark.parametrize("text", ["asp()", "bsp()"])  # released at once, or waiting
def test_a_push_that_comes_twice_together_counts_once(text):
    server, arrivals = _together(text=text)
    twice = [arrivals[0], arrivals[1], arrivals[1], arrivals[2]]
    _, taken = server.pushes(twice, [1.0, 1.1, 1.2, 1.3])
    assert taken == 2
    assert [worker.pushes for worker in server.core.workers] == [1, 1, 0]


def test_pushes_that_come_together_are_looked_at_for_what_is_not_finite():
    server, arrivals = _together(lambda vector, loss: vector is not arrivals)
    arrivals[1][1].payload = arrivals
    assert server.pushes(arrivals, [1.0, 1.1, 1.2]) == ([], 0)
    deliver(server.message(*arrivals[0], 1.0))
    assert "Append" in deliver(server.message(*arrivals[1], 1.1))
    assert [w.pushes for w in server.core.workers] == [1, 0, 0]
    assert server.core.workers[1].refused == 1
