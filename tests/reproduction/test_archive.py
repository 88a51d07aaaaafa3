"""Finished runs travel in one file, and are found again where they are unpacked."""

import dataclasses
import lzma

import pytest
from small_run import RUN

from abs_dssp.experiment.reproduction import archive
from abs_dssp.experiment.reproduction.runs import Runner, load

SAME = dataclasses.replace(RUN, policy="ssp(s=100)")  # one trace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    with Runner(out) as runner:
        found = runner.execute([RUN, SAME], "test")
    return out, found


def test_what_is_unpacked_is_what_was_packed(made, tmp_path):
    out, found = made
    assert archive.pack(out / "runs", tmp_path / "kept.xz") == 2
    assert archive.unpack(tmp_path / "kept.xz", tmp_path / "runs") == 2
    for run, outcome in found.items():
        kept = load(run, tmp_path)
        assert kept == dataclasses.replace(
            outcome, history=kept.history, rounds=kept.rounds
        )
        assert kept.history.records == outcome.history.records
        assert kept.rounds.records == outcome.rounds.records


def test_equal_trainings_are_packed_once_and_made_once(made, tmp_path):
    out, found = made
    archive.pack(out / "runs", tmp_path / "kept.xz")
    text = lzma.decompress((tmp_path / "kept.xz").read_bytes()).decode()
    assert text.count('"records"') == 1
    archive.unpack(tmp_path / "kept.xz", tmp_path / "runs")
    third = dataclasses.replace(RUN, policy="ssp(s=99)")
    with Runner(tmp_path) as runner:
        again = runner.execute([third], "test")[third]
    assert again.trained == found[RUN].trained
    assert len(list((tmp_path / "runs").glob("*.trained.json"))) == 1


def test_runs_that_are_there_stay(made, tmp_path):
    out, _ = made
    archive.pack(out / "runs", tmp_path / "kept.xz")
    (tmp_path / "runs").mkdir()
    own = tmp_path / "runs" / f"{RUN.key}.json"
    own.write_text("{}")
    archive.unpack(tmp_path / "kept.xz", tmp_path / "runs")
    assert own.read_text() == "{}"


@pytest.mark.parametrize("content", [b"", b"no archive", lzma.compress(b"{}")])
def test_another_file_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "kept.xz").write_bytes(content)
    with pytest.raises(ValueError, match=r"--kept: .*kept\.xz is no file of kept runs"):
        archive.unpack(tmp_path / "kept.xz", tmp_path / "runs")
    with pytest.raises(ValueError, match="--kept: cannot read"):
        archive.unpack(tmp_path / "missing.xz", tmp_path / "runs")
