"""How many times as long as any method must take does each method take?

    abs-dssp lower-bound --out=out/lower_bound

On a chain whose coordinates must be found one after another the lower bound holds
without a constant. Writes report.md and report.html.
"""

import sys
import time

import jax
from absl import flags

from abs_dssp.experiment import entry, flatness, outputs
from abs_dssp.report.document import Part, Section

_OUT = flags.DEFINE_string("out", "out/lower_bound", "Output folder.")
_WORKERS = flags.DEFINE_integer("num_workers", 32, "N.", lower_bound=2)
_LENGTH = flags.DEFINE_integer("length", 20, "Coordinates, T.", lower_bound=1)
_PROBABILITIES = flags.DEFINE_list(
    "probabilities", ["0.01", "0.05", "0.25"], "That a gradient shows the next one."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each.", lower_bound=1)
_LIMIT = flags.DEFINE_integer("max_pushes", 20_000, "Give up after.", lower_bound=100)
_PUBLISH = flags.DEFINE_string("publish", None, "Also write the report to this file.")


def main(argv):
    del argv
    begun = time.monotonic()
    out = outputs.folder(_OUT.value)
    parts: list[Part] = [
        "Every gradient shows the next coordinate of `tasks.zero_chain` with "
        "probability p, if it was begun where the one before was known: no method that "
        "takes steps only along what it has seen is faster on average than "
        "`theory.discovery_time`. A method that suits all worker times has the same "
        "ratio in every column.",
        "What the chain punishes is waiting, and work that is thrown away. What it "
        "does not: a stale gradient shows a coordinate as well as a fresh one, once "
        "the one before is known, and blindness is all the noise there is. So methods "
        "without either, as ASP, come within the scatter of the bound at a step that "
        "is tuned, which no theorem allows them; the ratio of one that collects "
        "batches shows how many gradients of a batch come after the one with the news.",
    ]
    for text in _PROBABILITIES.value:
        contest = flatness.Contest(
            num_workers=_WORKERS.value,
            length=_LENGTH.value,
            probability=_probability(text),
            seeds=_SEEDS.value,
            max_pushes=_LIMIT.value,
        )
        found = {}
        for label, policy in contest.methods().items():
            ratios = [
                flatness.over_bound(contest, policy, times)
                for times in contest.regimes().values()
            ]
            found[label] = ratios
            shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
            print(f"p = {text}, {label}: {shown}", file=sys.stderr, flush=True)
        parts.append(flatness.table(contest, found))
        note = (
            f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}, in "
            f"{time.monotonic() - begun:.0f} s."
        )
        sections = [Section("Time over the lower bound", [*parts, note])]
        outputs.save_report("No method is faster", sections, out, _PUBLISH.value)
    print(f"Written to {out}: report.md, report.html")


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(f"--probabilities: must be in (0, 1], got {text!r}.")
    return value


def run() -> None:
    """Runs the command."""
    entry.run(main)
