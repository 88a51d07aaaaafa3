"""The oracle itself: closed forms, and what holds whatever the times and departures."""

import random

import pytest
import reference
from test_reference import fixed, schedule, staleness, waits

# Closed forms: theory.md, section 4 (fixed times) and section 3.

H = (10, 20, 30, 60)


def counts(rows, until):
    return [sum(r.worker == i and r.time <= until for r in rows) for i in range(len(H))]


def commit_times(rows):
    return [r.time for r in rows if r.committed]


def test_counts_of_bsp_and_asp():
    assert counts(schedule(reference.Bsp(), fixed(*H), 420), 6000) == [100] * 4
    asp = schedule(reference.Asp(), fixed(*H), 1220)
    assert counts(asp, 6000) == [600, 300, 200, 100]


@pytest.mark.parametrize("s", [0, 1, 3, 10])
def test_counts_of_ssp(s):
    # n_i(x) = min(floor(x / h_i), floor((x - h_i) / h_N) + s + 1) for x >= h_i.
    rows = schedule(reference.Ssp(s), fixed(*H), 460)
    for x in (60, 90, 119, 120, 600, 6000):
        expected = [min(x // h, (x - h) // H[-1] + s + 1) for h in H]
        assert counts(rows, x) == expected
    if s == 3:
        assert expected == [103, 103, 103, 100]


def test_the_bounded_rule_keeps_the_pace_of_the_slowest():
    rows = schedule(reference.Dssp(1, 5, "bounded"), fixed(*H), 460)
    pushed = counts(rows, 6000)
    assert pushed[3] == 100 and max(pushed) <= 100 + 5 + 1


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_round_of_k_sync_is_the_kth_time(k):
    rows = schedule(reference.k_sync(k), fixed(*H), 40 * k)
    assert commit_times(rows) == [H[k - 1] * (m + 1) for m in range(40)]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 12, 13])
def test_round_of_k_batch_sync_and_rennala(k):
    # T_k = min{x: sum floor(x / h_i) >= k}; every round of k_batch_sync starts afresh.
    length = next(x for x in range(999) if sum(x // h for h in H) >= k)
    rows = schedule(reference.k_batch_sync(k), fixed(*H), 20 * k)
    assert commit_times(rows) == [length * (m + 1) for m in range(20)]
    rows = schedule(reference.Rennala(k), fixed(*H), 2 * k)
    assert commit_times(rows)[0] == length


def test_round_of_k_batch_async():
    # k / sum(1 / h_i) = 4 / 0.2 = 20 s on average: 300 commits in 6000 s.
    rows = schedule(reference.k_batch_async(4), fixed(*H), 1220)
    assert sum(time <= 6000 for time in commit_times(rows)) == 300


@pytest.mark.parametrize(
    ("rule", "k", "missing", "at_once"),
    [
        (reference.Asp, 1, 6, True),  # N - 1
        (lambda: reference.k_async(3), 3, 4, False),  # N - k
        (lambda: reference.k_batch_async(3), 3, 6, True),  # N - 1
    ],
    ids=["asp", "k_async", "k_batch_async"],
)
def test_staleness_is_conserved(rule, k, missing, at_once):
    # Lemma 1 with equality: each commit makes `missing` computations under way staler
    # by one, whatever the times; seven of them are still under way at the end. A pusher
    # pulls at once or with the commit that ends its round.
    for seed in range(10):
        rows = schedule(rule(), random_table(7, random.Random(seed)), 100 * k)
        pulled = [0] * 7
        for row in rows:
            pulled[row.worker] = row.version + (row.committed if at_once else 1)
        under_way = sum(100 - version for version in pulled)
        assert sum(staleness(rows)) + under_way == missing * 100


def slow_and_fast(variant):
    """The fast worker pushes at 10, 20, 30, ..., the slow one at 26, 46, 66, ..."""
    table = [[10.0], [26.0] + [20.0] * 600]
    rows = schedule(reference.Dssp(3, 11, variant), table, 1510)
    lead, clock = [], [0, 0]
    for row in rows:
        clock[row.worker] = row.clock
        if row.worker == 0:
            lead.append((clock[0] - clock[1], row.wait))
    return rows, lead


def test_the_printed_rule_leads_without_bound():
    rows, lead = slow_and_fast("printed")
    assert [r.time for r in rows if r.worker == 1][:3] == [26, 46, 66]
    for m, expected in ((10, 6), (100, 51), (1000, 501)):
        assert lead[m - 1][0] == expected == m - (10 * m - 6) // 20
    assert waits(rows) == [0] * len(rows)  # at the rate of ASP


def test_the_bounded_rule_releases_at_s_upper_at_most():
    _, lead = slow_and_fast("bounded")
    assert max(gap for gap, _ in lead) == 12
    assert max(gap for gap, wait in lead if wait == 0) == 11


# Whatever the times and departures.


def random_table(num_workers, source):
    kind = source.choice(["exponential", "whole", "tenths"])
    draw = {
        "exponential": lambda: source.expovariate(1.0),
        "whole": lambda: float(source.randint(1, 4)),
        "tenths": lambda: source.randint(1, 9) / 10,
    }[kind]
    return [[draw() for _ in range(7)] for _ in range(num_workers)]


EVERY = {
    "bsp": reference.Bsp,
    "asp": reference.Asp,
    "ssp": lambda: reference.Ssp(1),
    "dssp-printed": lambda: reference.Dssp(1, 4),
    "dssp-bounded": lambda: reference.Dssp(1, 4, "bounded"),
    "k_sync": lambda: reference.k_sync(2),
    "k_batch_sync": lambda: reference.k_batch_sync(3),
    "k_async": lambda: reference.k_async(2),
    "k_batch_async": lambda: reference.k_batch_async(3),
    "adasync": lambda: reference.AdaSync(2, "k_sync", 1.0),
    "sa_adasync": lambda: reference.sa_adasync(1, "k_async", 1.0),
    "abs": lambda: reference.Abs(1, a=3),
    "abs-loss": lambda: reference.Abs(1, a=0.7, growth="loss"),
    "rennala": lambda: reference.Rennala(3),
    "ringmaster": lambda: reference.Ringmaster(2),
    "ringmaster-stop": lambda: reference.Ringmaster(2, stop=True),
}


@pytest.mark.parametrize("name", EVERY)
def test_nobody_is_waited_for_in_vain(name):
    for seed in range(40):
        source = random.Random(seed)
        n = source.randint(1, 6)
        who = source.sample(range(n), source.randint(0, n - 1))
        leaves = sorted((source.randrange(50), worker) for worker in who)
        rows = schedule(
            EVERY[name](), random_table(n, source), 60, leaves=leaves,
            losses=lambda i: 2.0 * 0.95**i,
        )  # fmt: skip
        assert len(rows) == 60
        for index, worker in leaves:
            assert all(r.worker != worker for r in rows[index + 1 :])


@pytest.mark.parametrize("tau_max", [0, 1, 2, 4])
@pytest.mark.parametrize("k", [1, 3])
def test_abs_accepts_nothing_staler_than_its_bound(k, tau_max):
    for seed in range(20):
        table = random_table(6, random.Random(seed))
        rows = schedule(reference.Abs(k, a=9, tau_max=tau_max), table, 80)
        assert max(staleness(rows)) <= tau_max
        assert all(r.weight == 1 for r in rows)  # nothing to discard


@pytest.mark.parametrize(("s_lower", "s_upper"), [(0, 0), (0, 7), (1, 4), (3, 4)])
def test_bounded_dssp_releases_nobody_above_s_upper(s_lower, s_upper):
    gaps = []  # of every worker released

    class Watched(reference.Dssp):
        def push(self, world, p, now):
            decision = super().push(world, p, now)
            gaps.extend(world.gap(i) for i in decision.release)
            return decision

    for seed in range(30):
        source = random.Random(seed)
        table = random_table(source.randint(2, 6), source)
        schedule(Watched(s_lower, s_upper, "bounded"), table, 200)
    assert max(gaps) == s_upper


EQUIVALENT = {
    "ssp-asp": (reference.Ssp(10**6), reference.Asp()),
    "k_async-asp": (reference.k_async(1), reference.Asp()),
    "k_async-bsp": (reference.k_async(5), reference.Bsp()),
    "k_sync-bsp": (reference.k_sync(5), reference.Bsp()),
    "ssp-dssp": (reference.Ssp(3), reference.Dssp(3, 3, "bounded")),
    "ssp-bsp": (reference.Ssp(0), reference.Dssp(0, 0)),
    "k_async-abs": (reference.k_async(2), reference.Abs(2, tau_max=10**6)),
    "asp-ringmaster": (reference.Asp(), reference.Ringmaster(10**6)),
}


@pytest.mark.parametrize("pair", EQUIVALENT.values(), ids=EQUIVALENT)
def test_special_cases_coincide(pair):
    table = random_table(5, random.Random(1))
    one, other = (repr(schedule(rule, table, 100)) for rule in pair)
    assert one == other
