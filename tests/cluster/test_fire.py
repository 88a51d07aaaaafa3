"""scripts/chaos, shortly: it kills, what is killed comes back, and the run replays."""

import importlib.util
import json

import pytest

from scripts import ROOT


@pytest.mark.slow
def test_a_run_under_fire_is_measured_and_replays(tmp_path, monkeypatch):
    path = ROOT / "scripts" / "lib" / "chaos.py"
    spec = importlib.util.spec_from_file_location("chaos", path)
    chaos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chaos)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    status = chaos.main(
        [
            f"--out={tmp_path / 'out'}",
            *("--seconds=30", "--every=10", "--server_every=2", "--processes=3"),
            "--policy=quorum(k=2)",
            "--delays=shifted_exponential(shift=0.2,mean=0.05)",
        ]
    )
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert status == 0 and result["fire"]["replay_equal"]
    killed = [each["process"] for each in result["fire"]["faults"]]
    assert len(killed) >= 2 and 0 in killed and not result["calm"]["faults"]
    assert result["fire"]["departures"] >= 1
    assert 0.05 < result["ratio"] < 1.0
