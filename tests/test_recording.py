"""Step times that are written from a loop of one's own."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from abs_dssp import delays, record
from scripts import ROOT

# Writes its steps without end: of worker i the seconds i + n / 1000.
PROGRAM = """
import sys
from abs_dssp import record
path, worker = sys.argv[1], int(sys.argv[2])
limit = int(sys.argv[3])
with record.Recorder(path, worker) as steps:
    n = 0
    while limit < 0 or n < limit:
        steps.add(worker + n / 1000)
        n += 1
"""


def start(path, worker, limit):
    command = [sys.executable, "-c", PROGRAM, str(path), str(worker), str(limit)]
    return subprocess.Popen(command, cwd=ROOT)


def lines(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_processes_share_a_file_and_a_killed_one_leaves_whole_lines(tmp_path):
    path = tmp_path / "steps.csv"
    ended = [start(path, worker, 400) for worker in (0, 1)]
    killed = start(path, 2, -1)
    try:
        assert [process.wait(60) for process in ended] == [0, 0]
        end = time.monotonic() + 60
        while time.monotonic() < end:  # it is writing
            if path.read_text().count("\n2,") > 50:
                break
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    # A signal may come between two pages of a write, so the last line may be torn.
    text = path.read_text()
    path.write_text(text[: text.rindex("\n") + 1])
    header, *rows = lines(path)
    assert header == ["worker", "seconds", "step"]
    assert all(len(row) == 3 for row in rows)
    for worker in (0, 1, 2):
        mine = [row for row in rows if row[0] == str(worker)]
        assert [int(row[2]) for row in mine] == list(range(len(mine)))
        seconds = [float(row[1]) for row in mine]
        np.testing.assert_allclose(seconds, worker + np.arange(len(mine)) / 1000)
        assert len(mine) == 400 if worker < 2 else len(mine) > 50
    # Another process goes on where the killed one was.
    before = len([row for row in rows if row[0] == "2"])
    assert start(path, 2, 3).wait(60) == 0
    assert [int(row[2]) for row in lines(path)[-3:]] == [before + n for n in range(3)]
    assert delays.csv(path).num_workers == 3


@pytest.mark.parametrize("torn", ["1", "1,0.2", "1,0.25,1"])
def test_who_writes_next_cuts_off_what_a_killed_process_left(tmp_path, torn):
    path = tmp_path / "steps.csv"
    with record.Recorder(path, 0) as steps:
        steps.add(0.5)
        with open(path, "a") as other:
            other.write("1,0.25,0\n" + torn)
        steps.add(1.5)
    assert path.read_text() == "worker,seconds,step\n0,0.5,0\n1,0.25,0\n0,1.5,1\n"


def test_a_step_is_the_time_of_its_block(tmp_path):
    now = iter([10.0, 10.5, 20.0, 30.0, 31.0])
    path = tmp_path / "steps.csv"
    with record.Recorder(path, "a", clock=now.__next__) as steps:
        with steps.step():
            pass
        with pytest.raises(KeyError), steps.step():  # began at 20 and has no end
            raise KeyError
        with steps.step():
            pass
    assert path.read_text() == "worker,seconds,step\na,0.5,0\na,1,1\n"


def test_a_line_is_there_before_the_file_is_closed(tmp_path):
    path = tmp_path / "steps.csv"
    steps = record.Recorder(path, 0)
    steps.add(0.25)
    assert path.read_text() == "worker,seconds,step\n0,0.25,0\n"
    steps.close()
    steps.close()
    with pytest.raises(ValueError, match="is closed; add steps before"):
        steps.add(1.0)


def test_a_name_with_commas_and_quotes_is_one_column(tmp_path):
    path, name = tmp_path / "steps.csv", 'gpu 0, "rack, left"'
    for _ in range(2):
        with record.Recorder(path, name) as steps:
            steps.add(1.5)
    assert lines(path)[1:] == [[name, "1.5", "0"], [name, "1.5", "1"]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "worker,seconds,step\n7,2,0\n"),
        ("worker,seconds,step\n", "worker,seconds,step\n7,2,0\n"),
        ("worker,seconds,step\n7,1,4", "worker,seconds,step\n7,1,4\n7,2,5\n"),
        ("worker,seconds,step\n8,1,4\n", "worker,seconds,step\n8,1,4\n7,2,0\n"),
    ],
    ids=["empty", "header-alone", "last-line-not-ended", "another-worker"],
)
def test_a_file_that_exists_is_gone_on_with(tmp_path, before, after):
    path = tmp_path / "steps.csv"
    path.write_text(before)
    with record.Recorder(path, 7) as steps:
        steps.add(2)
    assert path.read_text() == after


def test_what_is_wrong_is_said_in_one_sentence(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("rank,loss\n0,1\n")
    with pytest.raises(ValueError, match="columns worker,seconds,step to go on"):
        record.Recorder(path, 0)
    assert path.read_text() == "rank,loss\n0,1\n"
    with pytest.raises(ValueError, match="a number or a name, got ' '"):
        record.Recorder(tmp_path / "new.csv", " ")
    assert not (tmp_path / "new.csv").exists()
    with pytest.raises(FileNotFoundError, match="nowhere/steps.csv"):
        record.Recorder(tmp_path / "nowhere" / "steps.csv", 0)
    with record.Recorder(tmp_path / "new.csv", 0) as steps:
        for seconds in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="of at least 0, got"):
                steps.add(seconds)
    assert (tmp_path / "new.csv").read_text() == "worker,seconds,step\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new.csv", "steps.csv"]


def test_a_line_that_has_no_room_is_an_error(tmp_path, monkeypatch):
    with record.Recorder(tmp_path / "steps.csv", 0) as steps:
        monkeypatch.setattr(os, "write", lambda file, line: len(line) - 1)
        with pytest.raises(OSError, match="no room for another line of"):
            steps.add(1.0)


def test_it_imports_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import abs_dssp.record\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert new - set(sys.stdlib_module_names) == {'abs_dssp'}, new\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
