"""What other policies would have done with the times that a run recorded.

    abs-dssp whatif RUN_DIR --policy="bsp()" --policy="dssp()"
    abs-dssp whatif RUN_DIR --policy="bsp(); local_steps=8" --train

RUN_DIR holds the trace.npz of a real run, or of one in virtual time; flags that are not
given are read from its settings.json, if there is one. Re-schedules the recorded times
of computation and communication, and first of all under the run's own policy: the line
"check" says whether that gave the recorded decisions. With --train also trains
under every policy, for as many gradient steps as were recorded, or --epochs or --until.

Writes to --out (RUN_DIR/whatif): whatif.json, timeline.png and, with --train,
history.csv and accuracy.png. See abs_dssp/whatif.py for what is assumed.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from absl import flags

from abs_dssp import extras, files, traces, whatif
from abs_dssp.experiment import entry, outputs, run_flags, what_if
from abs_dssp.report import summary, timeline
from abs_dssp.traces import Trace

_POLICY = flags.DEFINE_multi_string(
    "policy",
    ["bsp()", "asp()", "ssp(s=3)", "dssp()", "abs()"],
    'Policy, repeatable; its own settings after ";", as in "bsp(); local_steps=4".',
)
_TRANSFERS = flags.DEFINE_bool(
    "transfers", True, "Count the recorded communication; else computation alone."
)
_TRAIN = flags.DEFINE_bool("train", False, "Train under every policy as well.")
_TARGET = flags.DEFINE_float("target_accuracy", None, "Accuracy whose time is taken.")
flags.register_validator("target_accuracy", entry.accuracy)
_OUT = flags.DEFINE_string("out", None, "Output folder; RUN_DIR/whatif by default.")
flags.adopt_module_key_flags(run_flags)  # --help lists them too


def main(argv):
    run_dir = Path(argv[1])
    trace = traces.Trace.load(run_dir / "trace.npz")
    name = f"recorded: {trace.policy}"
    recorded = whatif.figures(trace) | {"policy": name}
    _adopt(run_dir, trace)
    runs = {text.strip(): run_flags.run(text, trace.seed) for text in _POLICY.value}
    task = run_flags.task() if _TRAIN.value else None
    out = outputs.folder(_OUT.value or str(run_dir / "whatif"))
    results = {}
    if task is not None:
        timed = any(flags.FLAGS[name].present for name in ("epochs", "until"))
        for text, run in runs.items():
            changed = {} if timed else what_if.as_recorded(trace, run)
            changed |= {"target_accuracy": _TARGET.value, "width": flags.FLAGS.width}
            results[text] = what_if.train(
                trace, text, run, task, _TRANSFERS.value, **changed
            )
    schedules = what_if.schedules(trace, runs, results, _TRANSFERS.value)
    entries = [
        whatif.figures(schedule) | {"policy": text}
        for text, schedule in schedules.items()
    ]
    document: dict[str, Any] = {
        "recorded": recorded,
        "policies": entries,
        "check": what_if.check(trace),
        "notes": what_if.notes(trace, runs, trained=bool(results)),
    }
    shown = dataclasses.replace(trace, policy=name)
    if extras.available("matplotlib", "a picture of them"):
        timeline.save_picture([shown, *schedules.values()], out / "timeline.png")
    kind = "real" if trace.recorded else "virtual"
    print(
        f"{trace.task or 'no task'}, {trace.num_workers} workers, {len(trace)} pushes "
        f"in {trace.seconds:.4g} {kind} s\n\n{whatif.table([recorded, *entries])}\n\n"
        f"check: {document['check']}"
    )
    for note in document["notes"]:
        print(f"note: {note}")
    if results:
        trained = what_if.save_training(out, run_dir, name, results, _TARGET.value)
        print(f"\ntrained:\n\n{summary.table(trained)}")
        document["trained"] = trained
    files.write(out / "whatif.json", json.dumps(document, indent=1))
    print(f"\nWritten to {out}")


def _adopt(run_dir: Path, trace: Trace) -> None:
    """Flags that were not given are those of the run."""
    if (run_dir / "settings.json").exists():
        run_flags.adopt(outputs.load_settings(run_dir))
    workers = flags.FLAGS["workers"]
    if workers.present and workers.value != trace.num_workers:
        raise ValueError(
            f"--workers: the run has {trace.num_workers} workers, got {workers.value}."
        )
    run_flags.put("workers", trace.num_workers)
    steps = flags.FLAGS["local_steps"]
    if not steps.present:
        steps.value = trace.local_steps


def run() -> None:
    """Runs the command."""
    entry.run(main, positional="RUN_DIR")
