"""One row per policy and seed, and folders that keep what they hold."""

import csv
import json

import pytest

from abs_dssp.experiment import comparison
from abs_dssp.experiment.run import Run
from abs_dssp.report import summary

SETTINGS = {"epochs": 2.0, "workers": 4, "learning_rate_drops": []}


def run(policy, **changed):
    given = {"task": "digits", "model": None, "workers": 4, "delays": "constant(1)"}
    given |= {"batch_size": 32, "learning_rate": 0.1, "epochs": 1.0}
    return Run(policy=policy, eval_seconds=None, **given | changed)


def test_results_are_tidy_and_have_a_column_for_each_swept_setting(tmp_path):
    texts = ["ssp(2)", "ssp(s=4)", "k_sync(k=2)", "bsp(); local_steps=2"]
    steps = {texts[-1]: 2}
    runs = {
        (text, seed): run(
            text.partition(";")[0], seed=seed, local_steps=steps.get(text, 1)
        )
        for text in texts
        for seed in range(2)
    }
    measures = {
        key: dict.fromkeys(summary.FIELDS) | {"final_loss": number / 8}
        for number, key in enumerate(runs)
    }
    path = comparison.save_results(tmp_path / "results.csv", runs, measures)
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "policy",
        "rule",
        "seed",
        "local_steps",
        "s",
        *summary.FIELDS,
    ]
    assert [(row["policy"], int(row["seed"])) for row in rows] == list(runs)
    assert [row["s"] for row in rows[::2]] == ["2", "4", "", ""]
    assert [row["local_steps"] for row in rows[::2]] == ["1", "1", "1", "2"]
    assert [float(row["final_loss"]) for row in rows] == [n / 8 for n in range(8)]
    assert rows[0]["final_accuracy"] == ""


@pytest.fixture
def kept(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    entries = [{"policy": name, "seeds": 2} for name in ("bsp()", "asp()")]
    (tmp_path / "summary.json").write_text(json.dumps(entries))
    return tmp_path


def test_the_same_comparison_may_go_on_and_grow(kept):
    comparison.require_same(kept, SETTINGS, ["bsp()", "asp()"], 2)
    comparison.require_same(kept, SETTINGS, ["asp()", "bsp()", "ssp(s=3)"], 3)
    (kept / "summary.json").unlink()  # interrupted before there was any result
    comparison.require_same(kept, SETTINGS, ["ssp(s=3)"], 1)


@pytest.mark.parametrize(
    "changed, texts, seeds, sentence",
    [
        ({"epochs": 3.0}, ["bsp()", "asp()"], 2, "(epochs=2.0 there, 3.0 here)"),
        ({"model": "cnn"}, ["bsp()", "asp()"], 2, "(model=None there, 'cnn' here)"),
        ({}, ["bsp()"], 2, "has other policies too (asp())"),
        ({}, ["bsp()", "asp()"], 1, "a comparison of 2 seeds, got --seeds=1"),
    ],
)
def test_another_comparison_is_refused(kept, changed, texts, seeds, sentence):
    with pytest.raises(ValueError) as raised:
        comparison.require_same(kept, SETTINGS | changed, texts, seeds)
    assert sentence in str(raised.value) and "another folder" in str(raised.value)
