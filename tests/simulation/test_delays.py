"""Models of worker speed: laws, keys and errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import communication, delays, policies, simulate

COUNT = 20_000


@pytest.mark.parametrize(
    ("text", "mean", "median"),
    [
        ("constant(seconds=2.5)", 2.5, 2.5),
        ("exponential(mean=2.0)", 2.0, 2 * math.log(2)),
        ("shifted_exponential(shift=1,mean=2.0)", 3.0, 1 + 2 * math.log(2)),
        ("pareto(minimum=1,shape=3)", 3 / 2, 2 ** (1 / 3)),
        ("lognormal(median=2,sigma=0.5)", 2 * math.exp(0.125), 2.0),
    ],
)
def test_laws_have_their_mean_and_median(text, mean, median):
    draws = delays.table(delays.parse(text, 2), COUNT, seed=1)
    assert draws.shape == (2, COUNT) and draws.dtype == np.float64
    error = draws.std() / math.sqrt(draws.size)
    assert abs(draws.mean() - mean) <= 4 * error + 1e-12
    below = (draws <= median + 1e-12).mean() if "constant" not in text else 0.5
    assert abs(below - 0.5) < 4 * 0.5 / math.sqrt(draws.size) + 1e-9


def test_markov_has_its_stationary_share_and_runs():
    model = delays.markov(1.0, 5.0, slows=0.1, recovers=0.3, num_workers=4)
    slow = delays.table(model, COUNT) == 5.0
    assert not slow[:, 0].any()  # all start fast
    # Stationary share 0.1 / (0.1 + 0.3); slow runs are geometric with mean 1 / 0.3.
    # The autocorrelation 1 - 0.4 inflates the variance by (1 + 0.6) / (1 - 0.6) = 4.
    error = math.sqrt(4 * 0.25 * 0.75 / slow.size)
    assert abs(slow.mean() - 0.25) < 4 * error
    ends = (slow[:, :-1] & ~slow[:, 1:]).sum()
    assert abs(slow.sum() / ends - 1 / 0.3) < 0.1


def test_durations_depend_on_seed_worker_and_number_alone():
    model = delays.exponential(1.0, num_workers=3)
    long, short = delays.table(model, 200, seed=4), delays.table(model, 70, seed=4)
    np.testing.assert_array_equal(long[:, :70], short)
    wider = delays.table(delays.exponential(1.0, num_workers=5), 70, seed=4)
    np.testing.assert_array_equal(wider[:3], short)
    flat = np.concatenate([long.ravel(), delays.table(model, 200, seed=5).ravel()])
    assert len(np.unique(flat)) == flat.size


def test_recorded_rows_are_cycled_and_may_differ_in_length():
    model = delays.recorded([[1, 2, 3], [5]])
    np.testing.assert_array_equal(
        delays.table(model, 7), [[1, 2, 3, 1, 2, 3, 1], [5] * 7]
    )


def test_a_recorded_table_reproduces_the_schedule_it_came_from():
    model = delays.exponential(1.0, num_workers=4)
    policy = policies.ssp(4, s=2)
    direct = simulate.schedule(policy, model, 300, seed=9)
    table = delays.recorded(delays.table(model, 300, seed=9))
    np.testing.assert_array_equal(
        simulate.schedule(policy, table, 300).time, direct.time
    )


def test_local_steps_add_consecutive_durations():
    model = delays.exponential([1.0, 2.0])
    summed = delays.table(delays.per_step(model, 3), 100)
    single = delays.table(model, 300)
    np.testing.assert_allclose(summed, single.reshape(2, 100, 3).sum(axis=2))


def test_vmap_sweeps_the_parameters_of_a_model():
    policy = policies.bsp(2)

    def end(slow):
        from abs_dssp.simulation import event_loop

        model = delays.constant(jnp.stack([jnp.ones_like(slow), slow]))
        begun = event_loop.start(policy, model, communication.none(), 0)
        _, rows = event_loop.advance(policy, model, communication.none(), begun, 20, 20)
        return rows[-1, 0]

    with jax.enable_x64(True):
        ends = jax.vmap(end)(jnp.array([1.0, 2.0, 2.7]))
    np.testing.assert_allclose(ends, [10, 20, 27])  # 10 rounds of the slower one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "constant(seconds=[1,2])",
            "seconds must have one value per worker (3), got 2",
        ),
        ("constant(seconds=-1)", "seconds must be finite and at least 0, got -1.0"),
        ("exponential(mean=[1,-2,3])", "mean must be finite and at least 0, got -2.0"),
        ("constant()", "constant needs the argument 'seconds'"),
        (
            "gamma(mean=1)",
            "unknown name 'gamma'; known: abandoned, constant, exp",
        ),
        ("recorded(durations=[[1],[],[2]])", "an (N, M) table with M at least 1"),
        ("recorded(durations=[[1],[2]])", "one value per worker (3), got 2"),
        ("markov(fast=1,slow=2,slows=1.5)", "slows must be in 0..1, got 1.5"),
        ("pareto(minimum=1,shape=0)", "shape must be above 0, got 0"),
    ],
)
def test_wrong_models_get_one_clear_sentence(text, message):
    with pytest.raises(ValueError) as error:
        delays.parse(text, num_workers=3)
    assert message in str(error.value)


def test_a_scalar_alone_does_not_say_how_many_workers():
    with pytest.raises(ValueError, match="num_workers must be given"):
        delays.constant(1.0)


def test_a_shared_link_makes_equal_workers_queue():
    # Three workers finish at 1; transfers of 0.5 s arrive at 1.5, 2, 2.5 in turn.
    link = communication.parse("link(bandwidth=2,shared=True)", num_bytes=1)
    trace = simulate.schedule(
        policies.bsp(3), delays.constant([1, 1, 1]), 6, communication=link
    )
    np.testing.assert_allclose(trace.time, [1.5, 2, 2.5, 4, 4.5, 5])
    np.testing.assert_allclose(trace.duration, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("link(bandwidth=0)", "bandwidth must be above 0, got 0"),
        ("link(bandwidth=1,latency=-1)", "must be at least 0"),
        ("link()", "link needs the argument 'bandwidth'"),
        ("wire()", "unknown name 'wire'; known: link, none"),
    ],
)
def test_wrong_links_get_one_clear_sentence(text, message):
    with pytest.raises(ValueError) as error:
        communication.parse(text, num_bytes=10)
    assert message in str(error.value)
