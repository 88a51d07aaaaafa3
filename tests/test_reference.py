"""The oracle itself, against schedules worked out by hand."""

import reference


def fixed(*seconds):
    return [[float(s)] for s in seconds]


def test_bsp_commits_when_the_slowest_has_pushed():
    rows = reference.run(reference.Bsp(), fixed(1, 2.7), 6)
    assert [(r.time, r.worker) for r in rows[:2]] == [(1, 0), (2.7, 1)]
    assert [r.time for r in rows if r.committed] == [2.7, 5.4, 5.4 + 2.7]


def test_ssp_lets_the_fast_worker_lead_by_s():
    # s = 1: pushes of 0 at 1 and 2 (gap 2: waits), until 1 pushes at 4.
    rows = reference.run(reference.Ssp(1), fixed(1, 4), 4)
    assert [(r.time, r.worker, r.wait) for r in rows[:3]] == [
        (1, 0, 0),
        (2, 0, 2),
        (4, 1, 0),
    ]


def test_k_sync_cancels_the_others():
    # Times 1, 2, 5; k = 2: commits at 2, 4, ...; worker 2 starts again each time.
    rows = reference.run(reference.k_sync(2), fixed(1, 2, 5), 4)
    assert [(r.time, r.worker) for r in rows] == [(1, 0), (2, 1), (3, 0), (4, 1)]
    assert [r.pulled for r in rows] == [0, 0, 1, 1]


def test_k_async_keeps_the_others_computing():
    rows = reference.run(reference.k_async(2), fixed(1, 2, 5), 6)
    # Commits at 2 and 4; worker 2 arrives at 5 with what it pulled at version 0.
    late = next(r for r in rows if r.worker == 2)
    assert (late.time, late.pulled, late.version) == (5, 0, 2)


def test_abs_restarts_what_becomes_too_stale():
    # k = 1, tau_max = 1: at time 2 worker 1 would be 2 versions behind and restarts.
    rows = reference.run(reference.Abs(1, tau_max=1), fixed(1, 3.5), 8)
    assert all(r.version - r.pulled <= 1 for r in rows)
    assert all(r.worker == 0 for r in rows)


def test_a_rule_that_releases_nobody_is_a_deadlock():
    class Miser(reference.Asp):
        def push(self, world, p, now):
            return 1.0, True, set(), set()

    try:
        reference.run(Miser(), fixed(1, 2), 5)
    except reference.Deadlock as error:
        assert error.args == (3,)
    else:
        raise AssertionError("no deadlock was noticed")


def test_nobody_waits_for_the_dead():
    # Worker 1 dies after push 0, in the first round of BSP: 0 goes on alone.
    rows = reference.run(reference.Bsp(), fixed(1, 5), 3, leaves=[(0, 1)])
    assert [(r.time, r.committed) for r in rows] == [(1, True), (2, True), (3, True)]
