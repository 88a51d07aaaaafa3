"""Models that were fitted to real clusters: their law, and the numbers that ship."""

import math

import numpy as np
import pytest

from abs_dssp import delays, policies, simulate
from abs_dssp.simulation import fitted_times, public_times
from abs_dssp.simulation.fitted_times import Fitted

COPIES, COUNT = 64, 6400
LAGS = (1, 2, 5, 20)


def worker(mean=1.0, cv=0.3, slow=1.0, slows=0.0, recovers=0.0, share=0.0, stays=0.0):
    return Fitted(
        *np.array([[mean], [cv], [slow], [slows], [recovers], [share], [stays]])
    )


def of(job, i):
    return Fitted(*(values[[i]] for values in job))


def covariances(job, lags):
    """Of a worker's times, by summing over the four pairs of states and by quadrature
    over two correlated normals; the first is the mean, the second the variance."""
    mean, cv, slow, slows, recovers, share, stays = (float(v[0]) for v in job)
    chain = np.array([[1 - slows, slows], [recovers, 1 - recovers]])
    changes = slows + recovers
    stationary = np.array([recovers, slows]) / changes if changes else np.array([1, 0])
    factor = np.array([1, slow])
    # sigma from cv: E X^2 / (E X)^2 = exp(sigma^2) E F^2 / (E F)^2.
    of_chain = (stationary @ factor**2) / (stationary @ factor) ** 2
    sigma = math.sqrt(max(math.log((1 + cv**2) / of_chain), 0))
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    median = mean / (stationary @ factor) / (weights @ np.exp(sigma * points))
    found = [mean, (mean * cv) ** 2]
    for lag in lags:
        r = share * stays**lag
        ahead = np.linalg.matrix_power(chain, lag)
        pairs = (stationary * factor) @ ahead @ factor
        second = r * points[:, None] + math.sqrt(1 - r**2) * points[None, :]
        normals = np.exp(sigma * (points[:, None] + second))
        found.append(median**2 * pairs * (weights @ normals @ weights) - mean**2)
    return np.array(found)


CASES = {
    "white noise": worker(mean=3.0, cv=0.2),
    "persists": worker(cv=0.3, share=1.0, stays=0.9),
    "persists in part": worker(cv=0.5, share=0.6, stays=0.95),
    "two states": worker(cv=0.6, slow=3.0, slows=0.02, recovers=0.06),
    "all of it": worker(2.0, 0.7, 2.5, 0.03, 0.05, share=0.7, stays=0.9),
}


@pytest.mark.often(3)
@pytest.mark.parametrize("case", CASES)
def test_a_long_sample_has_the_moments_of_the_law(case):
    """Sixty-four workers alike are that many independent samples: their scatter gives
    the standard error of each moment about the true mean."""
    job = CASES[case]
    mean, *expected = covariances(job, LAGS)
    times = delays.table(fitted_times.like(job, num_workers=COPIES), COUNT, seed=5)
    apart = times - mean
    found = [times.mean(axis=1), (apart**2).mean(axis=1)]
    found += [(apart[:, :-k] * apart[:, k:]).mean(axis=1) for k in LAGS]
    for moments, exact in zip(found, [mean, *expected], strict=True):
        error = moments.std(ddof=1) / math.sqrt(COPIES)
        assert abs(moments.mean() - exact) < 4.5 * error + 1e-12
        assert error < 0.1 * (mean + expected[0])  # or that would tell nothing


def test_the_first_computation_is_as_any_other():
    job = worker(cv=0.8, slow=4.0, slows=0.01, recovers=0.01, share=1.0, stays=0.9)
    first = delays.table(fitted_times.like(job, num_workers=20_000), 1, seed=2)[:, 0]
    mean, variance = covariances(job, ())
    assert abs(first.mean() - mean) < 4 * math.sqrt(variance / first.size)
    fourth = ((first - mean) ** 4).mean()
    error = math.sqrt((fourth - variance**2) / first.size)
    assert abs(((first - mean) ** 2).mean() - variance) < 4 * error


@pytest.mark.often(3)
@pytest.mark.parametrize("name", public_times.JOBS)
def test_every_job_ships_and_has_its_means(name):
    job = fitted_times.jobs()[name]
    model = delays.measured(name)
    assert model.num_workers == len(job.mean) and model.spec == f"measured({name!r})"
    count = 20_000
    found = delays.table(model, count, seed=1).mean(axis=1)
    for i, mean in enumerate(found):
        lags = np.unique(np.geomspace(1, 5000, 60).astype(int))
        exact, variance, *rest = covariances(of(job, i), lags)
        # Of the mean: the sum of the covariances over all lags, by trapezoids.
        around = variance + 2 * max(np.trapezoid(rest, lags) + rest[0] / 2, 0)
        assert abs(mean - exact) < 4.5 * math.sqrt(around / count)
    in_seconds = public_times.find(name).in_seconds
    assert in_seconds or job.mean.mean() == pytest.approx(1, abs=2e-4)
    assert (job.cv > 0).all() and (job.slow >= 1).all()


def test_as_text_with_other_workers_and_another_mean():
    wide = delays.parse('measured("alibaba-job4", mean=2.0)', 23)
    plain = delays.measured("alibaba-job4", mean=2.0, num_workers=10)
    assert wide.num_workers == 23 and wide.spec == 'measured("alibaba-job4", mean=2.0)'
    assert plain.spec == "measured('alibaba-job4',mean=2.0)"
    times, few = delays.table(wide, 200), delays.table(plain, 200)
    np.testing.assert_array_equal(times[:10], few)
    np.testing.assert_allclose(
        few, 2 * delays.table(delays.measured("alibaba-job4"), 200), rtol=2e-4
    )  # the table's own mean, of rounded numbers
    assert not np.isclose(times[10], times[0]).any()  # alike, with its own draws
    parameters = wide.parameters["median"]
    np.testing.assert_array_equal(parameters[10:20], parameters[:10])
    inside = delays.parse("abandoned(measured('alibaba-job4'), seconds=0.5)", 4)
    assert delays.table(inside, 50).max() <= 0.5


def test_a_schedule_of_it_goes_on_over_many_blocks():
    model = delays.measured("alibaba-job4", num_workers=4)
    trace = simulate.schedule(policies.asp(4), model, 1000, seed=3)
    table = delays.recorded(delays.table(model, 1000, seed=3))
    again = simulate.schedule(policies.asp(4), table, 1000)
    np.testing.assert_allclose(trace.time, again.time, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('measured("job4")', "unknown times 'job4'; known: alibaba-job1, alibaba-job2"),
        ('measured("alibaba-job1",mean=0)', "mean must be above 0 and finite, got 0"),
        ("measured()", "needs the argument 'name'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text, message):
    with pytest.raises(ValueError) as error:
        delays.parse(text, 3)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ('measured("bytedance-ar")', 4),
        ("constant(seconds=[1,2,3])", 3),
        ("recorded(durations=[[1,2,3],[5]])", 2),
        ("abandoned(exponential(mean=[1,2]), seconds=3)", 2),
        ("exponential(mean=1)", None),
    ],
)
def test_a_model_says_how_many_workers_it_has(text, workers):
    if workers is None:
        with pytest.raises(ValueError, match="num_workers must be given where every"):
            delays.parse(text, None)
    else:
        assert delays.parse(text, None).num_workers == workers
