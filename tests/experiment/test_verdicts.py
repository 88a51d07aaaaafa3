"""Verdicts against simulated referees, tables of Student's t, and each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abs_dssp.experiment import statistics, verdicts
from abs_dssp.report import document
from abs_dssp.report.document import Section


def _verdict(*evidences):
    claims = [verdicts.claim(str(i), "", "", e) for i, e in enumerate(evidences)]
    (section,) = verdicts.judged([Section("all", [], claims)])
    return [claim.verdict for claim in section.claims]


def test_the_interval_is_students():
    """t = 2.262 for 9 degrees of freedom, from any printed table."""
    values = np.arange(10.0)
    mean, low, high, seeds = verdicts.interval(values)
    half = 2.262 * values.std(ddof=1) / math.sqrt(10)
    assert (mean, seeds) == (4.5, 10)
    assert (low, high) == pytest.approx((4.5 - half, 4.5 + half), rel=1e-3)


@pytest.mark.parametrize(
    ("make", "holds", "fails"),
    [
        pytest.param(verdicts.above, 0.02, -0.02, id="above"),
        pytest.param(lambda d: verdicts.within(d, 0.01), 0.0, 0.03, id="within"),
        pytest.param(lambda d: verdicts.within(d, 0.01), 0.0, -0.03, id="within-below"),
    ],
)
def test_clear_cases_are_decided_and_noise_is_not(make, holds, fails):
    noise = 0.005 * np.random.default_rng(0).normal(size=10)
    noise -= noise.mean()
    assert _verdict(make(holds + noise)) == [document.AGREES]
    assert _verdict(make(fails + noise)) == [document.DIFFERS]
    assert _verdict(make(holds + 100 * noise)) == [document.INCONCLUSIVE]
    assert _verdict(make([holds])) == [document.INCONCLUSIVE]  # one seed says nothing
    assert _verdict(make([])) == [document.INCONCLUSIVE]
    assert make([]).text == "no seed says"


def test_where_the_interval_holds_both_nothing_is_decided():
    """Neither equal within the margin nor different beyond it."""
    differences = np.array([-0.004, 0.016, 0.006, 0.014, 0.012])
    found = verdicts.within(differences, 0.01)
    assert found.low < 0.01 < found.high
    assert _verdict(found) == [document.INCONCLUSIVE]


@pytest.mark.parametrize("make", [verdicts.above, lambda d: verdicts.within(d, 0.5)])
def test_a_claim_on_the_border_is_decided_in_one_of_twenty_reports(make):
    """At a true effect of 0, or of the margin, few verdicts come out."""
    generator = np.random.default_rng(1)
    border = 0.0 if make is verdicts.above else 0.5
    decided = sum(
        _verdict(make(border + generator.normal(size=10))) != [document.INCONCLUSIVE]
        for _ in range(2000)
    )
    assert decided <= 2000 * 0.05 * (2 if border else 1) * 1.25


@pytest.mark.slow
def test_many_rows_of_noise_decide_nothing_in_nineteen_of_twenty_reports():
    generator = np.random.default_rng(2)
    wrong = sum(
        set(_verdict(*(verdicts.above(generator.normal(size=10)) for _ in range(40))))
        != {document.INCONCLUSIVE}
        for _ in range(400)
    )
    assert wrong <= 400 * 0.05 * 1.5


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_step_down_procedure(values):
    """Against its definition: reject while the k-th smallest is below 5 % / (m - k)."""
    adjusted = verdicts.holm(values)
    rejected, order = set(), np.argsort(values, kind="stable")
    for rank, place in enumerate(order.tolist()):
        if values[place] * (len(values) - rank) >= 0.05:
            break
        rejected.add(place)
    assert {i for i, p in enumerate(adjusted) if p < 0.05} == rejected
    assert all(a >= v for a, v in zip(adjusted, values, strict=True))


def test_a_cut_off_time_makes_no_verdict_bolder():
    mine, rival = np.array([10.0, 12, 11, 9]), np.array([40.0, 60, 55, 50])
    whole, cut = (verdicts.sooner(mine, np.minimum(rival, end)) for end in (1e9, 45.0))
    assert 0 < cut.effect < whole.effect
    back = verdicts.sooner(np.minimum(rival, 45.0), mine)
    assert whole.effect > -back.effect == cut.effect


def test_known_verdicts_take_no_part():
    noise = verdicts.above([0.01, 0.02, 0.03, 0.02, 0.01])
    known = document.Claim("same", "", "", document.BY_CONSTRUCTION)
    claims = [verdicts.claim("a", "", "", noise), known]
    (section,) = verdicts.judged([Section("all", [], claims)])
    assert [c.verdict for c in section.claims] == [
        document.AGREES,
        document.BY_CONSTRUCTION,
    ]
    assert section.claims[1] is known


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.floats(0.01, 0.99)
)
@settings(max_examples=50)
def test_a_crossing_is_where_the_line_is_as_high(values, target):
    x, values = np.arange(len(values)) ** 2.0, np.array(values)
    found = statistics.crossing(x, values, target)
    if found is None:
        assert values.max() < target
    else:
        assert np.interp(found, x, values) >= target - 1e-9
        before = x[x < found]
        assert np.all(values[: len(before)] < target)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=50)
def test_smoothing_is_a_mean_of_as_many_before_as_after(values):
    smooth = statistics.smoothed(np.array(values))
    for i in range(len(values)):
        k = min(2, i, len(values) - 1 - i)
        assert smooth[i] == pytest.approx(np.mean(values[i - k : i + k + 1]))


def test_the_level_is_that_of_the_report():
    claims = [verdicts.claim("is above", "", "", verdicts.above([1.0, 2.0, 1.5, 2.5]))]
    p = claims[0].evidence.against_contrary
    for level, word in ((1.01 * p, document.AGREES), (p, document.INCONCLUSIVE)):
        (section,) = verdicts.judged([Section("all", [], claims)], level)
        assert section.claims[0].verdict == word
