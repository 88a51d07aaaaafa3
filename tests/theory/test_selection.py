"""Oracle values of section 5 that only simulation gives, by the package's schedules."""

import known_problems as known
import numpy as np
import pytest

from abs_dssp import delays, policies, simulate, theory

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
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k_sync(k=1)", 0.724231), ("k_sync(k=2)", 0.7078), ("k_sync(k=4)", 0.6644),
        ("k_sync(k=8)", 0.5), ("k_async(k=1)", 0.5), ("k_async(k=3)", 0.5),
        ("abs(k0=1,a=None,tau_max=4)", 0.6728), ("abs(k0=3,a=None,tau_max=2)", 0.6076),
        ("abs(k0=3,a=None,tau_max=1)", 0.6458),
    ],
)  # fmt: skip
def test_cancelling_prefers_quick_samples(text, expected):
    """Remark 2: where times depend on the data, cancelling biases the sample."""
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
