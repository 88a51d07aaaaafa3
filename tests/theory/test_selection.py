"""Oracle values of section 5 that only simulation gives, by the package's schedules."""

import heapq

import known_problems as known
import numpy as np
import pytest

from abs_dssp import delays, policies, simulate, theory
from abs_dssp.history.events import Event
from abs_dssp.history.machine import Machine

N = 8


def quick_or_not(count: int):
    """Durations of rate 3 or 1, equally likely, and which are the quick ones."""
    generator = np.random.default_rng(11)
    quick = generator.random((N, count)) < 0.5
    rate = np.where(quick, 3.0, 1.0)
    return generator.exponential(size=(N, count)) / rate, quick


DURATIONS, QUICK = quick_or_not(30_000)


# K-sync of the fastest: sum over a of C(8, a) / 2^8 times 3 a / (3 a + 8 - a), a of the
# eight being quick. Where nothing is cancelled the share is that of the data. The other
# values were simulated, with standard errors of 0.0006.
@pytest.mark.often(4)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k_sync(k=1)", 0.724231), ("k_sync(k=2)", 0.7078), ("k_sync(k=4)", 0.6644),
        ("k_sync(k=8)", 0.5), ("k_async(k=1)", 0.5), ("k_async(k=3)", 0.5),
        ("abs(k0=1,a=None,tau_max=4)", 0.6728), ("abs(k0=3,a=None,tau_max=2)", 0.6076),
        ("abs(k0=3,a=None,tau_max=1)", 0.6458),
    ],
)  # fmt: skip
def test_cancelling_prefers_quick_samples_if_a_restart_draws_anew(text, expected):
    """Remark 2: where times depend on the data, cancelling biases the sample. Here a
    computation's time is its own; that of a restart is another."""
    pushes = 20_000
    trace = simulate.schedule(known.policy(text, N), delays.recorded(DURATIONS), pushes)
    quick = np.zeros(pushes, bool)
    for worker in range(N):
        rows = np.flatnonzero(trace.worker == worker)
        # The computations that this worker has started, cancelled ones included.
        started = np.arange(len(rows)) + np.cumsum(trace.restarts[rows])
        assert started[-1] < DURATIONS.shape[1]
        assert np.allclose(DURATIONS[worker, started], trace.duration[rows])
        quick[rows] = QUICK[worker, started]
    share = quick[trace.accepted].mean()
    assert share == pytest.approx(expected, abs=4 * 0.5 / pushes**0.5)


# The share is that of the data where every batch ends up in a push that counts. The
# other share and the slowdowns were simulated.
@pytest.mark.often(1)
@pytest.mark.parametrize(
    ("text", "expected", "slowdown"),
    [("k_sync(k=1)", 0.5, 8), ("abs(k0=3,a=None,tau_max=2)", 0.5, 2.5),
     ("ringmaster(threshold=4)", 0.64, 1)],
)  # fmt: skip
def test_a_batch_that_is_kept_is_not_left_out_but_holds_its_worker_up(
    text, expected, slowdown
):
    """As runs do it: a batch belongs to a clock, so a restart has the batch, and here
    the time, that it had. Nothing is passed over where work is cancelled, only where
    pushes are discarded; but slow batches are begun again and again."""
    pushes, rule = 3000, known.policy(text, N)
    machine = Machine(rule, N)
    clock, grant = np.zeros(N, int), np.ones(N, int)
    ends = [(DURATIONS[worker, 0], worker, 1) for worker in range(N)]
    heapq.heapify(ends)
    quick, made, now = [], 0, 0.0
    while made < pushes:
        now, worker, number = heapq.heappop(ends)
        if number != grant[worker]:
            continue  # cancelled
        done = machine.apply(Event("push", worker, now))
        made += 1
        if done.weight > 0:
            quick.append(QUICK[worker, clock[worker]])
        clock[worker] += 1
        for other, begun in done.grants.items():
            grant[other] = begun
            end = now + DURATIONS[other, clock[other]]
            heapq.heappush(ends, (end, other, begun))
    assert np.mean(quick) == pytest.approx(expected, abs=4 * 0.5 / pushes**0.5)
    anew = simulate.schedule(rule, delays.recorded(DURATIONS), pushes)
    assert anew.pushes_per_second >= slowdown * 0.99 * made / now


@pytest.mark.parametrize(
    ("text", "mean", "square"),
    [("k_async(k=3)", 5 / 3, 7.222222), ("asp()", 7, 105)],
)
def test_moments_of_staleness_for_exponential_times(text, mean, square):
    """Of the geometric law: (1 - p) / p^2 + (1/p - 1)^2, p = K / N."""
    p = 1 / (1 + mean)
    assert (1 - p) / p**2 + (1 / p - 1) ** 2 == pytest.approx(square, abs=1e-5)
    speed = delays.exponential(1.0, N)
    trace = simulate.schedule(known.policy(text, N), speed, 60_000)
    staleness = trace.staleness.astype(float)
    assert staleness.mean() == pytest.approx(mean, rel=0.005)
    assert (staleness**2).mean() == pytest.approx(square, rel=0.03)


def test_the_round_of_k_async_with_shifted_times():
    speed = delays.shifted_exponential(0.5, 0.5, N)
    trace = simulate.schedule(known.policy("k_async(k=3)", N), speed, 60_000)
    assert trace.seconds / trace.commits == pytest.approx(0.42846, rel=0.005)
    assert trace.staleness.mean() == pytest.approx(N / 3 - 1, rel=0.005)


def test_bounded_dssp_attains_its_bounds_and_no_more():
    """Release gap at most s_U and push gap at most s_U + 1, both attained."""
    most_push, most_release = 0, 0
    policy = policies.dssp(2, s_lower=1, s_upper=4, variant="bounded")
    for speed in ([1.0, 1.7], [1.0, 3.3], [2.6, 1.0]):
        model = delays.lognormal(np.array(speed), 0.4)
        for trace in simulate.sweep(policy, model, 400, range(20)):
            clock, slowest = np.zeros(2, int), [0]
            for worker in trace.worker:
                clock[worker] += 1
                slowest.append(int(clock.min()))
            release = trace.clock - 1 - np.array(slowest)[trace.pulled]
            most_release = max(most_release, int(release.max()))
            most_push = max(most_push, int(trace.gaps.max()))
    assert (most_release, most_push) == (4, 5)


def test_ringmasters_blocks_take_at_most_twice_the_collection_bound():
    """R updates of staleness below R, fixed times; 0.573 was the most of 300 draws."""
    generator = np.random.default_rng(5)
    for _ in range(40):
        times = np.sort(generator.lognormal(size=4, sigma=1.5))
        threshold = int(generator.choice([1, 4, 20]))
        clock, version, pulled = times.copy(), 0, np.zeros(4, int)
        block = [0.0]  # times of versions
        while version < 5 * threshold:
            worker = int(np.argmin(clock))
            now = clock[worker]
            if version - pulled[worker] < threshold:
                version += 1
                block.append(now)
            pulled[worker] = version
            clock[worker] += times[worker]
        ends = np.array(block)
        longest = np.max(ends[threshold:] - ends[:-threshold])
        bound = 2 * float(theory.collection_bound(times, threshold))
        assert longest <= bound
