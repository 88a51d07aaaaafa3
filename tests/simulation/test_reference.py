"""The oracle itself, against schedules worked out by hand."""

import math

import pytest
import reference

NAN = math.nan


def fixed(*seconds):
    return [[float(s)] for s in seconds]


def schedule(rule, durations, num_pushes, **settings):
    rows = reference.run(rule, durations, num_pushes, **settings)
    reference.check(rows)
    return rows


def columns(rows, *names):
    return [tuple(getattr(row, name) for name in names) for row in rows]


def commits(rows):
    return [i for i, row in enumerate(rows) if row.committed]


def staleness(rows):
    return [row.version - row.pulled for row in rows]


def waits(rows):
    """With None for NaN, which equals nothing."""
    return [None if math.isnan(row.wait) else row.wait for row in rows]


# Schedules worked out by hand. "0 at 2" is a push of worker 0 at time 2.


def test_bsp():
    # 1 s and 2.7 s: the slow worker ends each round; the fast one waits 1.7 s.
    rows = schedule(reference.Bsp(), fixed(1, 2.7), 6)
    assert columns(rows, "time", "worker")[:2] == [(1, 0), (2.7, 1)]
    assert [r.time for r in rows if r.committed] == [2.7, 2.7 + 2.7, 2.7 + 2.7 + 2.7]
    assert waits(rows) == pytest.approx([1.7, 0] * 3)
    assert columns(rows, "pulled", "version") == [(t, t) for t in (0, 0, 1, 1, 2, 2)]


def test_asp():
    # 0 at 1 (-> version 1), 0 at 2 (-> 2), 1 at 2.5 (-> 3; computed from 0),
    # 0 at 3 (-> 4; computed from 2, its pull at 2), 0 at 4 (from 4).
    rows = schedule(reference.Asp(), fixed(1, 2.5), 5)
    assert columns(rows, "time", "worker", "pulled", "version") == [
        (1, 0, 0, 0), (2, 0, 1, 1), (2.5, 1, 0, 2), (3, 0, 2, 3), (4, 0, 4, 4),
    ]  # fmt: skip
    assert waits(rows) == [0] * 5


def test_equal_times_go_to_the_lowest_worker():
    rows = schedule(reference.Asp(), fixed(2, 1, 2), 4)
    assert columns(rows, "time", "worker") == [(1, 1), (2, 0), (2, 1), (2, 2)]


def test_durations_are_cycled_in_order():
    rows = schedule(reference.Asp(), [[1, 2, 3]], 6)
    assert columns(rows, "time", "duration", "clock") == [
        (1, 1, 1), (3, 2, 2), (6, 3, 3), (7, 1, 4), (9, 2, 5), (12, 3, 6),
    ]  # fmt: skip


def test_ssp():
    # s = 1: 0 at 1 (gap 1), 0 at 2 (gap 2: waits), 1 at 4 frees it, 0 at 5 (gap 2:
    # waits), 1 at 8 frees it, 0 at 9 (gap 2: waits to the end).
    rows = schedule(reference.Ssp(1), fixed(1, 4), 6)
    assert columns(rows, "time", "worker") == [
        (1, 0), (2, 0), (4, 1), (5, 0), (8, 1), (9, 0),
    ]  # fmt: skip
    assert waits(rows) == [0, 2, 0, 3, 0, None]


def test_dssp_printed():
    # s_lower = 1, r_max = 2.
    # 0 at 1: gap 1, runs. 0 at 2: gap 2, asks; worker 1 has not pushed (interval 0), so
    # its predictions are 0; Sim_0 = 2, 3, 4: r* = 0, waits. 1 at 4: gap 1 frees 0.
    # 0 at 5: gap 2, asks: Sim_0 = 5, 8, 11 (interval 3), Sim_1 = 8, 12, 16: r* = 1.
    # 0 at 6: r 1 -> 0. 0 at 7: gap 4, asks again: 7, 8, 9 against 8, 12, 16: r* = 1.
    # 0 at 8: r 1 -> 0 and gap 5, above s_upper = 3. 1 at 8.
    rows = schedule(reference.Dssp(1, 3), fixed(1, 4), 8)
    assert columns(rows, "time", "worker") == [
        (1, 0), (2, 0), (4, 1), (5, 0), (6, 0), (7, 0), (8, 0), (8, 1),
    ]  # fmt: skip
    assert waits(rows) == [0, 2, 0, 0, 0, 0, 0, 0]


def test_dssp_bounded():
    # As above to time 5: gap 2, controller(r_max = 2) = 1: used up by this release.
    # 0 at 6: gap 3, controller(r_max = 1): Sim_0 = 6, 7 against 8, 12: r* = 1, runs.
    # 0 at 7: gap 4 > s_upper, waits. 1 at 8, 12, 16: gaps 3, 2, 1: free at 16.
    rows = schedule(reference.Dssp(1, 3, "bounded"), fixed(1, 4), 9)
    assert columns(rows, "time", "worker")[5:] == [(7, 0), (8, 1), (12, 1), (16, 1)]
    assert waits(rows) == [0, 2, 0, 0, 0, 9, 0, 0, 0]


@pytest.mark.parametrize(
    ("interval", "latest", "r_max", "expected"),
    [
        # p predicts 10, 10 + interval, ...; the slowest latest + 7, latest + 14, ...
        pytest.param(4.0, 5.0, 1, 0, id="10-and-14-are-both-2-from-12"),
        pytest.param(4.0, 6.0, 1, 1, id="14-is-1-from-13"),
        pytest.param(4.0, 6.0, 2, 1, id="18-is-2-from-20"),
        pytest.param(5.0, 6.0, 2, 2, id="20-is-20"),
        pytest.param(4.0, 3.0, 5, 0, id="10-is-10"),
        pytest.param(4.0, 6.0, 0, 0, id="nothing-to-choose"),
    ],
)
def test_the_controller(interval, latest, r_max, expected):
    world = reference.World(3)
    world.clock = [6, 1, 1]  # worker 1 is the slowest by its index
    world.latest = [10.0, latest, 0.0]
    world.previous = [10.0 - interval, latest - 7.0, 0.0]
    assert reference.Dssp(1, 9).controller(world, 0, r_max) == expected


@pytest.mark.parametrize(
    ("variant", "clock", "granted", "runs", "left"),
    [
        # s_lower 1, s_upper 4. Worker 1, the slowest, is predicted so far off that the
        # controller gives all it may: 3 printed, 5 - gap bounded.
        pytest.param("printed", [2, 1, 1], 2, True, 1, id="printed-within-s_lower"),
        pytest.param("printed", [3, 1, 1], 0, True, 3, id="printed-asks"),
        pytest.param("printed", [3, 1, 3], 0, True, 3, id="printed-one-of-the-first"),
        pytest.param("printed", [3, 1, 4], 0, False, 0, id="printed-not-the-first"),
        pytest.param("printed", [3, 1, 4], 1, True, 0, id="printed-uses-its-last"),
        pytest.param("printed", [9, 1, 1], 0, True, 3, id="printed-asks-at-any-gap"),
        pytest.param("bounded", [2, 1, 1], 2, True, 0, id="bounded-within-s_lower"),
        pytest.param("bounded", [3, 1, 1], 0, True, 2, id="bounded-asks"),
        pytest.param("bounded", [3, 1, 4], 0, False, 0, id="bounded-not-the-first"),
        pytest.param("bounded", [3, 1, 4], 2, True, 1, id="bounded-uses-one"),
        pytest.param("bounded", [5, 1, 1], 0, True, 0, id="bounded-asks-at-s_upper"),
        pytest.param("bounded", [6, 1, 1], 1, False, 1, id="bounded-above-s_upper"),
    ],
)
def test_one_push_under_dssp(variant, clock, granted, runs, left):
    world = reference.World(3)
    world.clock, world.computing = clock, {1, 2}
    world.latest, world.previous = [10.0, 5.0, 0.0], [9.0, -95.0, 0.0]
    rule = reference.Dssp(1, 4, variant)
    rule.r[0] = granted
    decision = rule.push(world, 0, 10.0)
    assert (set(decision.release), rule.r[0]) == ({0} if runs else set(), left)


def test_k_sync():
    # k = 2: commits at 2 (0 and 1) and 4; worker 2 starts again at each, the third time
    # for 1 s: 0 and 2 at 5 commit, and worker 1 starts again.
    rows = schedule(reference.k_sync(2), [[1.0], [2.0], [5.0, 5.0, 1.0]], 7)
    assert columns(rows, "time", "worker", "version", "restarts") == [
        (1, 0, 0, 0), (2, 1, 0, 0), (3, 0, 1, 0), (4, 1, 1, 0),
        (5, 0, 2, 0), (5, 2, 2, 2), (6, 0, 3, 0),
    ]  # fmt: skip
    assert rows[5].pulled == 2 and rows[5].duration == 1
    assert waits(rows) == [1, 0, 1, 0, 0, 0, None]
    assert commits(rows) == [1, 3, 5]


def test_k_batch_sync():
    # k = 3: 0 at 1, 0 at 2, 1 at 2.5: commit; 0 drops what it began at 2. And again.
    rows = schedule(reference.k_batch_sync(3), fixed(1, 2.5), 7)
    assert columns(rows, "time", "worker", "version", "restarts") == [
        (1, 0, 0, 0), (2, 0, 0, 0), (2.5, 1, 0, 0), (3.5, 0, 1, 1), (4.5, 0, 1, 0),
        (5, 1, 1, 0), (6, 0, 2, 1),
    ]  # fmt: skip
    assert commits(rows) == [2, 5]
    assert staleness(rows) == [0] * 7
    assert waits(rows) == [0] * 7


def test_k_async():
    # k = 2: commits at 2 and 4; at 5 worker 0 and then 2, which pulled version 0:
    # commit; at 6 worker 0, and 1, which pulled version 2 at 4: commit.
    rows = schedule(reference.k_async(2), fixed(1, 2, 5), 8)
    assert columns(rows, "time", "worker") == [
        (1, 0), (2, 1), (3, 0), (4, 1), (5, 0), (5, 2), (6, 0), (6, 1),
    ]  # fmt: skip
    assert commits(rows) == [1, 3, 5, 7]
    assert staleness(rows) == [0, 0, 0, 0, 0, 2, 0, 1]
    assert waits(rows) == [1, 0, 1, 0, 0, 0, 0, 0]


def test_k_batch_async():
    # k = 2: 0 at 1, 0 at 2: commit; 1 at 2.5 (from 0), 0 at 3: commit; 0 at 4, 0 at 5:
    # commit; 1 at 5 (from 1, which it found at 2.5).
    rows = schedule(reference.k_batch_async(2), fixed(1, 2.5), 7)
    assert columns(rows, "time", "worker", "pulled", "version") == [
        (1, 0, 0, 0), (2, 0, 0, 0), (2.5, 1, 0, 1), (3, 0, 1, 1), (4, 0, 2, 2),
        (5, 0, 2, 2), (5, 1, 1, 3),
    ]  # fmt: skip
    assert commits(rows) == [1, 3, 5]


@pytest.mark.parametrize("rule", [reference.k_sync, reference.k_async])
def test_k_is_at_most_those_who_can_push(rule):
    # k = 5 of 2 workers: a commit when nobody computes.
    assert commits(schedule(rule(5), fixed(1, 2), 6)) == [1, 3, 5]


def test_a_stale_push_is_discarded_by_k_sync():
    world = reference.World(2)
    world.version, world.computing = 1, {1}
    for rule in (reference.k_sync(1), reference.k_batch_sync(1), reference.Rennala(1)):
        assert rule.push(world, 0, 1.0) == reference.Decision(0.0, False, {0})


def test_adasync():
    # Four workers of 1 s, interval 2. Rows 0..3 at 1: k = 1. At 2: F falls from 4 to 1,
    # k = 2. At 3: F = 0.01 is not looked at. At 4: k = min(4, 20); at 5 the same.
    # At 6: F = 100, k = 1 again: max(k0, ceil(sqrt(0.04))).
    losses = [4.0] * 4 + [1.0] * 4 + [0.01] * 12 + [100.0] * 4
    rows = schedule(
        reference.AdaSync(1, "k_async", 2.0),
        fixed(1, 1, 1, 1), 24, losses=losses.__getitem__,
    )  # fmt: skip
    assert commits(rows) == [0, 1, 2, 3, 5, 7, 9, 11, 15, 19, 20, 21, 22, 23]


@pytest.mark.parametrize(("loss", "length"), [(0.01, 4), (4.0, 2), (100.0, 2)])
def test_adasync_stays_between_k0_and_the_number_of_workers(loss, length):
    # F(w_0) = 4, so k = 40, 2 and 1 by the formula.
    rule = reference.AdaSync(2, "k_batch_async", 0.5)
    rows = schedule(rule, fixed(1, 1, 1, 1), 20, losses=lambda i: 4 if i == 0 else loss)
    assert commits(rows)[-1] - commits(rows)[-2] == length


@pytest.mark.parametrize("base", sorted(reference.BASES))
def test_adasync_without_an_estimate_keeps_k0(base):
    table = fixed(1, 2, 5, 3)
    adaptive = schedule(reference.AdaSync(2, base, 1.0), table, 40)
    assert repr(adaptive) == repr(schedule(reference.BASES[base](2), table, 40))


def test_weights():
    # The schedule of k_async above: staleness 0, 0, 0, 0, 0, 2, 0, 1.
    table = fixed(1, 2, 5)
    rules = {
        reference.constant: [1] * 8,
        reference.inverse: [1, 1, 1, 1, 1, 1 / 2, 1, 1],
        reference.polynomial(1): [1, 1, 1, 1, 1, 1 / 3, 1, 1 / 2],
        reference.polynomial(0.5): [1, 1, 1, 1, 1, 3**-0.5, 1, 2**-0.5],
    }
    for weight, expected in rules.items():
        rule = reference.Weighted(reference.k_async(2), weight)
        assert [r.weight for r in schedule(rule, table, 8)] == expected
    rows = schedule(reference.sa_adasync(2), table, 8)
    assert [r.weight for r in rows] == rules[reference.inverse]


def test_abs_restarts_what_would_be_too_stale():
    # k = 1, tau_max = 1: at 2 (version 2) and 4 (version 4) worker 1 would be 2 behind.
    # Its third computation takes 1.25 s: at 5.25, from 4, at version 5.
    rule = reference.Abs(1, tau_max=1)
    rows = schedule(rule, [[1.0], [3.5, 3.5, 1.25]], 6)
    assert columns(rows, "time", "worker", "pulled", "version", "restarts") == [
        (1, 0, 0, 0, 0), (2, 0, 1, 1, 0), (3, 0, 2, 2, 0), (4, 0, 3, 3, 0),
        (5, 0, 4, 4, 0), (5.25, 1, 4, 5, 2),
    ]  # fmt: skip


def test_abs_grows_with_the_rounds():
    # Three workers of 1 s, a = 2: K = 1, 1, 2, 2, 3 and tau = 3, 3, 2, 2, 1 in rounds
    # 0, 1, 2, 3, 4.
    # At 1: 0 commits, 1 commits, 2 waits (stale by 2, not above tau^2 = 2).
    # At 2: 0 commits with 2; 1 waits. At 3: 0 commits with 1; 2 waits (K = 3).
    # At 4: 0, and 1 commits all three. At 5: 2 ends the round.
    rows = schedule(reference.Abs(1, a=2), fixed(1, 1, 1), 12)
    assert columns(rows, "time", "worker") == [
        (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 2), (4, 0), (4, 1),
        (5, 0), (5, 1), (5, 2),
    ]  # fmt: skip
    assert commits(rows) == [0, 1, 3, 5, 8, 11]
    assert staleness(rows) == [0, 1, 2, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    assert sum(r.restarts for r in rows) == 0


def test_abs_grows_as_the_loss_falls():
    # Four workers of 1 s; commits find F = 8 (K 1), 4 (K 2), 8 (K stays 2), 1 (K 4).
    # At 1: rows 0, 1 alone, 2 with 3. At 2: 4 with 5, then K = 4: 6, 7 wait for 8, 9.
    losses = [8.0, 4.0, NAN, 8.0, 8.0, 1.0] + [NAN] * 8
    rule = reference.Abs(1, a=1, growth="loss")
    rows = schedule(rule, fixed(1, 1, 1, 1), 14, losses=losses.__getitem__)
    assert commits(rows) == [0, 1, 3, 5, 9, 13]


def test_abs_discards_a_push_above_the_bound():
    world = reference.World(2)
    world.version, world.computing = 3, {1}
    decision = reference.Abs(1, tau_max=2).push(world, 0, 1.0)
    assert decision == reference.Decision(0.0, False, {0})
    assert reference.Abs(1, tau_max=3).push(world, 0, 1.0).weight == 1


def test_rennala():
    # Batches of 2: 0 at 1, 2: commit. 1 at 2.5 is stale: thrown away, goes on from 1.
    # 0 at 3, 4: commit. 0 at 5; 1 at 5 is stale again.
    rows = schedule(reference.Rennala(2), fixed(1, 2.5), 7)
    assert columns(rows, "time", "worker", "weight") == [
        (1, 0, 1), (2, 0, 1), (2.5, 1, 0), (3, 0, 1), (4, 0, 1), (5, 0, 1), (5, 1, 0),
    ]  # fmt: skip
    assert commits(rows) == [1, 4]


def test_ringmaster():
    # Threshold 2: 1 at 4 is stale by 4 and thrown away.
    rows = schedule(reference.Ringmaster(2), fixed(1, 4), 6)
    assert columns(rows, "time", "worker", "weight")[4:] == [(4, 1, 0), (5, 0, 1)]
    assert commits(rows) == [0, 1, 2, 3, 5]
    # A staleness of 4 is below 5 and not below 4.
    for threshold, weight in ((4, 0), (5, 1)):
        rows = schedule(reference.Ringmaster(threshold), fixed(1, 4), 5)
        assert rows[4].weight == weight
    # With stop it starts again at 2 and 4, the third time for 1.5 s.
    rule = reference.Ringmaster(2, stop=True)
    rows = schedule(rule, [[1.0], [4.0, 4.0, 1.5]], 6)
    assert columns(rows, "time", "worker", "restarts")[4:] == [(5, 0, 0), (5.5, 1, 2)]
    assert commits(rows) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("shared", "times"),
    [
        pytest.param(False, [1.5, 1.5, 3, 3], id="own-links"),
        # Both are done at 1, one after the other sent: 1.5, 2. Then done at 2.5 and 3.
        pytest.param(True, [1.5, 2, 3, 3.5], id="shared-link"),
    ],
)
def test_transfers(shared, times):
    rows = schedule(reference.Asp(), fixed(1, 1), 4, seconds=0.5, shared=shared)
    expected = [(time, i % 2, 1) for i, time in enumerate(times)]
    assert columns(rows, "time", "worker", "duration") == expected


# Departures.


def test_bsp_does_not_wait_for_the_dead():
    # Worker 1 leaves after row 0, in the first round: row 0 is committed after all.
    rows = schedule(reference.Bsp(), fixed(1, 5), 3, leaves=[(0, 1)])
    assert columns(rows, "time", "committed") == [(1, True), (2, True), (3, True)]
    assert waits(rows) == [0, 0, 0]


@pytest.mark.parametrize(
    "rule",
    [reference.Ssp(0), reference.Dssp(0, 0), reference.Dssp(0, 0, "bounded")],
    ids=["ssp", "dssp-printed", "dssp-bounded"],
)
def test_the_gap_is_to_the_living(rule):
    # 0 at 1 and 1 at 2 wait for worker 2 (gap 1), which leaves: both go on at 2.
    rows = schedule(rule, fixed(1, 2, 9), 4, leaves=[(1, 2)])
    assert columns(rows, "time", "worker") == [(1, 0), (2, 1), (3, 0), (4, 1)]
    assert waits(rows) == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "rule",
    [reference.k_sync(2), reference.k_async(2), reference.Abs(2), reference.AdaSync(2)],
    ids=["k_sync", "k_async", "abs", "adasync"],
)
def test_those_who_wait_are_committed_when_nobody_computes(rule):
    # 0 at 1 waits for a second; 1 leaves, then 2: a round of one. So is the next.
    rows = schedule(rule, fixed(1, 5, 9), 3, leaves=[(0, 1), (0, 2)])
    assert columns(rows, "time", "committed") == [(1, True), (2, True), (3, True)]
    assert [r.version for r in rows] == [0, 1, 2]


def test_the_push_of_a_worker_that_left_counts():
    # k = 3: 0 at 1, leaves; 1 at 2; 2 at 3: commit. 1 at 5, 2 at 6: nobody computes.
    rows = schedule(reference.k_async(3), fixed(1, 2, 3), 5, leaves=[(0, 0)])
    assert columns(rows, "time", "worker", "committed") == [
        (1, 0, False), (2, 1, False), (3, 2, True), (5, 1, False), (6, 2, True),
    ]  # fmt: skip
    assert waits(rows) == [None, 1, 0, 1, 0]


def test_a_run_ends_when_everybody_has_left():
    rows = schedule(reference.Asp(), fixed(1, 2), 9, leaves=[(1, 0), (2, 1)])
    assert columns(rows, "time", "worker") == [(1, 0), (2, 0), (2, 1)]


def test_a_rule_that_releases_nobody_is_a_deadlock():
    class Miser(reference.Asp):
        def push(self, world, p, now):
            return reference.Decision(commit=True)

    with pytest.raises(reference.Deadlock) as error:
        reference.run(Miser(), fixed(1, 2), 5)
    assert error.value.args == (3,)


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (3, {"time": 0.5}, "row 3: time 0.5 is before 2.5"),
        (2, {"clock": 2}, "row 2: clock must be 1, got 2"),
        (1, {"pulled": 2}, "row 1: pulled 2 exceeds 1"),
        (1, {"committed": False}, "row 2: version must be 1, got 2"),
        (0, {"version": 1}, "row 0: version must be 0, got 1"),
        (4, {"version": 3}, "row 4: version must be 4, got 3"),
    ],
)
def test_check_names_the_row_and_the_rule(index, change, message):
    rows = reference.run(reference.Asp(), fixed(1, 2.5), 5)
    rows[index] = rows[index]._replace(**change)
    with pytest.raises(ValueError, match=message):
        reference.check(rows)
