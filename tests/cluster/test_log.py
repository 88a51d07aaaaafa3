"""The log on a disk that is damaged, shared or cut short."""

import subprocess
import sys

import pytest

from abs_dssp.cluster import log
from abs_dssp.history.events import Entry, Event

HEADER = {"num_workers": 2, "run": {"seed": 1}}


def entry(number: int) -> Entry:
    event = Event("push", number % 2, float(number), 0.5, 0.25)
    return Entry(event, number, number, 1.0, True, (number % 2,), ())


@pytest.fixture
def written(tmp_path):
    """A log of five entries, closed."""
    made = log.Log(tmp_path, HEADER)
    for number in range(5):
        made.append([entry(number)])
    made.close()
    return tmp_path / log.NAME


def size(data: bytes) -> int:
    return (len(data) - data.index(b"\n") - 1) // 5


@pytest.mark.often(2)
@pytest.mark.parametrize("record", range(5))
def test_a_flipped_bit_is_named_with_its_record_and_its_remedy(written, record):
    """The last record too: somebody was told of it."""
    data = bytearray(written.read_bytes())
    data[len(data) - (5 - record) * size(data) + 7] ^= 4
    written.write_bytes(data)
    with pytest.raises(
        log.LogError, match=f"damaged at record {record + 1} of 5.*--cut"
    ):
        log.Log(written.parent, HEADER)
    assert written.read_bytes() == data
    command = [sys.executable, "-m", "abs_dssp.cluster.log", str(written.parent)]
    looked = subprocess.run(command, capture_output=True, text=True)
    assert looked.returncode == 1 and f"record {record + 1}" in looked.stderr
    assert "Traceback" not in looked.stderr
    assert f"kept {record} records" in log.cut(written.parent)
    kept = written.with_suffix(".cut").read_bytes()
    assert written.read_bytes() + kept == data
    again = log.Log(written.parent, HEADER)
    assert again.entries == [entry(number) for number in range(record)]
    again.append([entry(9)])
    again.close()
    assert log.read(written)[1][-1] == entry(9)


def test_a_tail_of_zeros_is_named_with_its_remedy(written):
    data = written.read_bytes()
    written.write_bytes(data + bytes(3 * size(data)))
    with pytest.raises(log.LogError, match="record 6 of 8.*--cut"):
        log.read(written)
    assert "kept 5 records" in log.cut(written.parent)
    assert len(log.read(written)[1]) == 5


def test_what_a_crash_cut_short_is_dropped(written):
    data = written.read_bytes()
    for missing in range(1, size(data)):
        written.write_bytes(data[:-missing])
        again = log.Log(written.parent, HEADER)
        assert len(again.entries) == 4
        again.append([entry(4)])
        again.close()
        assert written.read_bytes() == data


def test_a_header_that_a_crash_cut_short_is_written_again(written):
    header = written.read_bytes().split(b"\n")[0]
    for length in range(len(header) + 1):
        written.write_bytes(header[:length])
        log.Log(written.parent, HEADER).close()
        assert written.read_bytes() == header + b"\n"


def test_two_processes_do_not_write_to_one_log(tmp_path):
    first = log.Log(tmp_path, HEADER)
    first.append([entry(0)])
    before = first.path.read_bytes()
    with pytest.raises(log.LogError, match="another process writes.*another --out"):
        log.Log(tmp_path, HEADER)
    assert first.path.read_bytes() == before
    first.close()
    log.Log(tmp_path, HEADER).close()


def test_a_failed_write_leaves_whole_records(tmp_path):
    made = log.Log(tmp_path, HEADER)
    made.append([entry(0)])
    before = made.path.read_bytes()

    class Full:
        """`os` whose disk has room for three bytes more."""

        def __getattr__(self, name):
            return getattr(log.os, name)

        left = 3

        def write(self, descriptor, data):
            self.left, length = 0, self.left
            if not length:
                raise OSError(28, "No space left on device")
            return log.os.write(descriptor, data[:length])

    made._os = Full()
    with pytest.raises(log.LogError, match="No space left on device; make room"):
        made.append([entry(1)])
    assert made.path.read_bytes() == before
