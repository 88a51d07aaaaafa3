"""The core without I/O: what recovery makes of a log is what the live server had."""

import itertools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from abs_dssp import policies
from abs_dssp.cluster import effects, membership, messages
from abs_dssp.cluster.core import COMPUTING, Core, RunLimits
from abs_dssp.cluster.messages import Kind, Message
from abs_dssp.cluster.settings import Settings
from abs_dssp.history import builder, rederivation
from abs_dssp.history.events import Event

N = 3
RULES = [
    "asp()",
    "k_sync(k=2)",
    "abs(k0=1,a=3,tau_max=1)",
    'adasync(k0=1,interval=2.0,base="k_batch_sync")',
    "quorum(k=2)",
    "bsp()",
    "ssp(s=1)",
    "ringleader()",
    "deadline(k=1.0)",
]


def new_core(text: str, policy=None, **limits) -> Core:
    policy = policy or policies.parse(text, N)
    return Core(policy, N, RunLimits(**limits), epochs_per_push=0.125, first_loss=2.5)


# What may happen next: a kind, a worker, seconds since the last event, a loss.
happenings = st.lists(
    st.tuples(
        st.sampled_from(["push"] * 6 + ["leave", "join", "refuse"]),
        st.integers(0, N - 1),
        st.sampled_from([0.0, 0.5, 1.0, 2.7]),
        st.sampled_from([2.5, 1.0, 0.25, -1.0]),
        st.booleans(),  # whether a push is dealt with together with the next
    ),
    max_size=40,
)


def legal(core: Core, kind: str, index: int) -> bool:
    """Whether a live server could see this now."""
    worker = core.workers[index]
    if kind == "join":
        return not worker.active
    if kind == "leave":
        return worker.active
    return worker.state == COMPUTING


def everything(core: Core):
    leaves, note = core.snapshot()
    return [leaf.tolist() for leaf in leaves], note, core.ended


def same(one: Core, other: Core) -> None:
    # NaN, such as a loss that nobody knows, is equal to itself here.
    np.testing.assert_equal(everything(one), everything(other))


@pytest.mark.often(5)
@pytest.mark.parametrize("text", RULES)
@hypothesis.given(happenings, st.integers(0, 60), st.booleans())
@hypothesis.settings(max_examples=25)
def test_what_is_recovered_is_what_was_there(text, steps, cut, advances):
    """From the log alone, and from a checkpoint at any moment and the rest."""
    live = new_core(text)
    live.decide_together(advances)
    held = carried_out({}, live.start())
    entries, checkpoint = [], None
    now, queue = 0.0, []

    def take(number: int) -> None:
        events = queue[:number]
        del queue[:number]
        if number == 1:
            wanted = live.apply(events[0])
        else:
            wanted, taken = live.apply_pushes(events, [None] * number)
            events = events[:taken]
        assert isinstance(wanted[0], effects.Append)  # before anybody is told
        assert [entry.event for entry in wanted[0].entries] == events
        entries.extend(wanted[0].entries)
        carried_out(held, wanted)

    def deadlines(before: float) -> None:
        while live.wake < before:
            queue.insert(0, Event("timer", -1, live.wake))
            take(1)

    for kind, index, seconds, loss, together in steps:
        now += seconds
        event = Event(kind, index, now)
        if kind == "push":
            event = event._replace(duration=seconds, loss=loss)
        elif kind == "leave":
            event = event._replace(reason="died")
        if kind == "push" and index not in [e.worker for e in queue]:
            if legal(live, kind, index):
                queue.append(event)
                if together:
                    continue
        while queue:
            deadlines(queue[0].time)
            queue = [e for e in queue if legal(live, e.kind, e.worker)]
            if queue:
                take(live.pushes_together(queue))
        if checkpoint is None and len(entries) >= cut:
            cut = len(entries)
            checkpoint = (*live.snapshot(), dict(held))
        if kind != "push":
            deadlines(now)
            if legal(live, kind, index):
                queue.append(event)
                take(1)
    again = new_core(text)
    kept = carried_out({}, again.start())
    for entry in entries:
        wanted = again.apply(entry.event)
        assert wanted[0] == effects.Append((entry,))
        carried_out(kept, wanted)
    same(live, again)
    assert kept == held and again.wake == live.wake
    if checkpoint is not None:
        leaves, note, kept = checkpoint
        later = new_core(text)
        later.restore(leaves, note)
        for entry in entries[cut:]:
            carried_out(kept, later.apply(entry.event))
        same(live, later)
        assert kept == held and later.wake == live.wake
    # The log followed without a policy, and the trace's policy asked again, agree.
    made, state = builder.follow(entries, N)
    policy = policies.parse(text, N)
    trace = made.trace(builder.ending(state), policy=text).validate()
    losses = np.array([e.event.loss for e in entries if e.event.kind == "push"])
    found = rederivation.rederive(policy, trace, losses, 2.5)
    assert rederivation.first_difference(trace, found) == ""
    assert found.open_restarts == trace.open_restarts
    ours = jax.tree.leaves(live._machine.clocks)
    clocks = jax.tree.leaves(state.clocks._replace(loss=np.float32(0)))
    for mine, theirs in zip(clocks[:-1], ours[:-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def carried_out(held: dict[int, int], wanted) -> dict[int, int]:
    """Which version each worker holds, after these effects."""
    for effect in wanted:
        if isinstance(effect, effects.Hold):
            held[effect.worker] = effect.version
        elif isinstance(effect, effects.Drop):
            held.pop(effect.worker, None)
    return held


class Peer:
    """A connection that remembers what it was sent."""

    transport, name = "test", "a test"
    ends_with_its_process = True

    def __init__(self):
        self.sent: list[Message] = []


def new_membership(
    text="asp()", expected=N, policy=None, **settings
) -> membership.Membership:
    times = Settings(**({"lease": 10.0, "start": 5.0} | settings))
    return membership.Membership(
        new_core(text, policy),
        times,
        {},
        "one",
        expected,
        lambda vector, loss: True,
        0.0,
    )


def deliver(wanted) -> list:
    """Sends what is to be sent; the kinds of all effects, in order."""
    for effect in wanted:
        if isinstance(effect, effects.Send):
            effect.peer.sent.append(effect.message)
    return [type(effect).__name__ for effect in wanted]


def enter(server, index: int, peer: Peer, now: float = 0.0) -> list:
    text = {"nonce": f"n{index}", "process": "here", "run": {}}
    kinds = deliver(server.message(peer, Message(Kind.HELLO, index, text=text), now))
    kinds += deliver(server.message(peer, Message(Kind.READY, index), now))
    return kinds


def test_everybody_is_granted_before_anything_else_can_look():
    """A run that has started has members: no tick can find it deserted."""
    server = new_membership()
    peers = [Peer() for _ in range(N)]
    for index, peer in enumerate(peers):
        assert not server.core.started
        enter(server, index, peer)
    assert server.core.started
    assert all(worker.active for worker in server.core.workers)
    assert [peer.sent[-1].kind for peer in peers] == [Kind.GRANT] * N
    server.tick(0.1)
    assert not server.core.ended


def test_who_is_absent_at_the_start_does_not_end_the_run():
    server = new_membership("bsp()", start=5.0)
    peer = Peer()
    enter(server, 1, peer)
    assert server.tick(4.0) == [] and not server.core.started
    deliver(server.tick(6.0))
    states = [worker.state for worker in server.core.workers]
    assert states == ["absent", "computing", "absent"]
    server.tick(6.5)
    assert not server.core.ended
    deliver(server.closed(peer, 7.0))  # now nobody is left, and somebody may come back
    server.tick(8.0)
    assert not server.core.ended
    server.tick(7.0 + 60.0)
    server.tick(7.0 + 130.0)
    assert "no worker for" in server.core.ended and server.failed


def test_a_pause_of_the_server_is_not_held_against_the_workers():
    server = new_membership(lease=10.0)
    for index in range(N):
        enter(server, index, Peer())
    server.tick(0.5)
    deliver(server.tick(100.0))  # a slow disk, a suspended machine
    assert all(worker.active for worker in server.core.workers)
    for now in np.arange(100.5, 120.0, 0.5):  # now they really are silent
        deliver(server.tick(float(now)))
    assert not any(worker.active for worker in server.core.workers)


HOSTILE = [
    ["x", [[float("inf"), 0, 0, True]]],
    ["x", [[0, 0, float("inf"), True]]],
    ["x", [[0, 0, float("nan"), True]]],
    ["x", [[1e999, 0, 0, True]]],
    ["x", [[None, 0, 0, True]]],
    ["x", [[True, 0, 0]]],
    ["x", "abcd"],
    ["x", {"0": 1}],
    {"x": 1},
    [],
    None,
    7,
    [None, [[2**70, 0, 2**70, True]]],
]


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_no_text_of_a_heartbeat_raises(text):
    server = new_membership()
    deliver(server.message(Peer(), Message(Kind.HEARTBEAT, text=text), 0.0))
    assert messages.heartbeats(text, N) in (None, ("x", []), ("None", []))


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60)
def test_whatever_arrives_there_is_one_grant_per_worker_and_nothing_raises(data):
    """Random messages, lost, doubled and out of order, from workers and strangers."""
    server = new_membership("k_sync(k=2)", lease=3.0, empty=1e9)
    peers = [Peer() for _ in range(N + 1)]
    now, logged = 0.0, 0
    for index in range(N):
        enter(server, index, peers[index])
    for _ in range(data.draw(st.integers(0, 40))):
        now += data.draw(st.sampled_from([0.0, 0.3, 1.1]))
        index = data.draw(st.integers(-1, N))
        peer = peers[data.draw(st.integers(0, N))]
        worker = server.core.workers[index % N]
        kind = data.draw(st.sampled_from([Kind.PUSH] * 4 + list(Kind)))
        message = Message(
            kind,
            max(index, 0),
            clock=worker.pushes + data.draw(st.sampled_from([1, 1, 1, 0, 7])),
            grant_id=worker.grant - data.draw(st.sampled_from([0, 0, 0, 1])),
            version=worker.pulled,
            mark=worker.mark,
            text={"nonce": f"n{index}", "process": "", "run": {}},
        )
        action = data.draw(st.sampled_from(["message"] * 6 + ["closed", "tick"]))
        if action == "message":
            wanted = server.message(peer, message, now)
        elif action == "closed":
            wanted = server.closed(peer, now)
        else:
            wanted = server.tick(now)
        appended = [e for e in wanted if isinstance(e, effects.Append)]
        logged += len(appended)
        for effect in wanted[: _first_append(wanted)]:
            # What goes out before the first entry tells of no decision.
            told = isinstance(effect, effects.Send)
            assert not told or effect.message.kind not in (Kind.GRANT, Kind.WAIT)
        deliver(wanted)
        assert logged == server.core.entries
    for index, peer in itertools.product(range(N), peers):
        grants = [m.grant_id for m in peer.sent if m.kind is Kind.GRANT]
        assert all(grant_id >= 1 for grant_id in grants)
        assert server.core.workers[index].grant >= 1


def _first_append(wanted) -> int:
    """Index of the first entry; 0 if there is none."""
    kinds = [type(effect) for effect in wanted]
    return kinds.index(effects.Append) if effects.Append in kinds else 0


def _beat(index: int, steps: int, waits: bool) -> Message:
    return Message(Kind.HEARTBEAT, text=[f"n{index}", [[index, 0, steps, waits]]])


def test_who_was_left_out_is_not_sent_the_grant_that_it_has_not_read():
    """Its buffer may hold another version by then; it must not compute from it."""
    server = new_membership(lease=3.0, empty=1e9)
    peers = [Peer() for _ in range(N)]
    for index, peer in enumerate(peers):
        enter(server, index, peer)
    for now in np.arange(0.5, 5.0, 0.5):
        for index in range(1, N):
            deliver(server.message(Peer(), _beat(index, int(10 * now), False), now))
        deliver(server.tick(float(now)))
    assert server.core.workers[0].state == "left"
    assert peers[0].sent[-1].kind is Kind.WAIT  # replaces whatever was not sent


def test_an_idle_worker_that_was_silent_for_too_long_joins_again():
    server = new_membership("bsp()", lease=3.0, empty=1e9)
    peer = Peer()
    for index in range(N):
        enter(server, index, peer if index == 0 else Peer())
    for now in np.arange(0.5, 5.0, 0.5):
        deliver(server.tick(float(now)))
    assert server.core.workers[0].state == "left"
    kinds = deliver(server.message(Peer(), _beat(0, -1, True), 5.0))
    assert "Append" in kinds and server.core.workers[0].state == "computing"
    assert peer.sent[-1].kind is Kind.GRANT


def test_a_push_of_a_history_that_was_lost_is_not_taken_for_one_of_this():
    """After a loss of power grants and versions have the same numbers again."""
    servers = [new_membership(), new_membership()]
    peers = [Peer(), Peer()]
    for server, peer in zip(servers, peers, strict=True):
        for index in range(N):
            enter(server, index, peer if index == 0 else Peer())
    for server, peer, time in zip(servers, peers, (1.0, 2.0), strict=True):
        push = messages.push_for(peer.sent[-1], seconds=0.5)
        assert "Append" in deliver(server.message(peer, push, time))
    one, other = (
        next(m for m in reversed(peer.sent) if m.kind is Kind.GRANT) for peer in peers
    )
    assert (one.grant_id, one.clock, one.version) == (2, 2, 1)
    assert (other.grant_id, other.clock, other.version) == (2, 2, 1)
    lost = messages.push_for(one, seconds=0.5)
    assert "Append" not in deliver(servers[1].message(peers[1], lost, 3.0))
    mine = messages.push_for(other, seconds=0.5)
    assert "Append" in deliver(servers[1].message(peers[1], mine, 4.0))


def entries_of(wanted) -> list:
    """Kinds, workers and times of what is logged."""
    appended = [e for e in wanted if isinstance(e, effects.Append)]
    return [
        (entry.event.kind, entry.event.worker, entry.event.time)
        for effect in appended
        for entry in effect.entries
    ]


def pushes_of(server, peers):
    """`(index, now) -> what is logged` where that worker pushes its grant."""

    def push(index: int, now: float) -> list:
        grant = next(m for m in reversed(peers[index].sent) if m.kind is Kind.GRANT)
        message = messages.push_for(grant, seconds=0.5)
        wanted = server.message(peers[index], message, now)
        deliver(wanted)
        return entries_of(wanted)

    return push


def begun(text: str, **settings):
    """A run of everybody from time 0, whose first deadline has come."""
    server = new_membership(text, **settings)
    peers = [Peer() for _ in range(N)]
    for index, peer in enumerate(peers):
        enter(server, index, peer)
    assert server.until_wake(0.0) == 0
    assert entries_of(server.wake(0.0)) == [("timer", -1, 0.0)]
    return server, peers, pushes_of(server, peers)


def test_a_deadline_has_its_own_time_however_late_it_is_noticed():
    server, peers, push = begun("quorum(k=1,grace=0.5)")
    assert server.until_wake(1.0) == math.inf
    assert push(0, 4.0) == [("push", 0, 4.0)]
    assert server.until_wake(4.5) == 1.5 and server.wake(5.0) == []
    late = server.wake(6.25)
    assert entries_of(late) == [("timer", -1, 6.0)]
    deliver(late)
    assert peers[0].sent[-1].kind is Kind.GRANT and peers[0].sent[-1].version == 1
    assert server.until_wake(7.0) == math.inf


def test_what_comes_at_a_deadline_is_before_it_and_what_comes_later_after_it():
    server, _, push = begun("quorum(k=1,grace=0.5)")
    push(0, 4.0)
    assert push(1, 6.0) == [("push", 1, 6.0)]
    assert push(2, 6.5) == [("timer", -1, 6.0), ("push", 2, 6.5)]
    # The round began at 6.0, its quorum was at 6.5: the grace ends at 6.75.
    wanted = server.closed(server.sessions[1].peer, 7.0)
    assert entries_of(wanted) == [("timer", -1, 6.75), ("leave", 1, 7.0)]


def test_the_limit_of_a_run_is_no_deadlines_business():
    server, _, push = begun("quorum(k=1,grace=0.5)")
    server.core.limits = RunLimits(seconds=5.0)
    push(0, 4.0)
    assert server.until_wake(5.5) == math.inf and server.wake(6.5) == []
    server.tick(6.5)
    assert server.core.ended == "end"


def waits_for_ever_but_for(seconds: float) -> policies.Policy:
    """Releases nobody at a push, everybody at a deadline so much later."""

    def on_push(state, clocks, worker, now):
        nobody = jnp.zeros(N, bool)
        return state, policies.Decision(1, False, nobody, nobody, now + seconds)

    def on_time(state, clocks, now):
        nobody = jnp.zeros(N, bool)
        return state, policies.Decision(0, True, clocks.waiting, nobody)

    properties = policies.Properties(reads_loss=False)
    return policies.Policy(tuple, on_push, on_push, properties, on_time)


def test_a_run_in_which_all_wait_for_a_deadline_goes_on():
    rule, patience = waits_for_ever_but_for(500.0), {"lease": 1e9, "progress": 1e9}
    server, _, push = begun("bsp()", policy=rule, **patience)
    for index in range(N):
        push(index, 1.0)
    assert all(worker.state == "waiting" for worker in server.core.workers)
    for now in (2.0, 100.0, 400.0):
        assert not entries_of(server.tick(now)) and not server.core.ended
    deliver(server.tick(501.5))
    assert all(worker.state == "computing" for worker in server.core.workers)
