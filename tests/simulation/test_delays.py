"""Models of worker speed: laws, keys and errors."""

import math
from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from abs_dssp import communication, delays, policies, simulate

COUNT = 20_000
MEASURED = Path(__file__).parents[3] / "shared/data/traces/alibaba_gpu_2020"
SHIPPED = Path(delays.__file__).parent / "experiment/reproduction/busy_machine.csv"


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


def test_lines_of_a_file_are_taken_in_order_per_worker(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("seconds, note, worker\n3,x,10\n1,,2\n4,y,10\n\n1.5,z,2\n5,,10\n")
    model = delays.csv(path)  # numbers in order: 2 before 10
    np.testing.assert_array_equal(
        delays.table(model, 4), [[1, 1.5, 1, 1.5], [3, 4, 5, 3]]
    )
    path.write_text("\ufeffrank,t\r\nb,1\r\n10,2\r\n2,3\r\n")  # as Excel writes it
    texts = delays.csv(path, worker="rank", seconds="t")  # in order of their text
    assert delays.table(texts, 1).tolist() == [[2], [3], [1]]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    lines=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 1e6)), min_size=1, max_size=12
    ),
    workers=st.none() | st.integers(1, 9),
    mean=st.none() | st.floats(0.1, 10),
)
def test_any_file_comes_back_line_by_line(tmp_path_factory, lines, workers, mean):
    if mean is not None and sum(seconds for _, seconds in lines) < 1e-6:
        mean = None
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    text = [f"{worker},{seconds!r}" for worker, seconds in lines]
    path.write_text("\n".join(["worker,seconds", *text]))
    model = delays.csv(path, mean=mean, num_workers=workers)
    labels = sorted({worker for worker, _ in lines})
    total = sum(seconds for _, seconds in lines)
    factor = 1.0 if mean is None else mean / (total / len(lines))
    expected = []
    for i in range(workers or len(labels)):
        lap, which = divmod(i, len(labels))
        row = [seconds for worker, seconds in lines if worker == labels[which]]
        laps = math.ceil((workers or len(labels)) / len(labels))
        first = len(row) * lap // laps
        expected.append([factor * row[(first + n) % len(row)] for n in range(13)])
    np.testing.assert_allclose(delays.table(model, 13), expected, rtol=1e-12)


def test_more_workers_than_a_file_has_start_at_other_lines(tmp_path):
    path = tmp_path / "steps.csv"
    lines = [f"a,{n}" for n in range(6)] + ["b,10", "b,11", "b,12", "b,13"]
    path.write_text("\n".join(["worker,seconds", *lines]))
    # Five workers from two: ceil(5 / 2) = 3 starts, at 0, 1/3 and 2/3 of a row.
    first = delays.table(delays.csv(path, num_workers=5), 1)[:, 0]
    np.testing.assert_array_equal(first, [0, 10, 2, 11, 4])
    whole = delays.table(delays.csv(path, num_workers=5), 6)
    np.testing.assert_array_equal(whole[4], [4, 5, 0, 1, 2, 3])
    fewer = delays.table(delays.csv(path, mean=1.0, num_workers=1), 6)
    np.testing.assert_allclose(fewer, [np.arange(6) / 6.1])  # 6.1: mean of all lines


def test_the_text_of_a_file_of_durations_is_read_again(tmp_path):
    path = tmp_path / "it's.csv"
    path.write_text("rank,time\n0,1\n1,3\n")
    model = delays.csv(path, worker="rank", seconds="time", mean=1.0)
    assert model.spec == f"csv({str(path)!r},worker='rank',seconds='time',mean=1.0)"
    again = delays.parse(f" {model.spec}", 2)
    assert again.spec == model.spec
    path.unlink()  # read once
    np.testing.assert_array_equal(delays.table(again, 3), delays.table(model, 3))
    np.testing.assert_array_equal(delays.table(again, 3), [[0.5] * 3, [1.5] * 3])


def test_a_file_of_durations_may_stand_within_another_model(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("worker,seconds\n0,1\n0,5\n")
    model = delays.parse(f"abandoned(csv({str(path)!r}),seconds=2.0)", 2)
    assert delays.table(model, 2).tolist() == [[1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, "", "(No such file or directory); a relative one starts at"),
        (b"\xff\xfe", "", "must be that of a CSV or Parquet file, got"),
        (b"", "", "must have a column 'worker', got none; say which it is by worker="),
        (b"a;b\n", "", "must have a column 'worker', got 'a;b'; say which it is"),
        (b"worker,t\n", "", "a column 'seconds', got 'worker', 't'; say which it is"),
        (b"worker,seconds\n\n", "", "a line for every computation, got none below"),
        (
            b"worker,seconds\n0,1\n\n0,fast\n",
            "",
            "csv: line 4 of {path}: seconds must be a finite number of at least 0, "
            "got 'fast'; mend the line or leave it out.",
        ),
        (b"worker,seconds\n0,-1\n", "", "line 2 of {path}: seconds must be a finite"),
        (b"worker,seconds\n0,nan\n", "", "of at least 0, got 'nan'"),
        (b"worker,seconds\n0,inf\n", "", "of at least 0, got 'inf'"),
        (b"worker,seconds\n0\n", "", "of at least 0, got None"),
        (b"worker,seconds\n,1\n", "", "line 2 of {path} must name a worker, got"),
        (b"worker,seconds\n0,0\n", ",mean=1", "are 0, so no factor gives them the"),
        (b"worker,seconds\n0,1\n", ",mean=0", "mean must be above 0, got 0"),
        (b"worker,seconds\n0,1\n", ",mean=[1]", "mean"),
    ],
)
def test_wrong_files_get_one_clear_sentence(tmp_path, content, arguments, message):
    path = tmp_path / "steps.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        delays.parse(f"csv({str(path)!r}{arguments})", num_workers=3)
    assert message.replace("{path}", repr(str(path))) in str(error.value)


def test_a_file_has_no_workers_for_none(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("worker,seconds\n0,1\n")
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        delays.csv(path, num_workers=0)


def test_a_measured_cluster_has_the_stragglers_that_its_authors_saw():
    path = MEASURED / "job_4_norm.csv"
    if not path.exists():
        pytest.skip(f"The measured times are not at {path}.")
    _, *lines = (line.split(",") for line in path.read_text().splitlines())
    mean = sum(float(line[4]) for line in lines) / len(lines)
    plain = [[float(x[4]) / mean for x in lines if x[1] == str(i)] for i in range(10)]
    model = delays.csv(path, seconds="batch_time_norm", mean=1.0)
    assert model.num_workers == 10
    longest = delays.table(model, max(map(len, plain)))
    for row, expected in zip(longest, plain, strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-12)
    means = [sum(row) / len(row) for row in plain]
    assert max(means) / min(means) == pytest.approx(5.4, abs=0.05)  # its README
    assert sum(mine > 3 * min(means) for mine in means) == 5  # its README


def test_the_shipped_times_of_a_busy_machine_are_of_four_workers():
    model = delays.csv(SHIPPED)
    assert model.num_workers == 4
    assert 0 < delays.table(model, 400).min()


def test_local_steps_add_consecutive_durations():
    model = delays.exponential([1.0, 2.0])
    summed = delays.table(delays.per_step(model, 3), 100)
    single = delays.table(model, 300)
    np.testing.assert_allclose(summed, single.reshape(2, 100, 3).sum(axis=2))
    by_text = delays.per_step("exponential([1.0, 2.0])", 3)
    np.testing.assert_array_equal(delays.table(by_text, 100), summed)


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
            "unknown name 'gamma'; known: abandoned, constant, csv, exp",
        ),
        ("recorded(durations=[[1],[],[2]])", "an (N, M) table with M at least 1"),
        ("recorded(durations=[[1],[2]])", "one value per worker (3), got 2"),
        ("markov(fast=1,slow=2,slows=1.5)", "slows must be in 0..1, got 1.5"),
        ("pareto(minimum=1,shape=0)", "shape must be above 0, got 0"),
        ("steps.csv", "the name of a file; give 'csv(\"steps.csv\")'"),
        ("csv(steps.csv)", "is not a literal value; a text needs quotes"),
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
