"""TensorBoard scalars where the disk fails."""

import contextlib
import os
import resource
import signal
import threading

from test_live import points, status

from abs_dssp.report import scalars


@contextlib.contextmanager
def small_disk():
    """Files end at 600 bytes: writing on is an OSError, as on a full disk.

    Not a fixture: pytest writes its own output before one ends.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_costs_one_warning_and_blocks_nobody(tmp_path, caplog):
    written = scalars.Scalars(tmp_path)
    written.write(status())

    def write():
        for version in range(300, 500):
            written.write(status(version=version))
        written.close()

    writer = threading.Thread(target=write, daemon=True)
    with small_disk():
        writer.start()
        writer.join(20)
    assert not writer.is_alive()
    assert sum("no TensorBoard scalars" in r.message for r in caplog.records) == 1


def test_nothing_is_left_behind(tmp_path):
    threads = set(threading.enumerate())
    written = scalars.Scalars(tmp_path)
    written.write(status())
    written.close()
    written.write(status(version=300))  # a late call is no error
    written.close()
    assert set(threading.enumerate()) <= threads
    assert {step for _, step, _ in points(tmp_path)} == {290}


def test_a_restart_in_the_same_folder_keeps_what_was_written(tmp_path, monkeypatch):
    for process in (1, 2):  # within one second
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        written = scalars.Scalars(tmp_path)
        written.write(status(version=process))
        written.close()
    steps = {step for tag, step, _ in points(tmp_path) if tag == "run/epoch"}
    assert steps == {1, 2}


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    written = scalars.Scalars(tmp_path)
    written.write(status(train_loss=float("nan")))
    written.close()
    tags = {tag for tag, _, _ in points(tmp_path)}
    assert "run/train_loss" not in tags and "run/epoch" in tags
