"""The report of `optimality.py`: what was measured, beside the lower bound."""

import math
from pathlib import Path

import jax
import numpy as np

from abs_dssp import theory
from abs_dssp.experiment import outputs
from abs_dssp.experiment.optimality import Comparison, Outcome, constants
from abs_dssp.experiment.statistics import spread
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
    ("fresh rounds twice as large, with restarts", "K-batch-sync", "Rennala"),
    ("steps that fall with the delay", "ASP, Mishchenko", "ASP"),
)


def section(comparison: Comparison, out: Path) -> Section:
    """Pictures and tables of one problem."""
    problem, limits = comparison.problem, comparison.limits
    title = f"{problem.label}, sigma^2 / eps = {problem.ratio:g}"
    name = problem.label.split(",")[0].replace(" ", "_")
    picture = _picture(comparison, out / f"{name}_R{problem.ratio:g}.png")
    header = ["method", *comparison.columns]
    of_times = f"Seconds to the target: {title}."
    of_steps = f"Step in units of 1 / L, and largest staleness: {title}."
    parts: list[Part] = [
        f"N = {limits.num_workers} workers, eps = {problem.target:.3g}, F(w0) - F* = "
        f"{problem.gap:.4g}; gradient descent at the step 1 / L needs about "
        f"{problem.steps:.0f} "
        "iterations. Seconds until ||grad F||^2 <= eps first holds, mean and sample "
        f"standard deviation over {limits.seeds} seeds; '-' where a seed did not get "
        f"there within {limits.max_pushes:,} pushes or a little more than three times "
        "what gradient descent would need. Every method at the step that Theorem A "
        "recommends for its own schedule. One gradient of the fastest worker takes "
        "about a second.",
        picture,
        Table(of_times, [*header, "worst / best"], _times(comparison)),
        Table(of_steps, header, _steps(comparison)),
        *_choices(comparison),
        *_findings(comparison),
    ]
    return Section(title[0].upper() + title[1:], parts)


def _times(comparison: Comparison) -> list[list[str]]:
    best = np.min(comparison.means, axis=0)
    bounds = [_bound(comparison, regime) for regime in comparison.regimes]
    ratios = [a / b for a, b in zip(best, bounds, strict=True)]
    rows = [
        [
            label,
            *(_spread(comparison.outcomes[label, c]) for c in comparison.columns),
            f"{row.max():.2f}" if math.isfinite(row.max()) else "never",
        ]
        for label, row in zip(comparison.labels, comparison.relative, strict=True)
    ]
    rows.append(["best", *(f"{b:.4g}" for b in best), ""])
    rows.append(["lower bound (up to a constant)", *(f"{b:.4g}" for b in bounds), ""])
    rows.append(["best / lower bound", *(f"{ratio:.3g}" for ratio in ratios), ""])
    return rows


def _bound(comparison: Comparison, regime) -> float:
    """The least seconds for any method, up to a universal constant."""
    problem, n = comparison.problem, comparison.limits.num_workers
    smoothness, variance = constants(problem.task(n))
    numbers = (smoothness, problem.gap, variance, problem.target)
    return float(theory.tyurin_richtarik(regime.mean(n), *numbers))


def _steps(comparison: Comparison) -> list[list[str]]:
    smoothness, _ = constants(comparison.problem.task(comparison.limits.num_workers))

    def cell(outcome: Outcome) -> str:
        return f"{outcome.step * smoothness:.3g} ({outcome.tau_max:.0f})"

    return [
        [label, *(cell(comparison.outcomes[label, c]) for c in comparison.columns)]
        for label in comparison.labels
    ]


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
    caption = "What single choices cost: time with it over time without it."
    return [Table(caption, ["choice", "compared", *comparison.columns], rows)]


def _parameters(comparison: Comparison) -> dict[str, int]:
    """The parameters in the labels that `methods.recommended` gives."""
    batch = int(theory.rennala_batch(comparison.problem.ratio, 1.0))
    return {"half": comparison.limits.num_workers // 2, "batch": batch}


def _first_row(comparison: Comparison, start: str) -> np.ndarray | None:
    """Relative times of the first method whose label begins so; None without one."""
    rows = zip(comparison.labels, comparison.relative, strict=True)
    return next((row for label, row in rows if label.startswith(start)), None)


def _findings(comparison: Comparison) -> list[str]:
    """What the table says, in words, from its numbers."""
    labels, relative = comparison.labels, comparison.relative
    text = []
    if "abs_dssp" in labels:
        own = relative[labels.index("abs_dssp")]
        worst = comparison.columns[int(np.argmax(own))]
        text.append(
            f"abs_dssp needs at most {own.max():.2f} times as long as the best method "
            f"of its regime (worst where times are: {worst})."
        )
    never = [
        f"{label} ({row.max():.1f})"
        for label, row in zip(labels, relative, strict=True)
        if row.max() < 3 and label != "abs_dssp"
    ]
    text.append(
        "Never 3 times as long as the best, in these regimes: "
        + (", ".join(never) if never else "nobody else")
        + "."
    )
    return text


def setting() -> Section:
    """How the tables are to be read, and where they were made."""
    return Section(
        "How to read this",
        [
            "The regimes: equal times of 1 s; sqrt(i) and i seconds for worker i; one "
            "worker 100 times slower; exponential with mean 1; Pareto with least "
            "0.2 s and tail 1.2, so of mean 1.2 s and without a variance; half of the "
            "workers slow (20 s instead of 1 s) for their first two computations, the "
            "other half from their 41st on. The last counts computations that were "
            "started, cancelled ones too, so a rule that restarts gets through the "
            "slow ones sooner: there it has an easier task.",
            "The lower bound is that of Tyurin and Richtárik (NeurIPS 2023) for fixed "
            "times, up to a universal constant; for random times their means stand in "
            "it, and methods that restart may then be faster. It is about the hardest "
            "smooth function with these constants and not about this one, which is "
            "convex: so the best is far below it, by a factor that says how easy the "
            "problem is. Between regimes of one problem the factor should stay the "
            "same if the best method here is the best there is; where it falls, as for "
            "random times, restarts gain what fixed times do not offer.",
            "Times are first passages of one trajectory: a method whose noise floor is "
            "near the target may dip below it sooner than its mean does.",
            "Theorem A counts on the worst schedule that its constants allow, so a "
            "recommended step is not the best step: methods that are never stale gain "
            "from that, by a factor of about 2 against those whose staleness is even.",
            f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}.",
        ],
    )


def _picture(comparison: Comparison, path: Path) -> Picture:
    relative, labels = comparison.relative, comparison.labels
    columns = comparison.columns
    with style.figure() as plt:
        from matplotlib.colors import LogNorm

        figure, axes = plt.subplots(figsize=(6.6, 0.8 + 0.2 * len(labels)))
        shown = np.where(np.isfinite(relative), relative, np.nan)
        norm = LogNorm(1, 100)
        image = axes.imshow(shown, aspect="auto", cmap="cividis_r", norm=norm)
        centred = {"ha": "center", "va": "center", "fontsize": 6}
        for (i, j), value in np.ndenumerate(relative):
            text = f"{value:.1f}" if value < 99.5 else f"{value:.0f}"
            color = "white" if 12 < value < math.inf else "black"
            text = text if math.isfinite(value) else "never"
            axes.text(j, i, text, color=color, **centred)
        axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("worker times")
        bar = figure.colorbar(image, ax=axes, pad=0.01)
        bar.set_label("time / time of the best")
        for side in axes.spines.values():
            side.set_visible(False)
        style.save(figure, path)
    return Picture(path, "Time to the target, relative to the best method of a column.")


def _ratio(one: float, other: float) -> str:
    if math.isinf(one):
        return "-" if math.isinf(other) else "never"
    return f"{one / other:.2f}"


def seconds(value: float) -> str:
    """Seconds as the tables write them; '-' if the target was not reached."""
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _spread(outcome: Outcome) -> str:
    if not math.isfinite(outcome.mean):
        return "-"
    return spread(outcome.seconds, "{:.4g}", "{:.2g}")
