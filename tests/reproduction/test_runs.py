"""Runs that are kept: by their settings, across interruptions, and by their traces."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_run import RUN

from abs_dssp import delays, optimizers, policies, simulate, tasks
from abs_dssp.experiment import statistics
from abs_dssp.experiment.reproduction import runs, scales, study
from abs_dssp.experiment.reproduction.runs import Runner, load
from abs_dssp.report import document
from abs_dssp.training.evaluation import History


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made(out):
    with Runner(out) as runner:
        return runner.execute([RUN], "test")[RUN]


def test_a_run_is_what_simulate_trains(made):
    task = tasks.digits(
        2, model="mlp(hidden=[8])", batch_size=16, limit_train=320, limit_test=50
    )
    result = simulate.train(
        task,
        policies.asp(2),
        delays.constant([1.0, 1.5]),
        optimizers.sgd(0.1),
        until_epochs=1,
        eval_every_seconds=10.0,
    )
    for name in ("accuracy", "seconds", "version", "epoch"):
        np.testing.assert_allclose(
            made.history.column(name), result.history.column(name), rtol=1e-5
        )
    assert made.measures["pushes"] == 20


def test_a_finished_run_is_not_made_again(out, made):
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").iterdir()}
    with Runner(out) as runner:
        again = runner.execute([RUN, RUN], "test")[RUN]
    assert again.history.records == made.history.records
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 0.05},
        {"policy": "bsp()"},
        {"drops": (0.5,)},
        {"validation": 40},
        {"limit_train": 319},
        {"delays": "constant(seconds=1.0)"},
    ],
    ids=str,
)
def test_whatever_decides_a_result_is_in_its_key(change):
    assert dataclasses.replace(RUN, **change).key != RUN.key


def test_equal_traces_are_trained_once(out, made):
    """SSP whose threshold never acts is ASP, and takes its result."""
    loose = dataclasses.replace(RUN, policy="ssp(s=100)")
    tight = dataclasses.replace(RUN, policy="ssp(s=0)")
    with Runner(out) as runner:
        found = runner.execute([loose, tight], "test")
    assert found[loose].trained == made.trained
    assert found[loose].history.records == made.history.records
    assert found[tight].trained != made.trained


def test_a_damaged_run_is_made_again(out, made):
    path = out / "runs" / f"{RUN.key}.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    assert load(RUN, out) is None
    with Runner(out) as runner:
        again = runner.execute([RUN], "test")[RUN]
    assert again.history.records == made.history.records
    assert json.loads(path.read_text())["run"]["policy"] == "asp()"


def test_time_ends_a_run_without_epochs(out):
    run = dataclasses.replace(RUN, epochs=None, until_seconds=20.0)
    with Runner(out) as runner:
        outcome = runner.execute([run], "test")[run]
    assert 18 < outcome.history.last("seconds") <= 20
    assert outcome.measures["pushes"] == 20 + 13  # every second, every 1.5 seconds


def test_early_commits_are_evaluated_beside_regular_times(out, made):
    run = dataclasses.replace(RUN, eval_commits=(1, 2, 5))
    with Runner(out) as runner:
        outcome = runner.execute([run], "test")[run]
    assert outcome.history.records == made.history.records
    early = outcome.rounds.column("version").tolist()
    assert early[:4] == [0, 1, 2, 5] and early == sorted(early)
    assert len(early) == len(made.history.records) + 3


def test_messages_count_the_downloads_of_cancelled_computations(out):
    """With tau_max = 0 each commit of the fast worker restarts the slow one."""
    run = dataclasses.replace(
        RUN, policy="abs(k0=1,a=None,tau_max=0)", epochs=None, until_seconds=20.0
    )
    with Runner(out) as runner:
        outcome = runner.execute([run], "test")[run]
    # A push a second, its pull, and a pull of the slow worker, which never ends.
    assert outcome.measures["pushes"] == outcome.measures["restarts"] == 20
    seconds = outcome.history.column("seconds")
    np.testing.assert_allclose(outcome.history.column("messages"), 3 * seconds)


def test_recorded_times_are_found_beside_the_package_or_the_data(tmp_path):
    (tmp_path / "steps.csv").write_text("worker,seconds\n0,1\n1,2\n")
    own = dataclasses.replace(RUN, delays='csv("steps.csv")')
    there = runs.located(own, str(tmp_path))
    assert there.delays == f'csv("{tmp_path}/steps.csv")'
    assert delays.table(there.make_delays(), 1).tolist() == [[1.0], [2.0]]
    shipped = dataclasses.replace(RUN, delays='csv("busy_machine.csv",mean=1.0)')
    assert runs.located(shipped, None).make_delays().num_workers == 2
    assert runs.located(RUN, None) == RUN
    with pytest.raises(ValueError, match=r"--data_dir: there is no steps\.csv in None"):
        runs.located(own, None)


def test_a_longer_run_has_its_drops_at_the_same_shares():
    run = dataclasses.replace(RUN, epochs=6.0, drops=(4.0, 5.0))
    longer = study.lengthened(run, 3.0)
    assert (longer.epochs, longer.drops) == (18.0, (12.0, 15.0))


def test_a_run_that_diverges_counts_as_nothing(out):
    run = dataclasses.replace(RUN, learning_rate=1e30)
    with Runner(out) as runner:
        outcome = runner.execute([run], "test")[run]
    assert "loss is" in outcome.stopped
    assert outcome.final == 0.0
    assert study.mean_accuracy(outcome) == 0.0


def test_tuning_takes_the_best_of_the_grid_on_samples_that_are_not_trained_on(out):
    problem = scales.Problem("mlp", (1e-6, 0.1), validation=60)
    context = study.Context(scales.SMOKE, out, Runner(out))
    run = dataclasses.replace(RUN, limit_train=None, limit_test=20)
    chosen, table = context.tune({"ASP": run, "none": run}, problem, "test")
    assert chosen == {"ASP": 0.1, "none": 0.1}
    assert [row[0] for row in table.rows] == ["ASP", "none"]
    records = [json.loads(p.read_text())["run"] for p in (out / "runs").glob("*.json")]
    tuned = [r for r in records if r["validation"] == 60]
    assert tuned and all(r["seed"] == 1000 and r["limit_test"] is None for r in tuned)


def test_times_are_means_only_where_every_seed_got_there():
    assert statistics.mean_time([1.0, 3.0]) == 2.0
    assert statistics.mean_time([1.0, None]) is None
    assert statistics.time_text([1.0, 3.0, None]) == "2 ± 1 (2/3)"
    assert statistics.time_text([1.0, 3.0, None], unit="s") == "2 ± 1 s (2/3)"
    assert statistics.time_text([None], unit="s") == "never"


def test_every_scale_has_every_problem():
    for name, scale in scales.SCALES.items():
        assert scale.name == name
        assert set(scale.problems) == set(scales.SMOKE.problems)
        for which, problem in scale.problems.items():
            assert (problem.epochs is None) == (which == "abs")
            assert problem.targets and problem.describe()
        assert len(scale.problems["table1"].targets) == 2


def _outcome(reaches, last):
    """A run whose accuracy rises to 1 after so many rounds, or stays at 0."""
    ends = reaches or last
    records = tuple(
        {"version": v, "accuracy": float(reaches is not None and v >= ends)}
        for v in np.linspace(0, last, 101).tolist()
    )
    history = History(records, np.empty(0))
    return runs.Outcome(history, history, "end", {}, 0.0, "")


@pytest.mark.parametrize(
    ("mine", "rival", "seeds", "sign"),
    [
        pytest.param((20, 100), (60, 100), 1, 1, id="both"),
        pytest.param((20, 100), (None, 100), 1, 1, id="rival-never"),
        pytest.param((None, 100), (60, 100), 1, -1, id="mine-never"),
        # It ended after 4 rounds: whether it would have taken less than 20, who knows?
        pytest.param((20, 100), (None, 4), 0, 0, id="rival-never-and-short"),
        pytest.param((None, 4), (60, 100), 0, 0, id="mine-never-and-short"),
        pytest.param((None, 100), (None, 90), 0, 0, id="neither"),
    ],
)
def test_a_run_that_ends_too_early_says_nothing(mine, rival, seeds, sign):
    found = study.sooner([_outcome(*mine)], [_outcome(*rival)], 0.9, "version")
    assert found.seeds == seeds
    assert not seeds or np.sign(found.effect) == sign


def test_the_peak_is_of_the_smoothed_curve():
    accuracy = [0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]  # one lucky evaluation
    records = tuple(
        {"version": float(v), "accuracy": a} for v, a in enumerate(accuracy)
    )
    history = History(records, np.empty(0))
    made = runs.Outcome(history, history, "end", {}, 0.0, "")
    assert made.peak == pytest.approx((4 * 0.1 + 0.9) / 5)
    assert dataclasses.replace(made, stopped="loss is nan").peak == 0


def test_an_unknown_verdict_is_refused():
    with pytest.raises(ValueError, match="maybe"):
        document.Claim("a", "b", "c", "maybe")


_ENDLESS = """
import dataclasses, sys
from pathlib import Path
from abs_dssp.experiment.reproduction.runs import Runner
from small_run import RUN

if __name__ == "__main__":
    run = dataclasses.replace(RUN, epochs=100_000)
    with Runner(Path(sys.argv[1]), processes=2) as runner:
        runner.execute([run, dataclasses.replace(run, seed=1)], "endless")
"""


def test_processes_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], env=environment, stderr=subprocess.DEVNULL
    )
    listing = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    if not listing.exists():
        parent.kill()
        pytest.skip("needs /proc, to see a process's children")

    def wait_until(holds):
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end and parent.poll() in (None, -9)
            time.sleep(0.1)

    # Two that make runs, and one that multiprocessing needs beside them.
    wait_until(lambda: len(listing.read_text().split()) >= 3)
    made = listing.read_text().split()
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in made))
