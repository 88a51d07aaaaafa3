"""Pictures and tables of runs in a notebook, and axes that one curve cannot spoil."""

import html.parser
import subprocess
import sys

import numpy as np
import pytest

from abs_dssp import optimizers, plot, policies, replay, simulate, tasks
from abs_dssp.report import curves
from abs_dssp.training.evaluation import History

BASIC = {"push": 0, "version": 0, "epoch": 0.0}


def history(values, measure="accuracy"):
    records = (
        BASIC | {"seconds": float(t), "version": t, measure: float(value)}
        for t, value in enumerate(values)
    )
    return History(tuple(records), np.empty(0))


GOOD = np.linspace(0.5, 0.9, 21)


@pytest.fixture(scope="module")
def result():
    task = tasks.quadratic(2, dim=3, noise=0.0)._replace(name="<b>task</b>")
    trace = simulate.schedule("ssp(s=1)", "constant([1, 2.5])", 12, task=task.name)
    return replay.replay(task, optimizers.sgd(0.1), trace)


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def cells(shown):
    reader = Cells()
    reader.feed(shown._repr_html_())
    assert set(reader.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    return reader.text


def test_notebooks_show_small_tables_in_which_text_stays_text(result):
    assert "<b>task</b>" in cells(result) and "<b>task</b>" in cells(result.trace)
    shown = cells(result)
    assert shown[shown.index("pushes") + 1] == "12"
    assert shown[shown.index("policy") + 1] == "ssp(s=1)"
    evil = History((BASIC | {"seconds": 0.0, "<script>": 1.0},), np.empty(0))
    assert "<script>" in cells(evil)
    long = cells(history(np.linspace(0, 1, 50)))
    assert "the last 10 of 50 records" in long and len(long) < 100


def test_plots_are_pngs_and_files(result, tmp_path):
    drawn = [result.plot(measure="loss"), result.trace.plot(), plot.staleness(result)]
    drawn.append(plot.curves({"one": result, "two": [result, result.history]}))
    for number, picture in enumerate(drawn):
        assert picture._repr_png_().startswith(b"\x89PNG")
        assert picture.save(tmp_path / f"{number}.png").stat().st_size > 5000
    labels = [text.get_text() for text in drawn[-1].figure.legends[0].get_texts()]
    assert labels == ["one", "two"]


@pytest.mark.parametrize(
    ("rounds", "label"),
    [(2, "virtual time (s): the beginning of 5 s"), (50, "virtual time (s)")],
)
def test_a_timeline_says_that_it_is_the_beginning(rounds, label):
    trace = simulate.schedule("asp()", "constant([1.0])", 5)
    assert trace.plot(rounds=rounds).figure.axes[-1].get_xlabel() == label


MISTAKES = [
    (lambda r: r.plot(measure="acc"), ValueError, "known: push, version, seconds"),
    (lambda r: r.plot(against="time"), ValueError, "known: seconds, version, epoch"),
    (lambda r: r.trace.plot(rounds=0), ValueError, "rounds must be at least 1, got 0"),
    (lambda r: plot.timeline([]), ValueError, "there must be a run with a push"),
    (lambda r: plot.curves([]), ValueError, "at least one run, got none"),
    (lambda r: r.plot().save("picture"), ValueError, "must end in .png, .pdf or .svg"),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_gets_one_sentence(result, number):
    make, kind, sentence = MISTAKES[number]
    with pytest.raises(kind) as raised:
        make(result)
    assert sentence in str(raised.value)


def test_drawing_leaves_the_callers_pyplot_alone():
    code = (
        "import sys\n"
        "from abs_dssp import plot, simulate\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib\n"
        "matplotlib.use('svg')\n"
        "import matplotlib.pyplot as plt\n"
        "mine = plt.figure().number\n"
        "size = plt.rcParams['font.size']\n"
        "trace = simulate.schedule('asp()', 'constant([1, 2])', 8)\n"
        "trace.plot()._repr_png_()\n"
        "assert plt.get_fignums() == [mine] and plt.rcParams['font.size'] == size\n"
        "assert matplotlib.get_backend().lower() == 'svg'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def bounds(values, measure="accuracy", **more):
    figure = curves.picture(
        {str(n): [history(each, measure)] for n, each in enumerate(values)},
        measure=measure,
        **more,
    )
    return figure, figure.axes[0].get_ylim()


def test_one_bad_curve_does_not_squash_the_others_and_is_named():
    _, alone = bounds([GOOD, GOOD - 0.05])
    figure, with_bad = bounds([GOOD, GOOD - 0.05, np.full(21, 0.1)])
    assert with_bad == pytest.approx(alone, abs=0.03)
    (said,) = (t.get_text() for t in figure.axes[0].texts if "outside" in t.get_text())
    assert said == "outside the picture: 2 ends at 0.1"
    losses = [1 / (1 + np.arange(21)), 2 / (1 + np.arange(21))]
    _, alone = bounds(losses, "loss")
    _, with_bad = bounds([*losses, np.exp(np.arange(21))], "loss")
    assert with_bad[0] == pytest.approx(alone[0], rel=0.2) and with_bad[1] < 30


def test_a_timeline_may_begin_later(result):
    drawn = plot.timeline(result, rounds=2, start=6.0).figure
    (axes,) = drawn.axes
    assert axes.get_xlim()[0] == 6.0 and "a part of" in axes.get_xlabel()


def test_curves_that_leave_the_picture_are_said_and_limits_can_be_given():
    dip = np.where(np.arange(21) == 15, 0.1, GOOD)
    figure, (low, _) = bounds([GOOD, dip])
    (said,) = (text.get_text() for text in figure.axes[0].texts)
    assert said == f"not shown: values below {low:.3g}"
    whole, given = bounds([GOOD, dip], bounds=(0, 1))
    assert given == (0, 1) and not whole.axes[0].texts


def test_logarithmic_axes_have_plain_numbers():
    figure, _ = bounds([3.6 - 0.04 * np.arange(21)], "loss")
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    labels = [t.get_text() for t in axis.get_ticklabels(which="both")]
    assert {"2.8", "3"} < set(labels) and all(float(t) > 0 for t in labels if t)


def test_bytes_are_an_axis_of_results(result):
    drawn = plot.curves(result, measure="loss", against="megabytes")
    (line,) = drawn.figure.axes[0].get_lines()
    # 12 pushes and 2 + 12 pulls of 3 numbers, but for who waits at the end.
    pulls = 2 + int((~np.isnan(result.trace.wait)).sum())
    assert line.get_xdata()[-1] == pytest.approx((12 + pulls) * 12 / 1e6)


def test_staleness_is_counted_in_whole_versions(result):
    axes = plot.staleness([result, result]).figure.axes[0]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_accuracies_stay_within_0_and_1_and_every_good_curve_is_shown():
    _, (low, high) = bounds([np.linspace(0, 1, 21), np.linspace(0, 0.9, 21)])
    assert low >= 0 and high == 1
    _, (low, high) = bounds([GOOD, GOOD - 0.02], target=0.95)
    assert low < 0.6 and 0.95 < high < 1  # 0.54 at a tenth of the run
    dip = np.where(np.arange(21) == 15, 0.1, GOOD)
    assert bounds([GOOD, dip])[1][0] > 0.5


def test_more_than_eight_curves_get_a_panel_each_beside_the_others():
    values = [GOOD - 0.01 * n for n in range(curves.MOST + 1)]
    figure, _ = bounds(values)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == len(values) and not figure.legends
    assert [axes.get_title(loc="left") for axes in shown] == [*map(str, range(9))]
    assert all(len(axes.get_lines()) == len(values) for axes in shown)
    few, _ = bounds(values[:-1])
    assert len(few.axes) == 1 and len(few.legends[0].get_texts()) == curves.MOST


def test_two_policies_are_two_lines():
    task = tasks.quadratic(2, dim=3)
    runs = [
        simulate.train(task, policies.asp(2), "constant([1, 2])", "sgd(0.1)", 8, seed=s)
        for s in (0, 1)
    ]
    runs.append(simulate.train(task, "bsp", "constant([1, 2])", "sgd(0.1)", 8))
    drawn = plot.curves(runs)
    labels = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert labels == ["asp()", "bsp()"]
