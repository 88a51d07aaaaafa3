"""The report of `optimality.py`: what was measured, beside the lower bound."""

import math
from pathlib import Path

import jax
import numpy as np

from abs_dssp import theory
from abs_dssp.experiment import outputs
from abs_dssp.experiment.optimality.comparison import Comparison
from abs_dssp.experiment.optimality.measure import GRID, SPACING, WINDOW, Outcome
from abs_dssp.report import style
from abs_dssp.report.document import Part, Picture, Section, Table

TITLE = "Time to a target, against the best possible"

# Two methods that differ by one choice, named by how their labels begin.
_CHOICES = (
    ("DSSP grants extra iterations", "DSSP printed", "SSP"),
    ("DSSP's bound on the lead", "DSSP bounded", "DSSP printed"),
    ("DSSP waits at all", "DSSP printed", "ASP"),
    ("ABS restarts the too stale", "ABS, K0 = {half}", "K-async, K = {half}"),
    ("ABS starts with K = 1 and grows", "ABS, K0 = 1,", "ABS, K0 = {half}"),
    ("Ringmaster stops the too stale", "Ringmaster, R = {batch}, stops", "Ringmaster"),
    (
        "fresh rounds twice as large, with restarts",
        "K-batch-sync, K = {two}",
        "Rennala",
    ),
    ("its rounds begin small", "K-batch-sync, K = {n} to", "K-batch-sync, K = {two}"),
    ("steps that fall with the delay", "ASP, Mishchenko", "ASP"),
    ("abs_dssp's R grows", "abs_dssp", "abs_dssp, R fixed"),
    ("abs_dssp plans", "abs_dssp, R fixed", "K-batch-sync, K = {two}"),
)
_NAMES = {"best": "the best step", "recommended": "the theory's step"}


def section(comparison: Comparison, out: Path) -> Section:
    """Pictures and tables of one problem."""
    problem, limits = comparison.problem, comparison.limits
    n = limits.num_workers
    title = f"{problem.label}, sigma^2 / eps = {problem.ratio:g}, N = {n}"
    header = ["method", *comparison.columns]
    name = problem.label.split(",")[0].replace(" ", "_")
    picture = _picture(comparison, out / f"{name}_R{problem.ratio:g}_N{n}.png")
    parts: list[Part] = [
        f"eps = {problem.target:.3g}, F(w0) - F* = {problem.gap:.4g}; gradient descent "
        f"at the step 1 / L needs about {problem.steps:.0f} iterations. Mean of "
        f"{limits.seeds} seeds; '-' where a seed did not get there within "
        f"{limits.max_pushes:,} pushes or a little more than three times what gradient "
        f"descent would need. {_scatter(comparison)}",
        picture,
        Table(
            f"Seconds to the target at the best step: sustained (first): {title}.",
            [*header, "worst / best"],
            [*_times(comparison, "best"), *_bounds(comparison)],
        ),
        Table(
            f"The same at the theory's step: {title}.",
            [*header, "worst / best"],
            _times(comparison, "recommended"),
        ),
        Table(
            "Step of a commit in units of 1 / L: the theory's, and the best of the "
            "grid; f: it falls from there, *: the end of the grid; in brackets the "
            f"largest staleness: {title}.",
            header,
            _steps(comparison),
        ),
        _bases(comparison),
        *_choices(comparison),
        *_predictions(comparison),
        *_findings(comparison),
    ]
    return Section(title[0].upper() + title[1:], parts)


def _times(comparison: Comparison, which: str) -> list[list[str]]:
    def cell(label: str, column: str) -> str:
        times = comparison.outcomes[label, column].at(which)
        first = float(np.mean(times.first))
        return f"{seconds(times.mean)} ({seconds(first)})"

    relative = comparison.relative(which)
    return [
        [
            label,
            *(cell(label, c) for c in comparison.columns),
            f"{row.max():.2f}" if math.isfinite(row.max()) else "never",
        ]
        for label, row in zip(comparison.labels, relative, strict=True)
    ]


def _bounds(comparison: Comparison) -> list[list[str]]:
    best = np.min(comparison.means("best"), axis=0)
    bounds = [_bound(comparison, regime) for regime in comparison.regimes]
    ratios = [a / b for a, b in zip(best, bounds, strict=True)]
    return [
        ["best", *(seconds(float(b)) for b in best), ""],
        ["lower bound (up to a constant)", *(f"{b:.4g}" for b in bounds), ""],
        ["best / lower bound", *(f"{ratio:.3g}" for ratio in ratios), ""],
    ]


def _bound(comparison: Comparison, regime) -> float:
    """The least seconds for any method, up to a universal constant."""
    problem, n = comparison.problem, comparison.limits.num_workers
    numbers = (problem.smoothness, problem.gap, problem.variance, problem.target)
    return float(theory.tyurin_richtarik(regime.mean(n), *numbers))


def _scatter(comparison: Comparison) -> str:
    """How far seeds are apart."""
    shares = [
        float(np.std(times, ddof=1) / np.mean(times))
        for outcome in comparison.outcomes.values()
        if len(times := outcome.best.sustained) > 1 and math.isfinite(outcome.best.mean)
    ]
    if not shares:
        return ""
    return (
        f"The seeds' standard deviation is {np.median(shares):.0%} of the mean in the "
        f"median cell, at most {max(shares):.0%}."
    )


def _steps(comparison: Comparison) -> list[list[str]]:
    def cell(outcome: Outcome) -> str:
        kind = ("f" if outcome.falls else "") + ("" if outcome.inside else "*")
        known = math.isfinite(outcome.best.mean)
        best = f"{outcome.best_step:.3g}{kind}" if known else "-"
        return f"{outcome.step:.3g}, {best} ({outcome.tau_max:.0f})"

    return [
        [label, *(cell(comparison.outcomes[label, c]) for c in comparison.columns)]
        for label in comparison.labels
    ]


def _bases(comparison: Comparison) -> str:
    """What the theory's steps rest on."""
    found: dict[str, list[str]] = {}
    for method in comparison.methods:
        found.setdefault(method.basis, []).append(method.label)
    usual, *others = sorted(found, key=lambda basis: -len(found[basis]))
    listed = "; ".join(f"of {' and '.join(found[basis])}: {basis}" for basis in others)
    return f"The theory's step is by {usual}" + (f"; {listed}." if listed else ".")


def _choices(comparison: Comparison) -> list[Part]:
    """What single choices of the rules cost."""
    rows = []
    for choice, *names in _CHOICES:
        one, other = (name.format(**_parameters(comparison)) for name in names)
        a, b = (_first_row(comparison, name) for name in (one, other))
        if a is not None and b is not None:
            shown = [_ratio(x, y) for x, y in zip(a, b, strict=True)]
            rows.append([choice, f"{one.rstrip(',')} / {other}", *shown])
    if not rows:
        return []
    caption = "What single choices cost, at the best steps: time with it over without."
    return [Table(caption, ["choice", "compared", *comparison.columns], rows)]


def _parameters(comparison: Comparison) -> dict[str, int]:
    """The parameters in the labels that `methods.recommended` gives."""
    batch = int(theory.rennala_batch(comparison.problem.ratio, 1.0))
    n = comparison.limits.num_workers
    return {"half": n // 2, "batch": batch, "two": 2 * batch, "n": n}


def _first_row(comparison: Comparison, start: str) -> np.ndarray | None:
    """Relative times of the first method whose label begins so; None without one."""
    rows = zip(comparison.labels, comparison.relative("best"), strict=True)
    return next((row for label, row in rows if label.startswith(start)), None)


def _predictions(comparison: Comparison) -> list[Part]:
    """How well the methods' order was predicted; nothing to say of a few."""
    if len(comparison.methods) < 5:
        return []
    kinds = (
        ("by the theory, at its step", "predicted", "recommended"),
        ("by the theory, at the best step", "predicted", "best"),
        ("as advise.py guesses, at the best step", "guessed", "best"),
    )
    rows = []
    for name, predicted, which in kinds:
        found = comparison.rank_correlation(predicted, which)
        shown = [f"{value:.2f}" if math.isfinite(value) else "-" for value in found]
        rows.append([name, *shown])
        taken = comparison.followed(predicted, which)
        shown = [f"{value:.2f}" if math.isfinite(value) else "never" for value in taken]
        rows.append([f"time of the first {name}, over the best's", *shown])
    caption = (
        "Rank correlation of the methods' predicted times with the measured ones, and "
        "what it costs to follow the prediction."
    )
    return [Table(caption, ["predicted", *comparison.columns], rows)]


def _findings(comparison: Comparison) -> list[str]:
    """What the tables say, in words, from their numbers."""
    labels, columns = comparison.labels, comparison.columns
    text = []
    for which, name in _NAMES.items():
        relative = comparison.relative(which)
        if "abs_dssp" in labels:
            own = relative[labels.index("abs_dssp")]
            worst = int(np.argmax(own))
            best = labels[int(np.argmin(relative[:, worst]))]
            missed = [c for c, r in zip(columns, own, strict=True) if math.isinf(r)]
            sentence = (
                f"needs at most {own.max():.2f} times as long as the best method of "
                f"the regime (worst: {columns[worst]}, where {best} is best), "
                f"{np.exp(np.mean(np.log(own))):.2f} times in the geometric mean over "
                "the regimes"
            )
            if missed:
                sentence = f"does not get there where times are {', '.join(missed)}"
            text.append(f"At {name} abs_dssp {sentence}.")
        text.append(_averages(labels, relative, name))
        never = [
            f"{label} ({row.max():.1f})"
            for label, row in zip(labels, relative, strict=True)
            if row.max() < 3 and label != "abs_dssp"
        ]
        text.append(
            f"Never 3 times as long as the best, at {name}: "
            + (", ".join(never) if never else "nobody else")
            + "."
        )
    return text


def _averages(labels: list[str], relative: np.ndarray, name: str) -> str:
    """Geometric means over the regimes, of those who always got there."""
    averages = np.exp(np.mean(np.log(relative), axis=1))
    shown = [
        f"{labels[i]} {averages[i]:.2f}"
        for i in np.argsort(averages)
        if math.isfinite(averages[i])
    ]
    return (
        "Time over the best of the regime, geometric mean over the regimes, at "
        f"{name}: " + (", ".join(shown) if shown else "nobody always got there") + "."
    )


def setting() -> Section:
    """How the tables are to be read, and where they were made."""
    grid = f"{len(GRID)} steps of a whole commit, from {GRID[0]:g} / L down by halves"
    return Section(
        "How to read this",
        [
            f"The best step is that of {grid}, the same for every method, by the mean "
            "over the same seeds that are shown. Where R > N / 2 each of them was "
            "also tried with a fall from there: as the 1 / R^t with which `abs_dssp` "
            "counts, by pushes, to N / (2 R) of it. Rules with a batch K have "
            "rows in which K grows so. The theory's step is that of Theorem A or D for "
            "the method's own schedule (docs/theory.md says which have a guarantee).",
            "Malenia and Ringleader keep a gradient for each worker and are for "
            "different data; they were left out on the largest problem.",
            "A target is reached first when ||grad F||^2 <= eps is measured, and "
            f"sustained when its mean over the last {WINDOW:.0%} of the commits so far "
            f"is. Evaluated at commits that are {SPACING - 1:.1%} apart, all of them "
            "at first. Rankings are by the sustained time.",
            "The regimes; one gradient of the fastest worker takes about a second: "
            "equal times of 1 s; sqrt(i) and i seconds for worker i; one worker 100 "
            "times slower; exponential with mean 1; Pareto with least 0.2 s and tail "
            "1.2, so of mean 1.2 s and without a variance; half of the workers slow "
            "(20 s instead of 1 s) for their first two computations, the other half "
            "from their 41st on; 1 s and 20 s in turn, or three of each, half of the "
            "workers in the opposite phase; a Markov chain between 1 s and 20 s (0.01 "
            "to slow, 0.02 back), each worker its own or all the same by computation; "
            "step times of jobs 1 and 4 of Alibaba's GPU cluster, in units of their "
            "mean. With deaths, a worker is there for 80 s and away for 20, both "
            "exponential, loses its computation and is missed after 2 s. Where times "
            "are listed they are counted by computations that were started, cancelled "
            "ones too, so a rule that restarts gets through the slow ones sooner: "
            "there it has an easier task. Under `m-sync` all workers get through the "
            "list in step, which is why it never waits where half of them alternate "
            "against the other half.",
            "The lower bound is that of Tyurin and Richtárik (NeurIPS 2023) for fixed "
            "times, up to a universal constant; for random times their means stand in "
            "it, and methods that restart may then be faster. It is about the hardest "
            "smooth function with these constants and not about this one, which is "
            "convex: so the best is far below it, by a factor that says how easy the "
            "problem is. A bound without a constant: docs/lower_bound.md.",
            f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}.",
        ],
    )


def _picture(comparison: Comparison, path: Path) -> Picture:
    relative, labels = comparison.relative("best"), comparison.labels
    columns = comparison.columns
    with style.figure() as canvas:
        from matplotlib.colors import LogNorm

        figure, axes = canvas.subplots(figsize=(7.2, 0.9 + 0.19 * len(labels)))
        shown = np.where(np.isfinite(relative), relative, np.nan)
        norm = LogNorm(1, 100)
        image = axes.imshow(shown, aspect="auto", cmap="cividis_r", norm=norm)
        centred = {"ha": "center", "va": "center", "fontsize": 6}
        for (i, j), value in np.ndenumerate(relative):
            text = f"{value:.1f}" if value < 99.5 else f"{value:.0f}"
            color = "white" if 12 < value < math.inf else "black"
            text = text if math.isfinite(value) else "never"
            axes.text(j, i, text, color=color, **centred)
        axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("worker times")
        bar = figure.colorbar(image, ax=axes, pad=0.01)
        bar.set_label("time / time of the best")
        for side in axes.spines.values():
            side.set_visible(False)
        style.save(figure, path)
    caption = (
        "Time to the target at the best steps, relative to the column's best method."
    )
    return Picture(path, caption)


def _ratio(one: float, other: float) -> str:
    if math.isinf(one):
        return "-" if math.isinf(other) else "never"
    return f"{one / other:.2f}"


def seconds(value: float) -> str:
    """Seconds as the tables write them; '-' if the target was not reached."""
    return f"{value:.4g}" if math.isfinite(value) else "-"
