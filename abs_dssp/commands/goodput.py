"""What of the work is of use while workers die and return, rule by rule.

    abs-dssp goodput --out=out/goodput

In virtual time, with 8, 100 and 1,000 workers that die and return at random. Writes
report.md, report.html, a PNG per kind of failures, and goodput.jsonl with what was
measured: the same command again measures only what is missing there.
"""

import sys
from pathlib import Path

import jax
from absl import flags

from abs_dssp import extras
from abs_dssp.experiment import entry, goodput, outputs
from abs_dssp.experiment.goodput import Failures
from abs_dssp.report.document import Part, Picture, Section

_OUT = flags.DEFINE_string("out", "out/goodput", "Output folder.")
_WORKERS = flags.DEFINE_list("num_workers", ["8", "100", "1000"], "N, several.")
_FAILURES = flags.DEFINE_multi_string(
    "failures",
    ["240,30,5", "3600,60,10"],
    "Mean seconds up, mean seconds away, seconds until it is noticed; repeatable.",
)
_PUSHES = flags.DEFINE_integer(
    "pushes", 250_000, "Gradients of a run about; it has 200 to 4000 s.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each up to 100 workers, above: 1.")
_ONLY = flags.DEFINE_multi_string(  # rules have commas in them
    "only", None, "Rules whose text contains this, or one of several."
)
_REAL = flags.DEFINE_multi_string(
    "real", [], "A result.json of scripts/chaos, which gets a section; repeatable."
)
_PUBLISH = flags.DEFINE_string("publish", None, "Also write the report to this file.")
_ONE_SEED = 100  # workers; with more there is one seed
_SHORTEST, _LONGEST = 200.0, 4000.0  # seconds

WORDS = (
    "Goodput is the number of pushes that entered a commit per second. It is given "
    "over that of the same rule without faults, for the same seeds and so many "
    "seconds, and over N / mean step time, which N workers reach that never wait. What "
    "is discarded, cancelled or lost at a death does not count, nor what is pending at "
    "the end. The shares are of the seconds of all N workers: waiting; lost in "
    "computations that a death ended, until it was noticed; away, from there to the "
    "return; thrown away in computations that were cancelled or whose push was "
    "discarded.",
    "A step takes 0.8 s and an exponential time of mean 0.2 s. Every worker dies and "
    "returns independently of the others, at exponential times, and loses its "
    "computation. Nothing else costs time: no communication, no checkpoints, and the "
    "server never dies.",
    "A worker dies at the same rate with every N, so that somewhere there is a death N "
    "times as often, as where chips fail at a rate of their own. Decoupled DiLoCo "
    "(arXiv 2604.21428) is about such failures; its text was not available, so the "
    "rates and the times away are ours.",
    "Whoever waits for everybody waits for a dead worker until it is missed, and for "
    "one that has returned until it has computed. With enough workers there is always "
    "one of either. Rules that wait for few enough of them, or for nobody, lose little "
    "more than the dead do; backup workers are used up by those that are away. Above "
    "the share of time that workers are alive are rules that discard fewer pushes when "
    "there are fewer workers, and rounds of a fixed size that have fewer of them to "
    "wait for. All runs begin with everybody there, so that short ones see fewer away.",
    "How good a push is, is not measured here: a rule that uses stale pushes has more "
    "of them, and each may be worth less (see the comparison of times to a target).",
)


def main(argv):
    del argv
    kinds = [_failures(text) for text in _FAILURES.value]
    counts = [_count(text) for text in _WORKERS.value]
    out = outputs.folder(_OUT.value)
    kept = goodput.Kept(out / "goodput.jsonl")
    sections = []
    for number, failures in enumerate(kinds):
        found = {count: _measured(count, failures, kept) for count in counts}
        parts: list[Part] = []
        if extras.available("matplotlib", "a picture of them"):
            path = out / f"failures{number}.png"
            goodput.save_picture(found, failures, path)
            caption = "Goodput over that without faults; the line is the share of the "
            parts.append(Picture(path, caption + "time that a worker is alive."))
        parts += [goodput.table(count, failures, rows) for count, rows in found.items()]
        title = f"A death every {failures.mean_up + failures.mean_down:g} s per worker"
        sections.append(Section(title, parts))
    seeds = f"Means over {_SEEDS.value} seeds up to {_ONE_SEED} workers, one above."
    lengths = ", ".join(f"{_seconds(count):g} s with {count}" for count in counts)
    note = f"Made on {outputs.today()}, {outputs.machine(jax.devices()[0])}. {seeds} "
    note += f"Length of the runs: {lengths} workers."
    sections = [Section("What is measured", [*WORDS, note]), *sections]
    sections += [_real(Path(path)) for path in _REAL.value]
    title = "Goodput under deaths and returns"
    outputs.save_report(title, sections, out, _PUBLISH.value)
    print(f"Written to {out}: report.md, report.html, goodput.jsonl")


def _measured(
    count: int, failures: Failures, kept: goodput.Kept
) -> dict[str, goodput.Goodput]:
    """Every rule with so many workers."""
    seconds = _seconds(count)
    seeds = range(_SEEDS.value if count <= _ONE_SEED else 1)
    found = {}
    for rule in goodput.rules(count):
        if _ONLY.value and not any(word in rule for word in _ONLY.value):
            continue
        found[rule] = kept.measured(rule, count, failures, seconds, seeds)
        line = f"N = {count}, {rule}: {100 * found[rule].relative:.1f} %"
        print(line, file=sys.stderr, flush=True)
    if not found:
        asked = " or ".join(_ONLY.value or ())
        raise ValueError(f"--only: no rule's text contains {asked}.")
    return found


def _seconds(count: int) -> float:
    """How long a run with so many workers is."""
    return max(_SHORTEST, min(_LONGEST, _PUSHES.value / count))


def _real(path: Path) -> Section:
    """What `scripts/chaos` measured."""
    result = outputs.load_json(path)
    if result is None or "fire" not in result:
        raise ValueError(f"--real: {path} is no result.json of scripts/chaos.")
    return goodput.real(result)


def _failures(text: str) -> Failures:
    try:
        up, down, detection = map(float, text.split(","))
        if up > 0 and down >= 0 and detection >= 0:
            return Failures(up, down, detection)
    except ValueError:
        pass
    raise ValueError(
        f"--failures: expected three numbers of seconds such as 240,30,5, got {text!r}."
    )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise ValueError(
            f"--num_workers: expected whole numbers of at least 2, got {text!r}."
        )
    return int(text)


def run() -> None:
    """Runs the command."""
    entry.run(main)
