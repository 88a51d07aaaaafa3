"""The description of a run, and the digest that finds it again."""

import dataclasses
import hashlib
import json

import pytest

from abs_dssp import tasks, traces
from abs_dssp.experiment.run import Run

RUN = Run(
    policy="bsp()",
    task="quadratic(dim=4)",
    model=None,
    workers=2,
    delays="constant(seconds=[1.0,3.0])",
    batch_size=8,
    learning_rate=0.1,
    epochs=2.0,
    eval_seconds=None,
    evaluations=4,
)
OLD = dataclasses.replace(RUN, eval_seconds=5.0, evaluations=None)


def test_a_run_kept_before_a_field_existed_is_found_again():
    """The digest that runs had before `drop_factor` and the like were described."""
    added = {"drop_factor", "warmup", "evaluations", "eval_commits", "redraw"}
    added |= {"optimizer", "local_optimizer", "push", "local_state", "absences"}
    added |= {"fragments", "overlap"}
    before = {k: v for k, v in dataclasses.asdict(OLD).items() if k not in added}
    text = json.dumps([before, traces.package_versions()], sort_keys=True)
    assert OLD.key == hashlib.sha256(text.encode()).hexdigest()[:20]


@pytest.mark.parametrize(
    "change",
    [
        {"drop_factor": 0.5},
        {"warmup": 1.0},
        {"evaluations": 3},
        {"eval_commits": 7},
        {"redraw": False},
        {"optimizer": "adam(0.1)"},
        {"local_optimizer": "sgd(0.1)"},
        {"push": "displacement"},
        {"local_state": "kept"},
        {"fragments": 2},
        {"overlap": 1},
    ],
    ids=str,
)
def test_a_field_that_was_added_later_decides_all_the_same(change):
    assert dataclasses.replace(OLD, **change).key != OLD.key


def test_evaluations_are_at_equal_times_of_the_slowest_worker():
    task = tasks.quadratic(2, dim=4)
    # Every worker makes this many pushes in lockstep, 3 s each.
    rounds = 2.0 * task.samples_per_epoch / 8 / 2
    assert RUN.eval_interval(task) == pytest.approx(3.0 * rounds / 4)
    timed = dataclasses.replace(RUN, until_seconds=10.0)
    assert timed.eval_interval(task) == 2.5
    assert OLD.eval_interval(task) == 5.0


DILOCO = dataclasses.replace(
    RUN,
    learning_rate=None,
    optimizer="sgd(1.0)",
    local_optimizer="sgd(0.05)",
    push="displacement",
)


def test_a_run_of_displacements_trains_with_both_optimizers():
    """Server sgd(1) around one step of sgd(0.05) is SGD of step 0.05."""
    task = RUN.make_task()
    wanted = dataclasses.replace(RUN, learning_rate=0.05).train(task)
    found = DILOCO.train(task)
    assert found.history.last("loss") == pytest.approx(wanted.history.last("loss"))
    assert found.history.last("loss") != RUN.train(task).history.last("loss")
    trace = DILOCO.schedule(task)
    again = DILOCO.replay(task, trace, eval_every_commits=len(trace))
    assert again.history.last("loss") == pytest.approx(found.history.last("loss"))


@pytest.mark.parametrize("missing", ["optimizer", "local_optimizer"])
def test_displacements_need_both_optimizers(missing):
    given = {missing: None, "learning_rate": 0.1 if missing == "optimizer" else None}
    with pytest.raises(ValueError, match="push=displacement needs two optimizers"):
        dataclasses.replace(DILOCO, **given).make_update()
