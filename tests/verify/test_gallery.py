"""Rules that hide what is wrong with them are found, or the report claims no more."""

import gallery
import mutants
import pytest

from abs_dssp import policies, verify
from abs_dssp.verify import invariants, progress


def hidden():
    """The gallery; all but the first two of a section are marked slow."""
    for section in (gallery.THE_SEVEN, *gallery.OTHERS):
        quick = section if section is gallery.THE_SEVEN else section[:2]
        for each in section:
            marks = [] if each in quick else [pytest.mark.slow]
            yield pytest.param(each, id=each.name, marks=marks)


@pytest.mark.often(6)
@pytest.mark.parametrize("each", hidden())
def test_what_hides_is_found(each):
    """By the search, by the properties of progress, or by a thin schedule."""
    policy = each.make(each.num_workers)
    stated = each.properties
    if stated == policies.Properties():
        stated = policy.properties
    report = verify.check(
        policy,
        each.num_workers,
        deaths=each.deaths,
        depth=each.depth,
        schedule_depth=each.depth,
        properties=stated,
    )
    found = report.violation
    assert found is not None, report.text
    by = "search" if found.shortest else "schedule"
    by = "progress" if found.kind in progress.KINDS else by
    assert (found.kind, by) == (each.kind, each.by), found.table
    if each.length:
        assert len(found.actions) == each.length, found.table
    trace = found.trace.validate()
    assert len(trace) + len(trace.events) == len(found.actions)
    assert found.kind in report.verdict and "holds" not in report.text


def test_the_gallery_has_every_kind_of_property():
    broken = {each.kind for each in gallery.ALL}
    shown = broken | {mutant.kind for mutant in mutants.MUTANTS}
    elsewhere = {"version", "postponed"}  # the latter in test_deadlines.py
    assert shown == {*invariants.KINDS, *progress.KINDS} - elsewhere
    names = [each.name for each in gallery.ALL]
    assert len(set(names)) == len(names) >= 40


@pytest.mark.often(3)
@pytest.mark.parametrize("each", gallery.UNSEEN, ids=lambda each: each.name)
def test_of_what_is_not_found_the_report_says_what_was_not_tried(each):
    policy = each.make(each.num_workers)
    report = verify.check(
        policy, each.num_workers, deaths=each.deaths, max_states=4_000
    )
    assert report.violation is None
    assert each.said in report.text, report.text
    assert "holds where tried" in report.verdict
