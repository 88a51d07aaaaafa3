"""The fit of worker times, on times whose law is known and on those that ship."""

import numpy as np
import pytest
from simulation.test_fitted_times import CASES, covariances, worker
from simulation.test_public_times import FOLDER, published

from abs_dssp import delays
from abs_dssp.experiment import fit_times
from abs_dssp.simulation import fitted_times, public_times


@pytest.mark.parametrize("case", CASES)
def test_the_predicted_autocorrelation_is_that_of_the_law(case):
    job, lags = CASES[case], (1, 2, 5, 20, 100)
    _, variance, *rest = covariances(job, lags)
    found = fit_times.predicted_autocorrelation(job, lags)[0]
    np.testing.assert_allclose(found, np.array(rest) / variance, atol=1e-9)


# Spells that last long beside the nine lines over which the fit smooths.
LONG_SPELLS = {
    "two states": worker(cv=0.6, slow=3.0, slows=0.002, recovers=0.006),
    "all of it": worker(2.0, 0.6, 3.0, 0.003, 0.005, share=0.7, stays=0.8),
}


@pytest.mark.parametrize("case", CASES)
def test_the_fit_finds_what_a_model_was_made_of(case):
    job = (CASES | LONG_SPELLS)[case]
    times = delays.table(fitted_times.like(job, num_workers=4), 20_000, seed=3)
    found = fit_times.fit(list(times))
    for name in ("mean", "cv"):
        expected = getattr(job, name)[0]
        np.testing.assert_allclose(getattr(found, name).mean(), expected, rtol=0.05)
    assert (found.slow > 1).all() == (job.slow > 1).all()
    np.testing.assert_allclose(found.slow.mean(), job.slow[0], rtol=0.15)
    lags = (1, 5, 20)
    sought = fit_times.predicted_autocorrelation(job, lags)[0]
    near = fit_times.predicted_autocorrelation(found, lags).mean(axis=0)
    np.testing.assert_allclose(near, sought, atol=0.06)


def test_states_are_found_where_there_are_two():
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=300))
    assert not fit_times.states(noise).any()
    assert not fit_times.states(noise * np.where(np.arange(300) == 50, 3, 1)).any()
    turned = np.arange(300) >= 220
    assert (fit_times.states(noise * np.where(turned, 1.5, 1)) == turned).mean() > 0.99
    assert not fit_times.states(noise * np.where(turned, 1.1, 1)).any()


@pytest.mark.parametrize("name", public_times.JOBS)
def test_the_fit_made_again_is_the_table_that_ships(name):
    published(name)
    again, ships = fit_times.fit_job(name, FOLDER), fitted_times.jobs()[name]
    for field, values in again._asdict().items():
        np.testing.assert_allclose(values, getattr(ships, field), 1e-3, err_msg=field)


def test_the_table_as_text_is_the_file_that_ships():
    """Also where there are no data: nobody has edited it."""
    text = fit_times.table_text(fitted_times.jobs())
    assert text == fitted_times.TABLE.read_text()
    assert "CC BY 4.0" in text and "Apache-2.0" in text
