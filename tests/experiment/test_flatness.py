"""Time over the lower bound: what can be said without a run, and of one by hand."""

import dataclasses
import math

import numpy as np
import pytest

from abs_dssp.experiment import flatness
from scripts import start_many

# One worker that always shows the next coordinate: nothing is left to chance.
CERTAIN = flatness.Contest(
    num_workers=1, length=2, probability=1.0, steps=(4, 8), seeds=1, max_pushes=60
)


def test_without_chance_the_ratio_is_a_count_of_steps():
    """The bound is two gradients; gradient descent needs more, the same in any unit."""
    ratio = flatness.over_bound(CERTAIN, "asp()", np.array([1.0]))
    assert ratio > 1 and (2 * ratio).is_integer()
    assert flatness.over_bound(CERTAIN, "bsp()", np.array([5.0])) == ratio


def test_the_best_step_counts_and_who_does_not_arrive_has_none():
    short = dataclasses.replace(CERTAIN, steps=(4,))
    both, one = (
        flatness.over_bound(contest, "asp()", np.array([1.0]))
        for contest in (CERTAIN, short)
    )
    assert both < one
    few = dataclasses.replace(CERTAIN, max_pushes=1)
    assert flatness.over_bound(few, "asp()", np.array([1.0])) == math.inf


def test_a_table_names_the_bound_and_how_flat_a_method_is():
    found = {"a": [2.0, 3.0, 4.0, 8.0], "b": [2.0, 3.0, 4.0, math.inf]}
    table = flatness.table(dataclasses.replace(CERTAIN, num_workers=2), found)
    assert table.rows[0][1:] == ["2.0", "2.0", "2.0", "2.0", ""]
    assert table.rows[1] == ["a", "2.0", "3.0", "4.0", "8.0", "4.0"]
    assert table.rows[2][-2:] == ["-", "-"]


def test_the_script_refuses_a_probability_in_a_sentence(tmp_path):
    script = "experiments/lower_bound.py"
    ((code, _, errors),) = start_many(
        [[script, "--probabilities=2", f"--out={tmp_path}"]]
    )
    assert code == 1 and "--probabilities: must be in (0, 1], got '2'" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_script_writes_its_report(tmp_path):
    given = ["--num_workers=2", "--length=2", "--probabilities=0.5", "--seeds=1"]
    given += ["--max_pushes=400", f"--out={tmp_path}"]
    ((code, _, errors),) = start_many([["experiments/lower_bound.py", *given]])
    assert code == 0, errors
    assert "largest / least" in (tmp_path / "report.md").read_text()
