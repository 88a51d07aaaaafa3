"""Flags that imply others, that contradict each other, or that have no effect."""

import json

import pytest

from abs_dssp.traces import Trace
from scripts import ROOT, start_many

MINE = """
from abs_dssp import tasks

def make(num_workers, *, batch_size=16):
    return tasks.quadratic(num_workers, dim=3, batch_size=batch_size)
"""
QUICK = ["--epochs=0.1", "--policy=asp()"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What commands did, and the folder that they wrote to, by name."""
    folder = tmp_path_factory.mktemp("flags")
    (folder / "steps.csv").write_text("worker,seconds\na,1\nb,2\nc,3\n")
    (folder / "mine.py").write_text(MINE)
    times = f"--delays=csv({str(folder / 'steps.csv')!r})"
    small = ["--task=quadratic(dim=3)", *QUICK]
    commands = {
        "workers of a file": ["train", *small, times],
        "four of them": ["train", *small, times, "--workers=4"],
        "a default of mine": ["train", "--task=mine:make", *QUICK],
        "mine, told": ["train", "--task=mine:make", "--batch_size=8", *QUICK],
        "said twice": [
            "train", "--task=quadratic(batch_size=8)", "--batch_size=4", *QUICK,
        ],
        "no effect": ["train", *small, "--slowdown=[1,1,1,9]"],
        "goes on": [
            "train", "--task=quadratic(dim=3)", "--cluster=local",
            "--policy=asp(); fragments=2; overlap=1",
        ],
        "no such setting": ["train", "--task=mine:make", "--model=cnn", *QUICK],
        "no data": ["train", "--task=mine:make", "--data_dir=.", *QUICK],
        "not .py": ["train", "--task=mine.py:make", *QUICK],
        "not there": ["train", "--task=mine:mak", *QUICK],
        "fragments": [
            "train", "--task=digits", "--limit_test=50", "--epochs=0.3",
            "--policy=asp(); fragments=2", "--push=displacement",
            "--optimizer=sgd(1.0)", "--local_optimizer=sgd(0.1)",
        ],
        "of gradients": ["train", "--task=digits", "--fragments=2", *QUICK],
        "of restarts": [
            "train", "--task=digits", "--fragments=2", "--policy=k_sync(k=2)",
        ],
        "a wrong name": ["train", "--task=quadratic", "--policy=DSPS()"],
    }  # fmt: skip
    lines = [
        [ROOT / "experiments" / f"{name}.py", *rest, f"--out={folder / str(number)}"]
        for number, (name, *rest) in enumerate(commands.values())
    ]
    made = start_many(lines, path=folder)
    again = [*lines[0], "--seed=1"]
    replay = [ROOT / "experiments" / "replay.py", folder / "0"]
    made += start_many([again, replay], path=folder)
    names = [*commands, "another run there", "no log"]
    return {
        name: (answer, folder / str(number))
        for number, (name, answer) in enumerate(zip(names, made, strict=True))
    }


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("workers of a file", "workers", 3),
        ("four of them", "workers", 4),
        ("a default of mine", "batch_size", 16),
        ("mine, told", "batch_size", 8),
    ],
)
def test_what_is_not_said_follows_from_the_rest(answers, name, setting, value):
    (code, _, errors), folder = answers[name]
    assert code == 0, errors
    assert json.loads((folder / "settings.json").read_text())[setting] == value


def test_whose_times_count_is_said_where_the_file_has_others(answers):
    (_, _, errors), _ = answers["four of them"]
    assert "--delays has times of 3 workers and there are 4: after these" in errors
    (_, _, errors), _ = answers["workers of a file"]
    assert "--delays has times" not in errors


def test_fragments_are_asked_for_by_a_flag_or_by_a_policy(answers):
    (code, printed, errors), folder = answers["fragments"]
    assert code == 0, errors
    trace = Trace.load(folder / "trace.npz")
    assert trace.num_fragments == 2 and set(trace.fragment) == {0, 1}
    assert "Written to" in printed


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("said twice", "--batch_size: got 4, but --task says batch_size too"),
        ("no effect", "--slowdown is for real processes; give --cluster=local too"),
        ("goes on", "--overlap=1 is for virtual time: workers of real processes wait"),
        ("no such setting", "--model has no effect on --task=mine:make, which takes"),
        ("no data", "--data_dir has no effect on --task=mine:make, which takes batch_"),
        ("not .py", "leave out .py: mine:make"),
        ("of gradients", "--push: fragments need push='displacement'"),
        (
            "of restarts",
            "--policy: fragments need a policy that cancels no",
        ),
        ("not there", "did you mean mine:make"),
        ("a wrong name", "unknown name 'DSPS' (did you mean dssp?)"),
        ("another run there", "holds a run of another policy, of other settings"),
        ("no log", "holds no run of real processes: there is no pushes.log"),
    ],
)
def test_a_mistake_gets_one_sentence(answers, name, sentence):
    (code, printed, errors), _ = answers[name]
    assert code == 1 and sentence in errors + printed, (printed, errors)
    assert "Traceback" not in errors
