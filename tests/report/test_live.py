"""What a running cluster shows of itself."""

import io
import re
import struct
import sys
import threading
import urllib.error
import urllib.request

import pytest

from abs_dssp.cluster.status import Status, WorkerStatus, waits_for
from abs_dssp.report import live, metrics, scalars


def worker(index, **changes):
    fields = dict(
        index=index,
        process=f"process {index}, pid 47{index}",
        transport="shm",
        policy_clock=9,
        clock=10,
        state="computing",
        since=2.0,
        pulled=7,
        staleness=1,
        mean_staleness=0.5,
        waiting_share=0.25,
        restarts=3,
        refused=0,
    )
    return WorkerStatus(**(fields | changes))


def status(**changes):
    fields = dict(
        policy="ssp(s=3)",
        seconds=12.0,
        pushes=300,
        total=2000,
        version=290,
        pushes_per_second=25.0,
        epoch=1.5,
        measures={"accuracy": 0.9125},
        train_loss=0.5,
        bytes_received=10,
        bytes_sent=20,
        recoveries=1,
        messages_refused=2,
        workers=(
            worker(0, state="waiting", since=31.0),
            worker(1, clock=5, policy_clock=6, since=45.0, waiting_share=0.75),
        ),
    )
    return Status(**(fields | changes))


def test_a_line_has_what_matters():
    line = live.plain_line(status())
    # 1700 pushes at 25/s take 68 s; the waiting shares are 0.25 and 0.75.
    parts = [
        "12.0 s",
        "300/2000 pushes (25.0/s, 68 s left)",
        "version 290",
        "accuracy 0.9125",
        "waiting 50%",
        "slowest worker 1 at clock 6",
    ]
    for part in parts:
        assert part in line
    endless = status(total=None, pushes_per_second=0.0)
    assert "left" not in live.plain_line(endless)


def test_who_waits_for_whom():
    assert waits_for(status(), 60.0) == (
        "no push for 31 s: worker 0 waits; worker 1 (process 1, pid 471) has been "
        "computing for 45 s"
    )
    stuck = status(
        workers=(
            worker(0, state="waiting", since=31.0),
            worker(1, state="waiting", since=40.0),
            worker(2, state="absent", since=5.0),
            worker(3, state="left", since=1.0),
        )
    )
    assert waits_for(stuck, 60.0) == (
        "no push for 31 s: workers 0, 1 wait; worker 2 (process 2, pid 472) has been "
        "absent for 5 s; nobody computes, which ends the run after 60 s"
    )


def test_lines_come_now_and_then_and_a_closed_stream_is_no_error():
    stream = io.StringIO()
    shown = live.Live(stream, every=0.0)
    shown.show(status())
    shown.say("hello")
    assert stream.getvalue().splitlines() == [live.plain_line(status()), "hello"]
    quiet = io.StringIO()
    live.Live(quiet, every=60.0).show(status())
    assert quiet.getvalue() == ""
    stream.close()
    shown.show(status())
    shown.say("gone")
    shown.close()


class Terminal(io.StringIO):
    gone = False

    def isatty(self):
        return True

    def write(self, text):
        if self.gone:
            raise BrokenPipeError
        return super().write(text)


def test_the_table_names_every_worker():
    stream = Terminal()
    shown = live.Live(stream)
    shown.show(status(workers=tuple(worker(i) for i in range(30))))
    shown.close()
    text = stream.getvalue()
    assert "and 6 more workers" in text and "ssp(s=3)" in text


@pytest.mark.parametrize("width", [50, 66, 80, 100, 140])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_words(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Terminal()
    shown = live.Live(stream)
    shown.show(status())
    shown.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())  # no colours
    assert "…" not in text and "computing" in text and "staleness" in text
    assert ("where" in text) == (width == 140)
    assert max(map(len, text.replace("\r", "\n").split("\n"))) <= width


def test_names_in_brackets_are_shown_as_they_are():
    stream = Terminal()
    shown = live.Live(stream)
    shown.show(status(policy="mine(at=[/x])", workers=(worker(0, process="[red]"),)))
    shown.close()
    assert "mine(at=[/x])" in stream.getvalue()


def test_a_terminal_that_goes_away_ends_nothing(capfd):
    stream = Terminal()
    outputs = sys.stdout, sys.stderr
    shown = live.Live(stream)
    shown.show(status())
    stream.gone = True
    shown.show(status())
    shown.say("gone")
    shown.close()
    assert (sys.stdout, sys.stderr) == outputs
    print("standard output is still there")
    assert "still there" in capfd.readouterr().out


def test_results_on_standard_output_do_not_go_to_the_terminal(monkeypatch):
    # As in `train.py > results`: standard output is a file, standard error is not.
    results = io.StringIO()
    monkeypatch.setattr(sys, "stdout", results)
    stream = Terminal()
    shown = live.Live(stream)
    print("a result")
    shown.close()
    assert results.getvalue() == "a result\n"


def test_a_missing_odd_or_closed_stream_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", None)
    for stream in (None, closed):
        shown = live.Live(stream, every=0.0)
        shown.show(status())
        shown.say("nobody hears this")
        shown.close()


def fetch(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as page:
        return page.read().decode()


def test_metrics_are_served_on_loopback_and_end_with_their_thread():
    threads = threading.active_count()
    served = metrics.MetricsServer(0)
    try:
        served.update(status())
        lines = fetch(served.port).splitlines()
        for line in (
            "abs_dssp_pushes_total 300.0",
            "abs_dssp_commits_total 290.0",
            'abs_dssp_worker_clock{worker="1"} 5.0',
            'abs_dssp_worker_state{state="waiting",worker="0"} 1.0',
            'abs_dssp_worker_state{state="computing",worker="0"} 0.0',
            'abs_dssp_evaluation{measure="accuracy"} 0.9125',
        ):
            assert line in lines
        served.update(status(pushes=301))
        assert "abs_dssp_pushes_total 301.0" in fetch(served.port)
        with pytest.raises(ValueError, match="choose another --metrics_port"):
            metrics.MetricsServer(served.port)
        assert served._server.server_address[0] == "127.0.0.1"
    finally:
        served.close()
    assert threading.active_count() == threads
    with pytest.raises(urllib.error.URLError):
        fetch(served.port)


def points(folder):
    """Scalars of all event files: TFRecord framing around Event messages."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.iterdir():
        data = path.read_bytes()
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def test_scalars_can_be_read_back(tmp_path):
    written = scalars.Scalars(tmp_path)
    written.write(status())
    written.write(status(version=291))  # the same evaluation: not written again
    written.close()
    found = points(tmp_path)
    assert ("run/pushes_per_second", 290, 25.0) in found
    assert ("clock/worker1", 291, 5.0) in found
    evaluations = [p for p in found if p[0] == "evaluation/accuracy"]
    assert [step for _, step, _ in evaluations] == [290]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    written = scalars.Scalars(blocked / "sub")
    written.write(status())
    written.close()
    assert sum("no TensorBoard scalars" in r.message for r in caplog.records) == 1
