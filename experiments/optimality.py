"""How far is every policy from the best time that any method can achieve?

    python experiments/optimality.py --out=out/optimality

Time until ||grad F||^2 <= eps, for every policy at its own recommended step (Theorem A
with the constants of its own schedule) and regimes of worker times. Writes report.md,
report.html, a picture and outcomes.jsonl; what is in the last is not run again.
"""

import dataclasses
import gc
import json
import math
import sys
from pathlib import Path

import contestants
import entry
import jax
import numpy as np
import outputs
from absl import flags
from contestants import Outcome, Problem, Regime

from abs_dssp import theory
from abs_dssp.report import document, style
from abs_dssp.report.document import Part, Picture, Section, Table

_OUT = flags.DEFINE_string("out", "out/optimality", "Output folder.")
_WORKERS = flags.DEFINE_integer("num_workers", 32, "N.", lower_bound=2)
_DIM = flags.DEFINE_integer("dim", 1000, "Of the tridiagonal quadratic.", lower_bound=2)
_TARGET = flags.DEFINE_float("target", 2e-4, "eps of the quadratic.", lower_bound=0)
_PROBLEMS = flags.DEFINE_list(
    "problems",
    ["tridiagonal:10", "logistic:100"],
    "Problems to solve, tridiagonal or logistic, each with R = sigma^2 / eps.",
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Repetitions.", lower_bound=1)
_LIMIT = flags.DEFINE_integer("max_pushes", 100_000, "Give up after.", lower_bound=1000)
_ONLY = flags.DEFINE_list("only", None, "Contestants whose label contains one of them.")
_PUBLISH = flags.DEFINE_string(
    "publish", None, "Also write the report to this Markdown file, pictures beside it."
)

TITLE = "Time to a target, against the best possible"


def main(argv):
    del argv
    out = outputs.folder(_OUT.value)
    n = _WORKERS.value
    kept = _Kept(out / "outcomes.jsonl")
    sections = []
    for problem, ratio in _problems():
        found: dict[tuple[str, str], Outcome] = {}
        regimes = contestants.regimes(n)
        entrants = [
            who
            for who in contestants.contestants(n, ratio)
            if not _ONLY.value or any(part in who.label for part in _ONLY.value)
        ]
        if not entrants:
            raise ValueError(f"--only: no contestant is called {_ONLY.value}.")
        for number, who in enumerate(entrants):
            for where in regimes:
                found[who.label, where.label] = kept.get(who, where, problem, ratio, n)
            # Programs of hundreds of shapes would use up the process's memory maps.
            jax.clear_caches()
            gc.collect()
            times = ", ".join(_seconds(found[who.label, r.label].mean) for r in regimes)
            print(
                f"{problem.label}, R = {ratio:g} [{number + 1}/{len(entrants)}] "
                f"{who.label}: {times} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        labels = [who.label for who in entrants]
        sections.append(_section(problem, ratio, labels, regimes, found, out))
    sections.append(_setting())
    document.save_markdown(TITLE, sections, out / "report.md")
    document.save_html(TITLE, sections, out / "report.html")
    if _PUBLISH.value is not None:
        outputs.publish(TITLE, sections, Path(_PUBLISH.value))
    print(f"Written to {out}: report.md, report.html and PNGs")


def _problems():
    for text in _PROBLEMS.value:
        name, _, number = text.partition(":")
        try:
            ratio = float(number)
        except ValueError:
            ratio = math.nan
        if not ratio > 0:
            raise ValueError(
                f"--problems: expected a name and a ratio above 0, such as "
                f"tridiagonal:10, got {text!r}."
            )
        if name == "tridiagonal":
            yield contestants.tridiagonal(ratio, _DIM.value, _TARGET.value), ratio
        elif name == "logistic":
            yield contestants.logistic(ratio, 5000, 20, 2e-4), ratio
        else:
            raise ValueError(
                f"--problems: unknown {name!r}; known: tridiagonal, logistic."
            )


class _Kept:
    """Outcomes that were found before, by their settings."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, Outcome] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # cut off by an interruption
                    continue
                made = record["outcome"]
                for name in ("seconds", "commits"):
                    made[name] = tuple(made[name])
                self.known[record["key"]] = Outcome(**made)

    def get(self, who, where: Regime, problem: Problem, ratio: float, n: int):
        settings = {
            "who": [who.text, who.aggregate, who.label],
            "where": where.label, "problem": problem.label, "ratio": ratio, "n": n,
            "target": problem.target, "seeds": _SEEDS.value, "limit": _LIMIT.value,
        }  # fmt: skip
        key = outputs.key(settings)
        if key not in self.known:
            made = contestants.compete(
                who, where, problem, n, _SEEDS.value, _LIMIT.value
            )
            outputs.append(self.path, {"key": key, "outcome": dataclasses.asdict(made)})
            self.known[key] = made
        return self.known[key]


def _section(problem, ratio, labels, regimes, found, out: Path) -> Section:
    n = _WORKERS.value
    columns = [r.label for r in regimes]
    means = np.array([[found[a, b].mean for b in columns] for a in labels])
    best = np.min(means, axis=0)
    probe = problem.task(n)
    bounds = [
        float(
            theory.tyurin_richtarik(
                regime.mean(n), probe.constants.smoothness, problem.gap,
                probe.constants.noise_variance / probe.batch_size, problem.target,
            )
        )
        for regime in regimes
    ]  # fmt: skip
    relative = means / best
    name = f"{problem.label.split(',')[0].replace(' ', '_')}_R{ratio:g}"
    picture = _picture(relative, labels, columns, out / f"{name}.png")
    title = f"{problem.label}, sigma^2 / eps = {ratio:g}"
    rows = [
        [label, *(_spread(found[label, c]) for c in columns), _worst(relative[i])]
        for i, label in enumerate(labels)
    ]
    rows.append(["best", *(f"{b:.4g}" for b in best), ""])
    rows.append(["lower bound (up to a constant)", *(f"{b:.4g}" for b in bounds), ""])
    constants = [
        ["best / lower bound", *(f"{a / b:.3g}" for a, b in zip(best, bounds,
                                                                strict=True)), ""]
    ]  # fmt: skip
    steps = [
        [
            label,
            *(
                f"{found[label, c].step * probe.constants.smoothness:.3g}"
                f" ({found[label, c].tau_max:.0f})"
                for c in columns
            ),
        ]
        for label in labels
    ]
    parts: list[Part] = [
        f"N = {n} workers, eps = {problem.target:.3g}, F(w0) - F* = {problem.gap:.4g}; "
        f"gradient descent at the step 1 / L needs about {problem.steps:.0f} "
        "iterations. Seconds until ||grad F||^2 <= eps first holds, mean and sample "
        f"standard deviation over {_SEEDS.value} seeds; '-' where a seed did not get "
        f"there within {_LIMIT.value:,} pushes or a little more than three times what "
        "gradient descent would need. Every method at the step that Theorem A "
        "recommends for its own schedule. One gradient of the fastest worker takes "
        "about a second.",
        picture,
        Table(f"Seconds to the target: {title}.",
              ["method", *columns, "worst / best"], rows + constants),
        Table(f"Step in units of 1 / L, and largest staleness: {title}.",
              ["method", *columns], steps),
        *_choices(labels, columns, relative, n),
        *_findings(labels, columns, relative),
    ]  # fmt: skip
    return Section(title[0].upper() + title[1:], parts)


def _choices(labels, columns, relative, n: int) -> list[Part]:
    """What single choices of the rules cost: two contestants that differ by one."""

    def row(start: str):
        place = [i for i, label in enumerate(labels) if label.startswith(start)]
        return relative[place[0]] if place else None

    half = n // 2
    stops = next((label for label in labels if label.endswith("stops")), "none")
    pairs = [
        ("DSSP grants extra iterations", "DSSP printed", "SSP"),
        ("DSSP's bound on the lead", "DSSP bounded", "DSSP printed"),
        ("DSSP waits at all", "DSSP printed", "ASP"),
        ("ABS restarts the too stale", f"ABS, K0 = {half}", f"K-async, K = {half}"),
        ("ABS starts with K = 1 and grows", "ABS, K0 = 1,", f"ABS, K0 = {half}"),
        ("Ringmaster stops the too stale", stops, "Ringmaster"),
        ("fresh rounds twice as large, with restarts", "K-batch-sync", "Rennala"),
        ("steps that fall with the delay", "ASP, Mishchenko", "ASP"),
    ]  # fmt: skip
    rows = []
    for choice, one, other in pairs:
        a, b = row(one), row(other)
        if a is None or b is None:
            continue
        shown = [_ratio(x, y) for x, y in zip(a, b, strict=True)]
        rows.append([choice, f"{one.rstrip(',')} / {other}", *shown])
    if not rows:
        return []
    return [
        Table("What single choices cost: time with it over time without it.",
              ["choice", "compared", *columns], rows)
    ]  # fmt: skip


def _findings(labels, columns, relative) -> list[str]:
    """What the table says, in words, from its numbers."""
    text = []
    if "abs_dssp" in labels:
        mine = relative[labels.index("abs_dssp")]
        place = int(np.argmax(mine))
        text.append(
            f"abs_dssp needs at most {mine.max():.2f} times as long as the best method "
            f"of its regime (worst where times are: {columns[place]})."
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


def _setting() -> Section:
    device = jax.devices()[0]
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
            f"Made on {outputs.today()}, {outputs.machine(device)}.",
        ],
    )


def _picture(relative, labels, columns, path: Path) -> Picture:
    with style.figure() as plt:
        from matplotlib.colors import LogNorm

        height = 0.8 + 0.2 * len(labels)
        figure, axes = plt.subplots(figsize=(6.6, height))
        shown = np.where(np.isfinite(relative), relative, np.nan)
        image = axes.imshow(
            shown, aspect="auto", cmap="cividis_r", norm=LogNorm(1, 100)
        )
        for i, row in enumerate(relative):
            for j, value in enumerate(row):
                text = f"{value:.1f}" if value < 99.5 else f"{value:.0f}"
                axes.text(
                    j, i, text if math.isfinite(value) else "never", ha="center",
                    va="center", fontsize=6, color="white" if value > 12 and
                    math.isfinite(value) else "black",
                )  # fmt: skip
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


def _worst(row) -> str:
    return f"{row.max():.2f}" if math.isfinite(row.max()) else "never"


def _seconds(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _spread(outcome: Outcome) -> str:
    if not math.isfinite(outcome.mean):
        return "-"
    text = _seconds(outcome.mean)
    if len(outcome.seconds) > 1:
        text += f" ± {np.std(outcome.seconds, ddof=1):.2g}"
    return text


if __name__ == "__main__":
    entry.run(main)
