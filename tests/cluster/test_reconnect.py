"""How long a worker looks for a server that is gone: from when it was lost."""

import random
import types

import pytest

from abs_dssp.cluster import settings, worker, worker_errors

RECONNECT = 10.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def made(clock, connect, works):
    """A worker that only connects, is welcomed, and works as `works` says."""
    it = object.__new__(worker.Worker)
    it.index, it.introduced, it.reason = 0, False, ""
    it.settings = settings.Settings(reconnect=RECONNECT)
    it._random, it._now = random.Random(0), clock.perf_counter
    it._system = types.SimpleNamespace(time=clock)
    it._connect, it._heartbeats = connect, types.SimpleNamespace(generation=0)
    it._introduce = lambda channel: setattr(it, "introduced", True)
    it._work = lambda channel: next(works)()
    return it


def test_a_server_that_was_there_for_long_may_be_gone_as_long_as_any():
    clock = Clock()

    def for_long_then_lost():
        clock.now += 30 * RECONNECT
        raise OSError("the server has closed the connection")

    works = iter([for_long_then_lost, for_long_then_lost, lambda: None])
    channel = types.SimpleNamespace(close=lambda: None)
    made(clock, lambda: channel, works).run()
    assert 60 * RECONNECT < clock.now < 61 * RECONNECT


def test_a_server_that_does_not_come_back_is_given_up():
    clock = Clock()

    def nobody():
        raise OSError("connection refused")

    with pytest.raises(worker_errors.LostError, match="no server for 1[0-2] s"):
        made(clock, nobody, iter([])).run()
