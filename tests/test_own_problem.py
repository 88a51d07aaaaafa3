"""A task and an optimizer of one's own through the scripts, as the README has it."""

import csv
import json
import re

import pytest

from abs_dssp import tasks, traces
from scripts import ROOT, start_many

MODULE = """
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from abs_dssp import tasks


class Model(nnx.Module):
    def __init__(self, width, rngs):
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


def make(num_workers, *, width=8, batch_size=32):
    x = np.random.default_rng(0).normal(size=(300, 3))
    y = np.abs(x[:, 0]) + x[:, 1]
    return tasks.from_nnx(
        lambda rngs: Model(width, rngs), (x[:200], y[:200]), (x[200:], y[200:]),
        num_workers, name=f"own{width}", batch_size=batch_size,
        loss=lambda outputs, targets: (outputs[:, 0] - targets) ** 2,
        metrics={"mae": lambda outputs, targets: jnp.abs(outputs[:, 0] - targets)},
    )


def adam(learning_rate=0.5, b1=0.9):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate, b1))


def nothing(num_workers, batch_size=1):
    return None


def fewer(num_workers, batch_size=1):
    return make(num_workers - 1)


def alien():
    return 3
"""
TASK = "--task=own:make(width=4)"
SHORT = ["--batch_size=10", "--epochs=2", "--evaluations=3"]


def script(name, *arguments):
    return [ROOT / "experiments" / f"{name}.py", *arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("own")
    (made / "own.py").write_text(MODULE)
    return made


def answers(folder, *commands):
    for code, printed, errors in start_many(commands, path=folder):
        assert code == 0, errors
        yield printed + errors


@pytest.mark.slow
def test_a_cluster_trains_replays_and_is_asked_what_if(folder):
    out = folder / "real"
    adam = ["--optimizer=adam", "--learning_rate=0.02"]
    _, replayed, asked, again = answers(
        folder,
        script("train", "--cluster=local", "--processes=2", "--policy=asp()",
               TASK, *adam, *SHORT, "--notensorboard", f"--out={out}"),
        script("replay", out),
        script("whatif", out, "--train", "--policy=bsp()"),
        script("whatif", out, "--train", "--policy=bsp()", "--optimizer=sgd(0.1)",
               f"--out={folder / 'again'}"),
    )  # fmt: skip
    assert "equal in every bit" in replayed
    assert "training losses up to there: equal" in replayed
    assert "decides the same, row by row" in replayed
    settings = json.loads((out / "settings.json").read_text())
    assert settings["task"] == "own:make(width=4)"
    assert (settings["optimizer"], settings["learning_rate"]) == ("adam", 0.02)
    assert traces.Trace.load(out / "trace.npz").task == "own4"
    assert "own4, 2 workers, 40 pushes in" in asked and "trained:" in again
    ends = []
    for place in (out / "whatif", folder / "again"):
        with open(place / "history.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["policy"] == "bsp()"]
        assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
        assert "mae" in rows[-1] and "accuracy" not in rows[-1]
        ends.append(rows[-1]["loss"])
    assert ends[0] != ends[1]  # adam and SGD


def test_policies_are_compared_on_it_with_steps_of_their_own(folder):
    out = folder / "compared"
    texts = ["bsp()", "asp(); learning_rate=0.01", "asp(); local_steps=2"]
    policies = [f"--policy={text}" for text in texts]
    (printed,) = answers(
        folder,
        script("compare", *policies, TASK, "--optimizer=own:adam(b1=0.8)", *SHORT,
               "--workers=2", "--seeds=1", f"--out={out}"),
    )  # fmt: skip
    assert "final loss" in printed and "target accuracy" not in printed
    assert "own4, 2 workers, 1 seed(s)" in printed
    with open(out / "history.csv") as file:
        rows = list(csv.DictReader(file))
    last = {row["policy"]: float(row["loss"]) for row in rows}
    assert set(last) == set(texts) and len(set(last.values())) == 3
    assert (out / "loss_time.png").exists()
    again = {row["policy"]: row for row in rows}
    assert all(float(row["mae"]) > 0 for row in again.values())


def test_the_problem_in_the_readme_is_a_task():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (text,) = (block for block in blocks if "def make(num_workers" in block)
    module: dict = {}
    exec(text, module)
    task = tasks.check(module["make"](3, width=4, partition="shared"))
    assert (task.name, task.num_workers, task.samples_per_epoch) == ("mine", 3, 800)


WRONG = [
    (["--task=own:nowhere"], "cannot load own:nowhere: module 'own' has no attribute"),
    (["--task=no_module:make"], "cannot load no_module:make: No module named"),
    (["--task=own:make(depth=3)"], "own:make has no argument 'depth'; known: width"),
    (["--task=own:nothing"], "own:nothing must return a tasks.Task"),
    (["--task=own:fewer"], "made a task for 1 workers instead of the 2"),
    (["--optimizer=own:alien"], "must make an optax optimizer"),
    (["--optimizer=adam"], "adam needs the argument 'learning_rate'"),
    (
        ["--optimizer=adma(0.1)"],
        "unknown name 'adma' (did you mean adamax?); known: adabelief, adadelta",
    ),
    (["--optimizer=adam(0.1)", "--learning_rate=0.2"], "leave one of them out"),
    (["--optimizer=adam(0.1)", "--momentum=0.9"], "--momentum belongs to SGD"),
    (["--optimizer=adam(learning_rate=open(1))"], "unknown name 'open'"),
    (["--optimizer=adam(learning_rate=x)"], "'x' in 'adam(learning_rate=x)' is not"),
    (["--optimizer=adam(learning_rate='x')"], "makes no step"),
]


@pytest.fixture(scope="module")
def mistakes(folder):
    always = ["--workers=2", "--policy=bsp()", f"--out={folder / 'wrong'}", *SHORT]
    commands = [script("compare", TASK, *always, *more) for more, _ in WRONG]
    return start_many(commands, path=folder)


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda n: WRONG[n][0][0])
def test_a_users_mistake_gets_one_sentence_and_status_1(mistakes, number):
    code, printed, errors = mistakes[number]
    assert code == 1 and WRONG[number][1] in errors + printed, errors
    assert "Traceback" not in errors
