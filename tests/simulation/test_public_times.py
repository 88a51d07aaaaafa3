"""Published worker times: read where they are, refused where they differ."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from abs_dssp import delays
from abs_dssp.simulation import public_times

FOLDER = Path(__file__).parents[3] / "shared/data/traces"


def published(name):
    """The job's path, where this machine has it and can read it."""
    path = FOLDER / public_times.JOBS[name].path
    if not path.exists():
        pytest.skip(f"The published times are not at {path}.")
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    return path


# Slowest over fastest mean of a worker, and its range of coefficients of variation: as
# they were measured before there was this reader.
ALIBABA = {
    "alibaba-job1": (1.12, 0.03, 0.14),
    "alibaba-job2": (1.32, 0.01, 0.02),
    "alibaba-job3": (1.12, 0.02, 0.10),
    "alibaba-job4": (5.4, 0.08, 0.74),
}


@pytest.mark.parametrize("name", ALIBABA)
def test_alibabas_jobs_are_those_that_were_described(name):
    path = published(name)
    found = public_times.read(name, FOLDER)
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    for worker, times in enumerate(found):
        mine = [(int(x[3]), float(x[4])) for x in lines if x[1] == str(worker)]
        assert times.tolist() == [t for _, t in sorted(mine, key=lambda x: x[0])]
    assert len(found) == 10 and sum(map(len, found)) == len(lines)
    ratio, least, most = ALIBABA[name]
    means = [times.mean() for times in found]
    assert max(means) / min(means) == pytest.approx(ratio, abs=0.05)
    varies = [times.std() / times.mean() for times in found]
    assert min(varies) == pytest.approx(least, abs=0.006)
    assert max(varies) == pytest.approx(most, abs=0.006)


@pytest.mark.parametrize(
    ("name", "ranks"), [("bytedance-ar", 4), ("bytedance-se", 32), ("bytedance-st", 2)]
)
def test_bytedances_ranks_compute_what_their_operations_take(name, ranks):
    from pyarrow import parquet

    rows = parquet.read_table(published(name)).to_pylist()
    found = public_times.read(name, FOLDER)
    steps = sorted({row["step"] for row in rows})
    assert len(found) == ranks and all(len(times) == len(steps) for times in found)
    for rank, number in ((0, 0), (ranks - 1, len(steps) - 1)):
        stages: dict[int, float] = {}
        for row in rows:
            if (row["dp_rank"], row["step"]) == (rank, steps[number]):
                if row["optype"] in ("forward-compute", "backward-compute"):
                    before = stages.get(row["stage"], 0.0)
                    stages[row["stage"]] = before + row["duration"]
        assert found[rank][number] == pytest.approx(max(stages.values()), rel=1e-12)
    if name == "bytedance-ar":  # one of four ranks needs 45 s, the others 20
        np.testing.assert_allclose([t.mean() for t in found], [45, 20, 20, 20], 0.02)


def test_the_times_are_taken_in_order_for_any_number_of_workers():
    published("alibaba-job2")
    times = public_times.read("alibaba-job2", FOLDER)
    model = public_times.replayed("alibaba-job2", FOLDER, mean=2.0, num_workers=12)
    factor = 2 / np.concatenate(times).mean()
    found = delays.table(model, 3)
    assert found.shape == (12, 3)
    np.testing.assert_allclose(found[9], factor * times[9][:3], rtol=1e-12)
    half = len(times[1]) // 2  # workers 10 and 11 begin there
    np.testing.assert_allclose(found[11], factor * times[1][half : half + 3])


def test_a_file_that_is_missing_or_differs_is_said_to_be(tmp_path):
    with pytest.raises(ValueError, match="unknown times 'job1'; known: alibaba-job1, "):
        public_times.read("job1", tmp_path)
    origin = "github.com/alibaba/clusterdata, cluster-trace-gpu-v2020/mini-batch-time"
    with pytest.raises(ValueError, match="No such file") as error:
        public_times.read("alibaba-job1", tmp_path)
    assert f"it is from {origin} (CC BY 4.0)." in str(error.value)
    path = tmp_path / "straggler_analysis/trace-ST.parquet"
    path.parent.mkdir()
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the file that was published") as error:
        public_times.read("bytedance-st", tmp_path)
    assert hashlib.sha256(b"other").hexdigest()[:8] in str(error.value)
    assert "ByteDance-Seed/StragglerAnalysis (Apache-2.0)." in str(error.value)


def test_without_a_reader_of_parquet_it_says_what_to_install(monkeypatch):
    published("bytedance-st")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=re.escape("pip install pyarrow")):
        public_times.read("bytedance-st", FOLDER)
