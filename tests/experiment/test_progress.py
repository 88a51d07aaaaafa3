"""Progress where there is no terminal, and on one."""

import io
import re
import sys

from abs_dssp.experiment import progress


def test_a_line_says_how_much_is_left(capsys, monkeypatch):
    now = iter([0.0, 4.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    shown = progress.Progress("demo", "runs", every=10.0)
    shown.update(1, 10)  # too early for a line
    shown.update(5, 10, "accuracy 0.9")
    shown.close()
    # 4 in 16 s, so the other 5 take 20 s more.
    expected = "demo: 5/10 runs, 0.25/s, 20 s left; accuracy 0.9\n"
    assert capsys.readouterr().err == expected


def test_what_comes_before_the_first_piece_is_not_in_the_rate(capsys, monkeypatch):
    now = iter([0.0, 100.0, 120.0])  # a program is compiled for most of 100 s
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    shown = progress.Progress("demo", "runs", every=10.0)
    shown.update(1, 10)
    shown.update(3, 10)
    assert capsys.readouterr().err.splitlines() == [
        "demo: 1/10 runs",
        "demo: 3/10 runs, 0.1/s, 70 s left",
    ]


def test_nor_is_it_in_that_of_the_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = progress.Progress("demo", "runs")
    shown._bar._time = lambda: now
    shown._bar.start_t, now = 0.0, 100.0
    shown.update(1, 10)
    now = 120.0
    shown.update(3, 10)
    shown.close()
    last = re.findall(r"3/10 \[(\S+)<(\S+), ", stream.getvalue())[-1]
    assert last == ("00:20", "01:10")


def test_of_a_run_that_ends_at_a_time_what_is_left_is_until_then(capsys, monkeypatch):
    now = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    shown = progress.PushProgress("demo", until=6.0)
    shown(0, 1000, {})
    shown(20, 1000, {"push": 15, "seconds": 3.0})  # 5 pushes per virtual second
    assert capsys.readouterr().err == "demo: 20/30 pushes, 1/s, 10 s left\n"
