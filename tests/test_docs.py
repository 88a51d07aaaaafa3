"""The code in README and WORKSPACE runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from abs_dssp import delays, policies, simulate
from abs_dssp.policies.__main__ import table

ROOT = Path(__file__).parents[1]


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_the_readmes_examples_run(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks("README.md")[number], names)
    if number == 0:
        accuracy, waiting = map(float, capsys.readouterr().out.split())
        assert accuracy > 0.9 and 0.2 < waiting < 0.6
        assert (tmp_path / "trace.npz").exists()
    else:
        assert names["task"].num_workers == 4


def test_the_example_of_a_new_rule_is_ssp(tmp_path, monkeypatch):
    (example,) = blocks("WORKSPACE.md")
    (tmp_path / "my_rules.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_rules", raising=False)
    model = delays.exponential(1.0, num_workers=4)
    mine = simulate.schedule(policies.parse("my_rules:patient(lead=2)", 4), model, 300)
    ssp = simulate.schedule(policies.ssp(4, s=2), model, 300)
    np.testing.assert_array_equal(mine.time, ssp.time)
    stated = policies.parse("my_rules:patient(lead=2)", 4).properties
    assert stated.max_gap == 2 and stated.commits_every_push and not stated.restarts


def test_the_table_of_policies_is_what_the_policies_state():
    mark = "<!-- {} of the output of python -m abs_dssp.policies -->\n"
    _, _, rest = (ROOT / "README.md").read_text().partition(mark.format("begin"))
    shown, found, _ = rest.partition(mark.format("end"))
    assert found and shown == table() + "\n"
