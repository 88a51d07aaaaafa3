"""The leaderboard: scores by hand, who takes part, and rows that are kept."""

import dataclasses
import lzma
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from abs_dssp import policies
from abs_dssp.experiment.leaderboard import board, cases, entries, race, report, score
from abs_dssp.report.document import Table

TIMES = st.lists(
    st.lists(st.one_of(st.just(math.inf), st.floats(0.1, 100)), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
)


@hypothesis.given(TIMES)
def test_scores_are_what_a_loop_gives(rows):
    times = np.array(rows)
    ratios = score.ratios(times)
    shares = score.profile(ratios, [1.0, 2.0])
    for i, row in enumerate(rows):
        points, near, twice = 0.0, 0, 0
        for j, own in enumerate(row):
            best = min(other[j] for other in rows)
            if own < math.inf:
                ratio = own / best
                near, twice = near + (ratio <= 1), twice + (ratio <= 2)
                points += max(0.0, 1 - math.log(ratio) / math.log(20))
        assert score.score(ratios)[i] == pytest.approx(points / 3)
        assert shares[i].tolist() == [near / 3, twice / 3]


def test_every_rule_takes_part_under_one_name():
    for ratio in (0.5, 4.0, 40.0):
        made = entries.entries(8, ratio)
        labels = [method.label for method in made]
        assert len(set(labels)) == len(labels)
        texts = " ".join(method.text for method in made)
        for name in set(policies.names()) - {"local_sgd"}:
            assert f"{name}(" in texts, name
        for method in made:
            policies.parse(method.text, 8)
    few, many = (
        {method.label for method in entries.entries(8, ratio)} for ratio in (1.0, 40.0)
    )
    assert few <= many  # rules that grow have no rounds to grow where R is small


def test_there_are_twelve_cases_that_differ():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names) == 12
    kinds = {case.problem.partition("(")[0] for case in cases.CASES}
    assert kinds == {"quadratic", "logistic", "digits", "text"}
    for case in cases.CASES:
        assert case.delays.num_workers == case.task.num_workers == 8
        if case.unit is None:  # R is what it says
            known = case.task.constants
            variance = known.noise_variance / case.task.batch_size
            assert variance / case.target == pytest.approx(case.ratio, rel=0.05)


@pytest.fixture
def small(monkeypatch):
    """One case without noise to speak of, where one step 1 / L is enough."""
    case = dataclasses.replace(
        cases.CASES[0],
        name="a bowl",
        problem="quadratic(dim=3,noise=1e-12)",
        ratio=1e-9,
        pushes=400,
    )
    monkeypatch.setattr(cases, "CASES", (case,))
    monkeypatch.setattr(board, "CASES", (case,))
    monkeypatch.setattr(
        board.Board,
        "_make",
        lambda self, missing, processes: (
            self._keep(cell, race.run(*cell, range(self.seeds))) for cell in missing
        ),
    )
    return case


def test_rows_are_kept_and_the_same_bytes(small, tmp_path, monkeypatch):
    rows = board.Board(tmp_path / "rows.jsonl", 2).rows([small], ["BSP", "ASP"], 1)
    bsp = next(row for row in rows if row.method == "BSP")
    # After one round of 1 s each the target is reached, by any step of 1 / L.
    assert bsp.recommended_step == pytest.approx(1.0)
    assert bsp.recommended == bsp.tuned == (1.0, 1.0)
    board.save(rows, tmp_path / "one.xz")
    monkeypatch.setattr(race, "run", None)  # nothing is made again
    again = board.Board(tmp_path / "rows.jsonl", 2).rows([small], ["BSP", "ASP"], 1)
    board.save(again, tmp_path / "other.xz")
    assert again == rows
    assert (tmp_path / "one.xz").read_bytes() == (tmp_path / "other.xz").read_bytes()
    assert len(lzma.decompress((tmp_path / "one.xz").read_bytes()).splitlines()) == len(
        rows
    )
    with pytest.raises(ValueError, match="no method is called Nobody"):
        board.Board(tmp_path / "rows.jsonl", 2).rows([small], ["Nobody"], 1)


def test_who_did_not_get_there_is_last(tmp_path):
    def row(method, seconds):
        return race.Row("case", method, "bsp()", "mean", 1.0, seconds, 1.0, seconds)

    rows = [row("lost", (1.0, math.inf)), row("slow", (4.0, 4.0)), row("quick", (2.0,))]
    made = report.sections(rows, 2, tmp_path)[0].parts
    table = next(part for part in made if isinstance(part, Table))
    assert [line[1] for line in table.rows] == ["quick", "slow", "lost"]
    assert [line[-1] for line in table.rows] == ["0", "0", "1"]
