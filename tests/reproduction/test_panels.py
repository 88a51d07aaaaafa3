"""What a panel shows of curves that coincide, that diverged, or that begin at 0."""

import numpy as np
import pytest

from abs_dssp.experiment.reproduction import panels
from abs_dssp.report import style
from abs_dssp.training.evaluation import History


def _history(*accuracies, x="seconds"):
    records = ({x: float(t), "accuracy": a} for t, a in enumerate(accuracies))
    return History(tuple(records), np.empty(0))


def _lines(*curves, **more):
    panel = panels.Panel("title", curves, **more)
    with style.figure() as canvas:
        _, axes = canvas.subplots()
        panels._draw(axes, panel, "title")
        drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    return drawn


def _curve(label, *histories):
    return panels.Curve(label, histories, panels.look(0))


def test_curves_that_coincide_are_one_line_with_both_names():
    same, other = _history(0.1, 0.5, 0.8), _history(0.1, 0.4, 0.7)
    drawn = _lines(_curve("ASP", same), _curve("BSP", other), _curve("DSSP", same))
    assert set(drawn) == {"ASP; DSSP", "BSP"}


def test_curves_that_would_hide_each_other_are_one_line():
    near, far = _history(0.1, 0.501, 0.8), _history(0.1, 0.51, 0.8)
    drawn = _lines(*map(_curve, "abc", (_history(0.1, 0.5, 0.8), near, far)))
    assert set(drawn) == {"a; b", "c"}
    longer = _history(0.1, 0.5, 0.8, 0.8)  # goes on where the other has ended
    assert len(_lines(_curve("a", near), _curve("b", longer))) == 2


def test_who_has_no_line_has_no_name():
    drawn = _lines(_curve("ASP", _history(0.1, 0.5)), _curve("diverged", _history()))
    assert set(drawn) == {"ASP"}


def test_a_linear_axis_shows_where_methods_differ():
    """It begins below the lowest line of those that reach a tenth of the axis."""
    slow = _history(0.1, 0.5, *[0.6] * 19)
    fast, short = _history(0.1, 0.7, *[0.8] * 19), _history(0.1, 0.4)
    with style.figure() as canvas:
        _, axes = canvas.subplots()
        curves = [_curve("slow", slow), _curve("fast", fast), _curve("short", short)]
        panels._draw(axes, panels.Panel("title", curves), "title")
        low, high = axes.get_ylim()
    assert low == pytest.approx(0.6 - 0.05 * 0.2) and high > 0.8


def test_a_logarithmic_axis_begins_at_the_first_round():
    history = _history(0.1, 0.5, 0.8, x="version")
    drawn = _lines(_curve("ASP", history), against="version", log=True)
    assert drawn["ASP"][0].tolist() == pytest.approx([1.0, 0.5])


def test_a_logarithmic_axis_shows_early_rounds_and_a_linear_one_does_not():
    regular = _history(0.1, 0.5, 0.8, x="version")
    records = [{"version": v, "accuracy": a} for v, a in ((0.0, 0.1), (0.5, 0.3))]
    early = History((*records, *regular.records[1:]), np.empty(0))
    curve = panels.Curve("ASP", [regular], panels.look(0), early=[early])
    (log,) = _lines(curve, against="version", log=True).values()
    assert log[:, 0].tolist() == pytest.approx([0.5, 1.0, 2.0])
    (linear,) = _lines(curve, against="version").values()
    assert linear[:, 0].tolist() == pytest.approx([0.0, 1.0, 2.0])


def test_the_average_is_over_methods_within_a_seed():
    groups = [[_history(0.0, 0.2), _history(0.4, 0.4)], [_history(0.2, 0.4)] * 2]
    first, second = panels.average(groups)
    assert first.column("accuracy").tolist() == pytest.approx([0.1, 0.3])
    assert second.column("accuracy").tolist() == pytest.approx([0.3, 0.4])
