"""Who reaches the target first: policies side by side on unequal simulated workers.

    abs-dssp compare --out=out/compare
    abs-dssp compare --policy="bsp()" --policy="ssp(s=3)" --out=out/two

Trains a real model under every policy and seed in virtual time. Writes to --out:
summary.json (one object per policy), results.csv (one row per policy and seed),
history.csv, the traces, and PNGs: accuracy against time, rounds and bytes, staleness,
timeline. Finished runs are kept: the same command again computes only what is missing;
more policies and seeds may be added, and other settings need another --out.
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any

from absl import flags

from abs_dssp import extras, files
from abs_dssp.experiment import comparison, entry, outputs, run_flags
from abs_dssp.experiment.progress import PushProgress
from abs_dssp.experiment.run import Run
from abs_dssp.history.traces import Trace, fingerprint
from abs_dssp.report import curves, summary, timeline

_POLICY = flags.DEFINE_multi_string(
    "policy",
    None,
    'Policy, repeatable; its own settings after ";", as in "bsp(); local_steps=4".',
)
_TARGET = flags.DEFINE_float("target_accuracy", 0.95, "Accuracy whose time is taken.")
flags.register_validator("target_accuracy", entry.accuracy)
_MEASURE = flags.DEFINE_string(
    "measure", None, "What the curves show; accuracy where there is one, by default."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs per policy.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Output folder.", required=True)
flags.adopt_module_key_flags(run_flags)  # --help lists them too


def default_policies(num_workers: int) -> list[str]:
    """The papers' set, for any number of workers."""
    half = max(1, num_workers // 2)
    return [
        "bsp()",
        "asp()",
        "ssp(s=3)",
        "dssp(s_lower=3,s_upper=15)",
        'dssp(s_lower=3,s_upper=15,variant="bounded")',
        f"k_sync(k={max(1, num_workers - 1)})",
        f"k_async(k={half})",
        "adasync(k0=1,interval=5)",
        "sa_adasync(k0=1,interval=5)",
        "local_sgd(); local_steps=8",
        "abs(k0=1,a=100)",
    ]


def main(argv):
    del argv
    given = _POLICY.value or default_policies(run_flags.settings()["workers"])
    texts = [text.strip() for text in given]
    pairs = itertools.product(texts, range(_SEEDS.value))
    runs = {(text, seed): run_flags.run(text, seed) for text, seed in pairs}
    task = run_flags.task()
    out = outputs.folder(_OUT.value)
    comparison.require_same(out, run_flags.settings(), texts, _SEEDS.value)
    settings = json.dumps(run_flags.settings(), indent=1)
    files.write(out / "settings.json", settings)
    made = {}
    for (text, seed), run in runs.items():
        label = f"[{texts.index(text) + 1}/{len(texts)}] {text} seed {seed}"
        made[text, seed] = _made(task, text, run, out, label)
    entries = _save(out, texts, runs, made)
    known = any(entry["final_accuracy"] is not None for entry in entries)
    target = f"; target accuracy {_TARGET.value}" if known else ""
    print(
        f"\n{task.name}, {task.num_workers} workers, {_SEEDS.value} seed(s){target}"
        f"\n\n{summary.table(entries)}\n\n"
        f"Written to {out}: summary.json, results.csv, history.csv, runs/, PNGs"
    )


def _made(task, text: str, run: Run, out: Path, label: str) -> dict[str, Any]:
    """One run, or what was kept of it."""
    own = [text, run.local_steps, run.learning_rate]
    settings = {"settings": run_flags.settings(), "own": own, "seed": run.seed}
    key = outputs.digest(settings)
    run_dir = out / "runs" / f"{outputs.slug(text)}-seed{run.seed}"
    kept = outputs.load_run(run_dir, key)
    if kept is not None:
        print(f"{label}: kept from before", flush=True)
        return kept
    progress = PushProgress(label, run.until_seconds)
    begun = time.monotonic()
    result = run.train(task, progress=progress, **run_flags.memory())
    outputs.save_run(run_dir, result, key, _TARGET.value)
    if run.seed == 0:
        timeline.save_chrome(result.trace, run_dir / "timeline.json")
    took, measure = time.monotonic() - begun, outputs.measure([result.history])
    line = (
        f"{label}: {len(result.trace)} pushes, {result.trace.seconds:.1f} virtual s, "
        f"final {measure} {result.history.last(measure):.4f} ({took:.1f} s)"
    )
    if result.stopped not in ("end", "target"):
        line += f"; ended early: {result.stopped}"
    progress.close(line)
    saved = outputs.load_run(run_dir, key)
    assert saved is not None
    return saved


def _save(
    out: Path,
    texts: list[str],
    runs: dict[tuple[str, int], Run],
    made: dict[tuple[str, int], dict[str, Any]],
):
    """Writes summary, evaluations and pictures; gives the entries of the summary."""
    histories = {name: outputs.kept_history(run) for name, run in made.items()}
    seeds = range(_SEEDS.value)
    rows = {  # a kept run may have been made for another target
        name: run["summary"] | summary.to_target(histories[name], _TARGET.value)
        for name, run in made.items()
    }
    comparison.save_results(out / "results.csv", runs, rows)
    entries = [
        summary.over_seeds(text, [rows[text, seed] for seed in seeds]) for text in texts
    ]
    files.write(out / "summary.json", json.dumps(entries, indent=1))
    outputs.save_history(out / "history.csv", histories)
    shown = {name: _with_megabytes(made[name], h) for name, h in histories.items()}
    by_policy = {text: [shown[text, seed] for seed in seeds] for text in texts}
    measure = _MEASURE.value or outputs.measure(histories.values())
    target = _TARGET.value if measure == "accuracy" else None
    if not extras.available("matplotlib", "a picture of them"):
        return entries
    axes = (("seconds", "time"), ("version", "rounds"), ("megabytes", "bytes"))
    for against, name in axes:
        path = out / f"{measure}_{name}.png"
        curves.save_curves(by_policy, path, against, measure, target)
    traces = {text: made[text, 0]["trace"] for text in texts}
    schedules = _different(traces)
    curves.save_staleness(schedules, out / "staleness.png")
    timeline.save_picture(list(schedules.values()), out / "timeline.png")
    return entries


def _different(traces: dict[str, Trace]) -> dict[str, Trace]:
    """Runs that differ in steps alone have one schedule: drawn once, by its rule."""
    found: dict[str, list[str]] = {}
    for text, trace in traces.items():
        found.setdefault(fingerprint(trace), []).append(text)
    alike = found.values()
    rules = [traces[texts[0]].policy for texts in alike]
    return {
        texts[0] if len(texts) == 1 or rules.count(rule) > 1 else rule: traces[texts[0]]
        for texts, rule in zip(alike, rules, strict=True)
    }


def _with_megabytes(run: dict[str, Any], history):
    """The evaluations of a kept run, with what had been sent."""
    large = 10**9  # a trace of fragments sends parts of the parameters
    each = run["summary"]["bytes_sent"] * large / run["trace"].bytes_sent(large)
    return summary.with_megabytes(history, run["trace"], round(each))


def run() -> None:
    """Runs the command."""
    entry.run(main)
