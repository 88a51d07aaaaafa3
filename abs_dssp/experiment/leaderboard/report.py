"""The leaderboard's report: scores, profiles, and seconds of every method and case."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from abs_dssp.experiment import outputs
from abs_dssp.experiment.leaderboard import board, score
from abs_dssp.experiment.leaderboard.cases import CASES, NUM_WORKERS
from abs_dssp.experiment.leaderboard.race import DIVISIONS, GRID, Row
from abs_dssp.report import style
from abs_dssp.report.document import Part, Picture, Section, Table

TITLE = "Leaderboard"
_DRAWN = 6  # methods with a name in the picture


def sections(rows: Sequence[Row], seeds: int, out: Path) -> list[Section]:
    """Of both divisions, and how to read them."""
    divisions = [_division(rows, name, out) for name in reversed(DIVISIONS)]
    return [*divisions, _how(rows, seeds)]


def _division(rows: Sequence[Row], division: str, out: Path) -> Section:
    who, where, seconds = board.times(rows, division)
    ratios = score.ratios(seconds)
    points = score.score(ratios)
    order = np.argsort(-points, kind="stable")
    shares = score.profile(ratios, [1.05, 2.0, 5.0])
    ranking = [
        [
            f"{place}",
            who[i],
            f"{points[i]:.3f}",
            *(f"{share:.0%}" for share in shares[i]),
            f"{np.isinf(ratios[i]).sum()}",
        ]
        for place, i in enumerate(order, 1)
    ]
    nobody = [where[j] for j in np.flatnonzero(np.isinf(seconds).all(axis=0))]
    cells = [[who[i], *(_cell(value) for value in ratios[i])] for i in order]
    best = seconds.min(axis=0)
    cells.append(["seconds of the best", *(_cell(value, ".4g") for value in best)])
    parts: list[Part] = [
        _picture(who, ratios, order, division, out / f"profiles_{division}.png"),
        Table(
            f"Division *{division}*: score, share of the cases within a factor of the "
            "best, and cases in which a seed did not get there.",
            ["", "method", "score", "5 %", "2 x", "5 x", "never"],
            ranking,
        ),
        Table(
            "Time over that of the case's best method; '-' where a seed did not get "
            "there.",
            ["method", *where],
            cells,
        ),
    ]
    if nobody:
        parts.append(f"Nobody got there in: {'; '.join(nobody)}.")
    return Section(f"Steps {division}", parts)


def _cell(value: float, form: str = ".2f") -> str:
    return format(value, form) if np.isfinite(value) else "-"


def _picture(who, ratios, order, division: str, path: Path) -> Picture:
    factors = np.geomspace(1, score.WORST, 400)
    curves = score.profile(ratios, factors)
    with style.figure() as plt:
        figure, axes = plt.subplots(figsize=(5.2, 3.4))
        for i in order[_DRAWN:]:
            axes.step(factors, curves[i], color="0.8", linewidth=0.7, where="post")
        for number, i in enumerate(order[:_DRAWN]):
            look = style.line(number) | {"label": who[i], "where": "post"}
            axes.step(factors, curves[i], **look)
        axes.set_xscale("log")
        ticks = [1, 2, 5, 10, 20]
        axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(1, score.WORST)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("factor of the best method's time")
        axes.set_ylabel("share of the cases within it")
        axes.legend(loc="lower right", frameon=True, edgecolor="none", framealpha=0.9)
        style.save(figure, path)
    caption = (
        f"Performance profiles, steps {division}: the {_DRAWN} highest scores; the "
        "others in grey."
    )
    return Picture(path, caption)


def _how(rows: Sequence[Row], seeds: int) -> Section:
    there = {row.case for row in rows}
    absent = [case.name for case in CASES if case.name not in there]
    left_out = f" Not run: {'; '.join(absent)}." if absent else ""
    return Section(
        "How to read this",
        [
            f"{NUM_WORKERS} workers. A time is that until the mean of the measure over "
            "the last fifth of the commits is at most the target, in virtual seconds, "
            f"mean of {seeds} seeds. The cases are those of "
            f"`abs_dssp/experiment/leaderboard/cases.py`.{left_out}",
            "*recommended*: the step that Theorem A or D allows the method where the "
            "constants of the problem are known, and the method's own where it chooses "
            "steps itself; on digits and text every commit makes the same usual step. "
            f"*tuned*: the best of {len(GRID)} steps from {GRID[0]:g} to {GRID[-1]:g} "
            "times 1 / L, or times the usual step, by one run each with a seed that "
            "does not count: a budget that is the same for all.",
            "The score is the area under the profile over log factor: the mean over "
            f"cases of 1 - log(factor) / log({score.WORST:g}), 0 beyond. It compares "
            "those who took part: another method moves it. Methods that are given R = "
            "sigma^2 / eps know it exactly here, which they would not elsewhere. Rules "
            "whose rounds grow take part only where 2 R exceeds N; elsewhere they are "
            "the rules that do not, and their score counts these cases as never.",
            "Targets, and the pushes that are allowed, were set after trial runs of "
            "some of these methods; that of text was eased from 2.9 to 3.1 when most "
            "did not get to it in the pushes that the machine had time for.",
            "The same packages give the same rows on one machine. XLA compiles for the "
            "CPU that it finds, and another may add numbers up in another order: of "
            "rows that had been made before, on a CPU that was not written down, 373 "
            "of 396 came out again to the digit on 2026-11-30. The other 23 were all "
            "of text; in both divisions the first 15 places stayed, and later ones "
            "moved by up to 5.",
            f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}.",
        ],
    )
