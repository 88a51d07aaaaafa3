"""How far is every policy from the best time that any method can achieve?

    python experiments/optimality.py --out=out/optimality

Time until ||grad F||^2 <= eps, for every policy at its own recommended step (Theorem A
with the constants of its own schedule) and regimes of worker times. Writes report.md,
report.html, a picture and outcomes.jsonl; what is in the last is not run again.
"""

import gc
import math
import sys

import jax
from absl import flags

from abs_dssp.experiment import entry, methods, optimality, optimality_report, outputs
from abs_dssp.experiment.optimality import Comparison, Kept, Limits, Outcome, Problem

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
_ONLY = flags.DEFINE_list("only", None, "Methods whose label contains one of them.")
_PUBLISH = flags.DEFINE_string(
    "publish", None, "Also write the report to this Markdown file, pictures beside it."
)


def main(argv):
    del argv
    out = outputs.folder(_OUT.value)
    limits = Limits(_WORKERS.value, _SEEDS.value, _LIMIT.value)
    kept = Kept(out / "outcomes.jsonl")
    sections = []
    for text in _PROBLEMS.value:
        comparison = _compare(_problem(text), limits, kept)
        sections.append(optimality_report.section(comparison, out))
    sections.append(optimality_report.setting())
    outputs.save_report(optimality_report.TITLE, sections, out, _PUBLISH.value)
    print(f"Written to {out}: report.md, report.html and PNGs")


def _problem(text: str) -> Problem:
    """Reads `NAME:RATIO`."""
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
        return optimality.tridiagonal(ratio, _DIM.value, _TARGET.value)
    if name == "logistic":
        return optimality.logistic(ratio, samples=5000, dim=20, target=2e-4)
    raise ValueError(f"--problems: unknown {name!r}; known: tridiagonal, logistic.")


def _compare(problem: Problem, limits: Limits, kept: Kept) -> Comparison:
    """Measures every method in every regime, or takes what was measured before."""
    regimes = optimality.regimes(limits.num_workers)
    chosen = [
        method
        for method in methods.recommended(limits.num_workers, problem.ratio)
        if not _ONLY.value or any(part in method.label for part in _ONLY.value)
    ]
    if not chosen:
        raise ValueError(f"--only: no method is called {_ONLY.value}.")
    outcomes: dict[tuple[str, str], Outcome] = {}
    for number, method in enumerate(chosen, 1):
        made = [kept.get(method, regime, problem, limits) for regime in regimes]
        outcomes |= {
            (method.label, regime.label): outcome
            for regime, outcome in zip(regimes, made, strict=True)
        }
        # Programs of hundreds of shapes would use up the process's memory maps.
        jax.clear_caches()
        gc.collect()
        times = ", ".join(optimality_report.seconds(outcome.mean) for outcome in made)
        where = f"{problem.label}, R = {problem.ratio:g} [{number}/{len(chosen)}]"
        print(f"{where} {method.label}: {times} s", file=sys.stderr, flush=True)
    return Comparison(problem, limits, chosen, regimes, outcomes)


if __name__ == "__main__":
    entry.run(main)
