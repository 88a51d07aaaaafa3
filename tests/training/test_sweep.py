"""A sweep against replays one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks

TIMES = [1.0, 1.3, 4.0]


def falling(rate, peak):
    """A step that falls with the versions."""

    def schedule(version):
        return rate * peak / (1 + jnp.asarray(version, jnp.float32))

    return optimizers.sgd(schedule, clock="server_updates")


def trace_of(text: str, pushes: int = 150):
    return simulate.schedule(policies.parse(text, 3), delays.constant(TIMES), pushes)


@pytest.mark.often(4)
@pytest.mark.parametrize(
    ("text", "aggregate"),
    [
        ("asp()", "mean"),
        ("asp()", "sum"),
        ("ringmaster(threshold=2)", "mean"),
        ("k_async(k=2)", "mean"),
        ("abs_dssp(noise=4)", "sum"),
        ("malenia(batch_size=4)", "workers"),
        ("ringleader()", "table"),
    ],
)
@pytest.mark.parametrize("name", ["quadratic", "logistic"])
def test_every_run_is_its_replay(text, aggregate, name):
    task = {
        "quadratic": lambda: tasks.quadratic(3, dim=4),
        "logistic": lambda: tasks.logistic(3, samples=60, dim=4),
    }[name]()
    trace = trace_of(text)
    rates, peaks, seeds = [0.5, 0.1], [1.0, 2.0], [3, 5]
    settings = {"aggregate": aggregate, "eval_every_commits": 7}
    made = replay.sweep(task, falling, [rates, peaks], trace, seeds, **settings)
    for r, optimizer in enumerate(map(falling, rates, peaks)):
        for s, seed in enumerate(seeds):
            own = replay.replay(task, optimizer, trace, seed, **settings).history
            np.testing.assert_array_equal(own.column("version"), made.version)
            np.testing.assert_array_equal(own.column("seconds"), made.seconds)
            for measure, values in made.measures.items():
                np.testing.assert_allclose(
                    own.column(measure), values[r, s], rtol=2e-4, atol=1e-6
                )


def test_more_settings_than_fit_are_computed_in_turn(monkeypatch):
    task, trace = tasks.quadratic(3, dim=4), trace_of("asp()")
    rates = [np.geomspace(0.01, 1, 5)]
    together = replay.sweep(task, optimizers.sgd, rates, trace)
    monkeypatch.setattr("abs_dssp.training.sweep._BYTES", 4 * 4 * 16 * 2)  # two
    apart = replay.sweep(task, optimizers.sgd, rates, trace)
    for name, values in together.measures.items():
        np.testing.assert_allclose(apart.measures[name], values, rtol=1e-6)


def test_a_run_that_diverges_leaves_the_others_alone():
    task, trace = tasks.quadratic(3, dim=4, noise=0.0), trace_of("asp()", 3000)
    made = replay.sweep(task, optimizers.sgd, [[50.0, 0.1]], trace)
    last = made.measures["loss"][:, 0, -1]
    assert not np.isfinite(last[0])
    assert last[1] < 1e-6


@pytest.mark.parametrize("settings", [[], [[0.1], [0.1, 0.2]], [0.1]])
def test_settings_of_different_lengths_are_refused(settings):
    with pytest.raises(ValueError, match="arrays of one length"):
        replay.sweep(tasks.quadratic(3), falling, settings, trace_of("asp()"))


def test_other_workers_than_the_tasks_are_refused():
    with pytest.raises(ValueError, match="3 workers"):
        replay.sweep(tasks.quadratic(2), optimizers.sgd, [[0.1]], trace_of("asp()"))


def test_only_what_is_wanted_is_measured():
    task, trace = tasks.quadratic(3, dim=4), trace_of("asp()")
    whole = replay.sweep(task, optimizers.sgd, [[0.1]], trace)
    some = replay.sweep(task, optimizers.sgd, [[0.1]], trace, measures=["loss"])
    assert list(some.measures) == ["loss"] and len(whole.measures) == 2
    np.testing.assert_array_equal(some.measures["loss"], whole.measures["loss"])


def test_all_runs_end_where_it_is_enough():
    task, trace = tasks.quadratic(3, dim=4), trace_of("asp()")
    seen = []

    def until(version, seconds, measures):
        seen.append((version, seconds, measures["loss"]))
        return version >= 21

    settings = {"eval_every_commits": 7}
    whole = replay.sweep(task, optimizers.sgd, [[0.1, 0.2]], trace, [0, 1], **settings)
    made = replay.sweep(
        task, optimizers.sgd, [[0.1, 0.2]], trace, [0, 1], until=until, **settings
    )
    assert made.version.tolist() == [0, 7, 14, 21] == [v for v, _, _ in seen]
    np.testing.assert_array_equal(made.seconds, [s for _, s, _ in seen])
    np.testing.assert_array_equal(made.seconds, whole.seconds[:4])
    for number, (_, _, loss) in enumerate(seen):
        np.testing.assert_array_equal(made.measures["loss"][..., number], loss)
        np.testing.assert_array_equal(whole.measures["loss"][..., number], loss)


def test_settings_have_names_and_the_numbers_that_were_given():
    task = tasks.quadratic(2, dim=3)
    trace = simulate.schedule("asp()", "constant([1, 2])", 20)
    named = {"learning_rate": [0.02, 0.02], "momentum": [0.0, 0.9]}
    made = replay.sweep(task, optimizers.sgd, named, trace, measures="loss")
    table = made.to_pandas()
    assert table.learning_rate.isin([0.02]).all() and set(table.momentum) == {0.0, 0.9}
    for number, momentum in enumerate(named["momentum"]):
        sgd = optimizers.sgd(0.02, momentum=momentum)
        alone = replay.replay(task, sgd, trace)
        found = made.measures["loss"][number, 0, -1]
        np.testing.assert_allclose(found, alone.history.last("loss"), rtol=1e-5)
    assert len(repr(made)) < 120
    other = replay.sweep(task, optimizers.sgd, list(named.values()), trace)
    np.testing.assert_array_equal(other.measures["loss"], made.measures["loss"])
