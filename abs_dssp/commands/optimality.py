"""How far is every policy from the best time that any method can achieve?

    abs-dssp optimality --out=out/optimality

Time until ||grad F||^2 <= eps holds and lasts, for every policy and regime of worker
times, at the step that the theory recommends for it and at the best step of one grid.
Writes report.md, report.html, pictures and outcomes.jsonl; what is in the last is not
measured again.
"""

import sys
from pathlib import Path

from absl import flags

from abs_dssp import compilation, extras
from abs_dssp.experiment import entry, methods, outputs
from abs_dssp.experiment.optimality import problems, regimes, report
from abs_dssp.experiment.optimality.comparison import Comparison, Kept
from abs_dssp.experiment.optimality.measure import Limits, Outcome

_OUT = flags.DEFINE_string("out", "out/optimality", "Output folder.")
_WORKERS = flags.DEFINE_integer("num_workers", 32, "N.", lower_bound=2)
_DIM = flags.DEFINE_integer("dim", 1000, "Of the tridiagonal quadratic.", lower_bound=2)
_TARGET = flags.DEFINE_float("target", 2e-4, "eps.", lower_bound=0)
_PROBLEMS = flags.DEFINE_list(
    "problems",
    ["tridiagonal:10", "logistic:100"],
    "Problems to solve, each with R = sigma^2 / eps, for all methods and regimes: "
    f"{', '.join(problems.KINDS)}.",
)
_BESIDE = flags.DEFINE_list(
    "beside",
    [],
    "Problems to solve with a few methods and regimes, each with a number of workers: "
    "tridiagonal:10:8.",
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Repetitions.", lower_bound=1)
_LIMIT = flags.DEFINE_integer("max_pushes", 40_000, "Give up after.", lower_bound=1000)
_ONLY = flags.DEFINE_multi_string(  # labels have commas in them
    "only", None, "Methods whose label contains this, or one of several."
)
_WHERE = flags.DEFINE_multi_string(  # labels have commas in them
    "where", None, "Regimes with this label, or one of several; all of them."
)
_FOR_DEATHS = flags.DEFINE_bool(
    "for_deaths", False, "Also rules with deadlines and backup workers."
)
_GROWTHS = flags.DEFINE_list(
    "growths", [], "Factors by which abs_dssp's rounds grow, each a method of its own."
)
_DATA = flags.DEFINE_string(
    "data_dir", None, "Folder with measured step times; without it they are left out."
)
_TITLE = flags.DEFINE_string("title", report.TITLE, "Of the report.")
_PUBLISH = flags.DEFINE_string(
    "publish",
    None,
    "Also write the report to this Markdown file, pictures and outcomes beside it; "
    "what was measured for it before is not measured again.",
)

# What `--beside` compares: labels begin so.
_FEW_METHODS = (
    *("BSP", "ASP,", "m-sync", "K-batch-sync", "ABS, K0 = 1,", "Malenia", "Ringleader"),
    *("Ringmaster, R = ", "abs_dssp"),
)
_FEW_REGIMES = ("i", "exponential", "alternating in threes", "Alibaba, job 4")


def main(argv):
    del argv
    extras.require("matplotlib", "a report with pictures")
    wanted: list[tuple[str, int | None]] = [(text, None) for text in _PROBLEMS.value]
    wanted += [_beside(text) for text in _BESIDE.value]
    parsed = [
        (problems.parse(text, _DIM.value, _TARGET.value), n) for text, n in wanted
    ]
    out = outputs.folder(_OUT.value)
    published = None
    if _PUBLISH.value is not None:
        published = Path(_PUBLISH.value).with_suffix("") / "outcomes.jsonl.xz"
    kept = Kept(out / "outcomes.jsonl", published)
    sections = []
    for problem, n in parsed:
        limits = Limits(n or _WORKERS.value, _SEEDS.value, _LIMIT.value)
        comparison = _compare(problem, limits, kept, few=n is not None)
        sections.append(report.section(comparison, out))
        outputs.save_report(_TITLE.value, [*sections, report.setting()], out)
    everything = [*sections, report.setting()]
    outputs.save_report(_TITLE.value, everything, out, _PUBLISH.value)
    if published is not None:
        kept.publish(published)
    print(f"Written to {out}: report.md, report.html and PNGs")


def _beside(text: str) -> tuple[str, int]:
    """Reads `NAME:R:N`."""
    name, _, number = text.rpartition(":")
    if not number.isdigit() or int(number) < 2:
        raise ValueError(
            f"--beside: expected a problem and at least 2 workers, such as "
            f"tridiagonal:10:8, got {text!r}."
        )
    return name, int(number)


def _compare(problem, limits: Limits, kept: Kept, few: bool) -> Comparison:
    """Measures the methods in the regimes, or takes what was measured before."""
    growths = [float(text) for text in _GROWTHS.value]
    n = limits.num_workers
    known = regimes.every(n, _DATA.value)
    names = [regime.label for regime in known]
    wanted = _WHERE.value or (_FEW_REGIMES if few else names)
    for name in _WHERE.value or ():
        if name not in names:
            raise ValueError(f"--where: unknown {name!r}; known: {', '.join(names)}.")
    places = [regime for regime in known if regime.label in wanted]
    more = methods.for_deaths(n) if _FOR_DEATHS.value else []
    chosen = [
        method
        for method in [*methods.recommended(n, problem.ratio, growths), *more]
        if (not few or method.label.startswith(_FEW_METHODS))
        and not (problem.large and method.aggregate in ("workers", "table"))
        and (not _ONLY.value or any(part in method.label for part in _ONLY.value))
    ]
    if not chosen:
        asked = " or ".join(_ONLY.value or ())
        raise ValueError(f"--only: no method is called {asked}.")
    outcomes: dict[tuple[str, str], Outcome] = {}
    for number, method in enumerate(chosen, 1):
        made = []
        for regime in places:
            made.append(kept.get(method, regime, problem, limits))
            compilation.release_programs()
        outcomes |= {
            (method.label, regime.label): outcome
            for regime, outcome in zip(places, made, strict=True)
        }
        times = ", ".join(report.seconds(outcome.best.mean) for outcome in made)
        where = f"{problem.label}, R = {problem.ratio:g} [{number}/{len(chosen)}]"
        print(f"{where} {method.label}: {times} s", file=sys.stderr, flush=True)
    return Comparison(problem, limits, chosen, places, outcomes)


def run() -> None:
    """Runs the command."""
    entry.run(main)
