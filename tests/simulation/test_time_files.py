"""Tables of step times as programs and spreadsheets write them."""

import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from abs_dssp import delays, record
from abs_dssp.simulation import time_files
from abs_dssp.simulation.time_files import Columns


def read(tmp_path, content, columns=None):
    path = tmp_path / "steps.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = time_files.by_worker(path, columns or Columns())
    return [times.tolist() for times in found]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("worker,seconds,step\n0,3,2\n0,1,0\n0,2,1\n", [[1, 2, 3]]),
        ("worker,seconds,step\n0,3,10\n0,1,9\n", [[1, 3]]),  # as numbers, not as text
        ("worker,seconds,step\n0,3,1\n1,5,0\n0,1,1\n", [[3, 1], [5]]),  # as they stand
        ("worker,seconds\n0,3\n0,1\n", [[3, 1]]),
        ("Worker,Seconds,Step\n0,3,1\n0,1,0\n", [[1, 3]]),
        (",worker,seconds\n0,7,2.5\n1,7,0.5\n", [[2.5, 0.5]]),  # with an index
        ("\ufeffworker;seconds\r\n1;0,25\r\n0;1e-3\r\n", [[0.001], [0.25]]),
        ("worker\tseconds\na\t1\nb\t2\n", [[1], [2]]),
        ("worker | seconds\n0 | 1\n", [[1]]),
        ('"worker","seconds"\n"gpu 0, left", "1"\n', [[1]]),
        ("worker,seconds\n0,1\n\nworker,seconds\n1,2\n,\n", [[1], [2]]),
        ("worker,seconds,step\n0,1,0\n0,2", [[1]]),  # the writer was killed
        ("worker,seconds,step\n0,1,0\n0,2,1", [[1, 2]]),
        ("worker,seconds\n0,1,surplus\n", [[1]]),
    ],
)
def test_a_table_is_read_as_it_was_meant(tmp_path, content, expected):
    assert read(tmp_path, content) == expected


def test_the_order_of_lines_can_be_asked_for(tmp_path):
    content = "worker,seconds,step,epoch\n0,3,2,1\n0,1,0,2\n"
    assert read(tmp_path, content, Columns(step=None)) == [[3, 1]]
    assert read(tmp_path, content, Columns(step="epoch")) == [[3, 1]]
    assert read(tmp_path, content) == [[1, 3]]
    model = delays.csv(tmp_path / "steps.csv", step=None)
    assert model.spec.endswith(",step=None)")
    again = delays.parse(model.spec, 1)
    assert delays.table(again, 2).tolist() == [[3, 1]]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1e6)), min_size=1, max_size=20
    ),
    order=st.randoms(use_true_random=False),
)
def test_lines_in_any_order_give_what_was_recorded(tmp_path_factory, steps, order):
    path = tmp_path_factory.mktemp("csv") / "steps.csv"
    for worker in range(3):
        with record.Recorder(path, worker) as recorder:
            for mine, seconds in steps:
                if mine == worker:
                    recorder.add(seconds)
    header, *lines = path.read_text().splitlines()
    order.shuffle(lines)
    path.write_text("\n".join([header, *lines]))
    expected = [[s for mine, s in steps if mine == worker] for worker in range(3)]
    found = time_files.by_worker(path)
    for times, mine in zip(found, filter(None, expected), strict=True):
        np.testing.assert_allclose(times, mine, rtol=1e-8)


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("worker,seconds,step\n0,1,x\n", {}, "line 2 of {}: its step must be a number"),
        ("worker,seconds,step\n0,1,\n", {}, "got ''; mend the line, or take all lines"),
        (
            "worker,seconds,step\n0,1\n0,1,1\n",
            {},
            "its step must be a number, got None",
        ),
        ("worker,seconds\n0,1\n", {"step": "number"}, "column 'number', got 'worker'"),
        (
            "worker,seconds\n0,1,5\n0,1;5\n",
            {},
            "line 3 of {}: seconds must be a finite",
        ),
        ("WORKER,Worker,seconds\n0,0,1\n", {}, "must have a column 'worker', got 'WO"),
        ("worker,seconds\n0,1\n0,x\n0", {}, "line 3 of {}: seconds must be a finite"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, content, columns, message):
    with pytest.raises(ValueError) as error:
        read(tmp_path, content, Columns(**columns))
    path = repr(str(tmp_path / "steps.csv"))
    assert message.replace("{}", path) in str(error.value)


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


def test_a_parquet_file_is_read_by_the_same_function(tmp_path):
    path = tmp_path / "steps.any"
    write_parquet(path, worker=[1, 0, 1], seconds=[0.5, 3.0, 2.0], step=[2, 1, 1])
    assert delays.table(delays.csv(path), 2).tolist() == [[3, 3], [2, 0.5]]
    write_parquet(path, Rank=["b", "a", "b"], t=[1, 2, 3], more=[None, None, None])
    model = delays.parse(f"csv({str(path)!r},worker='rank',seconds='t')", 2)
    assert delays.table(model, 2).tolist() == [[2, 2], [1, 3]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rank": [0], "seconds": [1.0]}, "must have a column 'worker', got 'rank'"),
        (
            {"worker": [0, 1], "seconds": [1, None]},
            "row 2 of {}: seconds must be a fin",
        ),
        ({"worker": [None], "seconds": [1.0]}, "row 1 of {} must name a worker"),
    ],
)
def test_a_wrong_parquet_file_is_refused(tmp_path, columns, message):
    path = tmp_path / "steps.parquet"
    write_parquet(path, **columns)
    with pytest.raises(ValueError) as error:
        delays.csv(path)
    assert message.replace("{}", repr(str(path))) in str(error.value)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="must be that of a CSV or Parquet file, got"):
        read(tmp_path, b"PAR1 and nothing that belongs there")


def test_without_a_reader_of_parquet_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match="which pyarrow reads: pip install pyarrow, or"
    ):
        read(tmp_path, b"PAR1....")
