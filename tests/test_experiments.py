"""The experiments as a user runs them: in a process of their own."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from abs_dssp import traces
from abs_dssp.report import summary
from scripts import ROOT, run, start_many

COMPARE = ROOT / "experiments" / "compare.py"
SMALL = ["--epochs=1", "--evaluations=4", "--limit_train=320", "--seeds=1"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    arguments = [
        "--policy=bsp()",
        "--policy=ssp(s=2)",
        "--policy=adasync(k0=1,interval=1)",
        "--policy=local_sgd(); local_steps=2",
        f"--out={out}",
        *SMALL,
    ]
    return out, arguments, run("compare.py", *arguments)


def test_compare_writes_everything_it_promises(compared):
    out, _, (code, printed, errors) = compared
    assert code == 0, errors
    entries = json.loads((out / "summary.json").read_text())
    assert [e["policy"] for e in entries] == [
        "bsp()",
        "ssp(s=2)",
        "adasync(k0=1,interval=1)",
        "local_sgd(); local_steps=2",
    ]
    assert all(set(summary.FIELDS) < set(e) for e in entries)
    assert entries[0]["max_staleness"] == 0 and entries[1]["max_staleness"] > 0
    assert entries[3]["commits"] < entries[0]["commits"]
    with open(out / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert {r["policy"] for r in rows} == {e["policy"] for e in entries}
    finals = [float(r["accuracy"]) for r in rows if r["policy"] == "ssp(s=2)"]
    assert finals[-1] == entries[1]["final_accuracy"]
    with open(out / "results.csv") as file:
        results = list(csv.DictReader(file))
    assert [r["policy"] for r in results] == [e["policy"] for e in entries]
    for row, entry in zip(results, entries, strict=True):
        assert float(row["final_accuracy"]) == entry["final_accuracy"]
    for name in ("accuracy_time", "accuracy_rounds", "staleness", "timeline"):
        assert (out / f"{name}.png").stat().st_size > 5000
    found = [traces.Trace.load(p) for p in sorted(out.glob("runs/*/trace.npz"))]
    assert {t.local_steps for t in found} == {1, 2} and len(found) == 4
    assert "s to target" in printed and "waiting" in printed
    assert not list(out.rglob("*.partial"))


def test_compare_keeps_what_is_finished(compared):
    out, arguments, _ = compared
    before = (out / "summary.json").read_bytes()
    code, printed, _ = run("compare.py", *arguments)
    assert code == 0 and printed.count("kept from before") == 4
    assert (out / "summary.json").read_bytes() == before


def test_compare_refuses_a_folder_of_other_settings(compared):
    out, arguments, _ = compared
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    code, _, errors = run("compare.py", *arguments, "--epochs=2")
    assert code == 1 and "epochs=1.0 there, 2.0 here" in errors
    assert "Traceback" not in errors
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}


def test_one_policy_is_one():
    code, printed, errors = run(
        "train.py", "--policy=bsp()", "--policy=asp()", "--out=no/where"
    )
    assert code == 1 and "already defined as bsp()" in printed + errors


def test_train_writes_a_run(tmp_path):
    out = tmp_path / "run"
    code, _, errors = run(
        "train.py",
        "--policy=k_async(k=2)",
        f"--out={out}",
        *SMALL[:3],
        "--partition=dirichlet(alpha=0.5)",
        "--momentum=0.9",
        "--learning_rate=0.02",
        "--learning_rate_drops=0.5",
        "--schedule_clock=epoch",
        "--communication=link(bandwidth=1e6,shared=True)",
    )
    assert code == 0, errors
    trace = traces.Trace.load(out / "trace.npz")
    assert trace.policy == "k_async(k=2)" and trace.task == "digits/mlp"
    assert (trace.time[1:] - trace.duration[1:] > 0).any()
    events = json.loads((out / "timeline.json").read_text())["traceEvents"]
    assert any(e["name"] == "sending" for e in events)
    record = json.loads((out / "run.json").read_text())
    assert np.isfinite(record["summary"]["final_loss"])


WRONG = [
    (["--policy=sssp(s=1)"], "unknown name 'sssp' (did you mean ssp?); known: abs"),
    (["--policy=ssp(s=1.5)"], "s must be a whole number, got 1.5"),
    (["--policy=weighted(inverse(), inverse())"], "policy must be a Policy"),
    (["--policy=k_sync(k=9)"], "k must be at most the number of workers 4, got 9"),
    (["--policy=dssp(s_lower=5,s_upper=2)"], "s_upper must be at least s_lower=5"),
    (["--policy=bsp(); steps=3"], "unknown setting 'steps'"),
    (["--policy=bsp(); push=displacement"], "needs two optimizers, the server's and"),
    (["--policy=bsp(); push=weights"], "push must be one of 'gradients', 'displace"),
    (["--policy=bsp(); local_steps=x"], "local_steps must be a number, got 'x'"),
    (["--task=mnist"], "unknown task 'mnist'; known: cifar10"),
    (["--model=vgg"], "unknown name 'vgg'; known: alexnet, cnn"),
    (
        ["--delays=constant(seconds=[1,2])", "--workers=4"],
        "one value per worker (4), got 2",
    ),
    (["--delays=constant(seconds=-1)"], "must be finite and at least 0, got -1.0"),
    (["--delays=constant(seconds='x')"], "must be a number or a list of numbers"),
    (["--task=cifar10", "--data_dir=/no/such"], "data_dir /no/such does not exist"),
    (["--learning_rate_drops=5,3"], "at must be positive and increasing"),
    (["--learning_rate_drops=x"], "expected numbers"),
    (["--communication=link()"], "link needs the argument 'bandwidth'"),
    (["--partition=sorted"], "unknown name 'sorted'"),
    (["--epochs=-1"], "until_epochs must be above 0, got -1.0"),
    (["--batch_size=many"], "--batch_size"),
    (["--target_accuracy=95"], "must be in 0..1, got 95.0; for 95 % write 0.95"),
    (["--workers=0"], "--workers"),
    (["surplus"], "Unexpected arguments: surplus"),
    (["--policy=stuck:miser()"], "every worker waits, nobody computes, at push 5"),
]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Answers to all wrong command lines, and what they left behind."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "stuck.py").write_text(
        "from abs_dssp import policies\n"
        "def miser(num_workers):\n"
        "    asp = policies.asp.__wrapped__(num_workers)\n"
        "    def keep(state, clocks, worker, now):\n"
        "        state, decision = asp.on_push(state, clocks, worker, now)\n"
        "        return state, decision._replace(release=decision.release & False)\n"
        "    return policies.Policy(asp.init, keep, asp.on_leave)\n"
    )
    commands = [
        [COMPARE, f"--out={folder / str(number)}", *SMALL, *arguments]
        for number, (arguments, _) in enumerate(WRONG)
    ]
    return folder, start_many(commands, path=folder)


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_users_mistake_gets_one_sentence_and_status_1(mistakes, number):
    folder, answers = mistakes
    arguments, message = WRONG[number]
    code, printed, errors = answers[number]
    assert code == 1, (arguments, printed, errors)
    assert message in errors + printed, (arguments, printed, errors)
    assert "Traceback" not in errors
    assert not (folder / str(number) / "summary.json").exists()
    assert not list((folder / str(number)).rglob("trace.npz"))


SETTINGS = {
    "demo": "compare.py",
    "cifar10": "compare.py",
    "diloco": "compare.py",
    "fragments": "compare.py",
    "streaming": "compare.py",
    "reproduction": "reproduce.py",
    "optimality": "optimality.py",
    "optimality_deaths": "optimality.py",
    "optimality_large": "optimality.py",
    "growth": "optimality.py",
}


def test_every_file_of_settings_belongs_to_a_script():
    found = {path.stem for path in (ROOT / "experiments").glob("*.flags")}
    assert found == set(SETTINGS)


@pytest.mark.slow
def test_published_settings_are_flags_of_their_script():
    """Flags are read before the surplus argument is refused."""
    folder = ROOT / "experiments"
    commands = [
        [folder / script, f"--flagfile={folder / name}.flags", "surplus"]
        for name, script in SETTINGS.items()
    ]
    for code, printed, errors in start_many(commands):
        assert code == 1 and "Unexpected arguments: surplus" in printed + errors


def test_help_explains_every_flag_in_one_line():
    code, printed, _ = run("compare.py", "--help")
    assert code in (0, 1)
    for name in ("policy", "task", "delays", "local_steps", "seeds", "out", "until"):
        assert f"--{name}" in printed or f"--[no]{name}" in printed


def test_importing_the_package_is_light():
    code = (
        "import sys, abs_dssp\n"
        "from abs_dssp import simulate, report, tasks, policies\n"
        "heavy = {'tensorflow_datasets', 'cryptography', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
