"""What other policies would have done with the times that a run recorded.

    python experiments/whatif.py RUN_DIR --policy="bsp()" --policy="dssp()"
    python experiments/whatif.py RUN_DIR --policy="bsp(); local_steps=8" --train

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

import entry
import numpy as np
import outputs
import run_flags
from absl import flags

from abs_dssp import policies, simulate, traces, whatif
from abs_dssp.history import transition
from abs_dssp.replay import Result
from abs_dssp.report import curves, summary, timeline
from abs_dssp.traces import Trace
from abs_dssp.training.evaluation import History

_POLICY = flags.DEFINE_multi_string(
    "policy",
    ["bsp()", "asp()", "ssp(s=3)", "dssp()", "abs()"],
    'Policy, repeatable; its own settings after ";", as in "bsp(); local_steps=4".',
)
_TRANSFERS = flags.DEFINE_bool(
    "transfers", True, "Count the recorded communication; else computation alone."
)
_TRAIN = flags.DEFINE_bool("train", False, "Train under every policy as well.")
_TARGET = flags.DEFINE_float(
    "target_accuracy", None, "Accuracy whose time is taken.", lower_bound=0
)
_OUT = flags.DEFINE_string("out", None, "Output folder; RUN_DIR/whatif by default.")
flags.adopt_module_key_flags(run_flags)  # --help lists them too


def main(argv):
    place = Path(argv[1])
    trace = traces.Trace.load(place / "trace.npz")
    recorded = whatif.figures(trace) | {"policy": f"recorded: {trace.policy}"}
    _adopt(place, trace)
    contenders = [run_flags.contender(text) for text in _POLICY.value]
    task = run_flags.build_task() if _TRAIN.value else None
    out = outputs.folder(_OUT.value or str(place / "whatif"))
    found: list[Trace] = []
    results: dict[str, Result] = {}
    for contender in contenders:
        if task is not None:
            results[contender.text] = _train(trace, contender, task)
        if results and policies.reads_loss(contender.policy, trace.num_workers):
            found.append(results[contender.text].trace)
        else:
            found.append(_schedule(trace, contender))
    entries = [recorded] + [
        whatif.figures(again) | {"policy": contender.text}
        for again, contender in zip(found, contenders, strict=True)
    ]
    notes = whatif.caveats(trace)
    for contender in contenders:
        if task is None and policies.reads_loss(contender.policy, trace.num_workers):
            notes.append(
                f"{contender.text} goes by the training loss and was scheduled without "
                "one; --train gives it one."
            )
    check = _check(trace)
    document = {"recorded": entries[0], "policies": entries[1:], "check": check,
                "notes": notes}  # fmt: skip
    shown = dataclasses.replace(trace, policy=recorded["policy"])
    timeline.save_picture([shown, *found], out / "timeline.png")
    kind = "real" if trace.recorded else "virtual"
    print(
        f"{trace.task or 'no task'}, {trace.num_workers} workers, {len(trace)} pushes "
        f"in {trace.seconds:.4g} {kind} s\n\n{whatif.table(entries)}\n\ncheck: {check}"
    )
    for note in notes:
        print(f"note: {note}")
    if results:
        document["trained"] = _save_training(out, place, recorded["policy"], results)
    outputs.write(out / "whatif.json", json.dumps(document, indent=1))
    print(f"\nWritten to {out}")


def _adopt(place: Path, trace: Trace) -> None:
    """Flags that were not given are those of the run."""
    if (place / "settings.json").exists():
        saved = outputs.load_settings(place)
        if not isinstance(saved, dict):
            raise ValueError(f"{place / 'settings.json'} is damaged.")
        run_flags.adopt(saved)
    workers = flags.FLAGS["workers"]
    if workers.present and workers.value != trace.num_workers:
        raise ValueError(
            f"--workers: the run has {trace.num_workers} workers, got {workers.value}."
        )
    workers.value = trace.num_workers
    steps = flags.FLAGS["local_steps"]
    if not steps.present:
        steps.value = trace.local_steps


def _schedule(trace: Trace, contender: run_flags.Contender) -> Trace:
    return whatif.reschedule(
        trace,
        contender.policy,
        local_steps=contender.local_steps,
        communication=_TRANSFERS.value,
    )


def _train(trace: Trace, contender: run_flags.Contender, task) -> Result:
    """Trains in virtual time, on the recorded times."""
    steps = contender.local_steps
    if flags.FLAGS["epochs"].present or flags.FLAGS["until"].present:
        limits = run_flags.limits()
    else:
        pushes = round(len(trace) * trace.local_steps / steps)
        limits = {"num_pushes": max(1, pushes)}
    reporter = outputs.Reporter(contender.text)
    result = simulate.train(
        task,
        contender.policy,
        whatif.delays_of(trace, local_steps=steps, communication=_TRANSFERS.value),
        run_flags.optimizer(contender.learning_rate),
        seed=trace.seed,
        local_steps=steps,
        local_optimizer=run_flags.optimizer(contender.learning_rate, local=True),
        aggregate=flags.FLAGS.aggregate,
        width=flags.FLAGS.width,
        eval_every_commits=flags.FLAGS.eval_every_commits,
        eval_every_seconds=max(trace.seconds, 1e-12) / flags.FLAGS.evaluations,
        target_accuracy=_TARGET.value,
        progress=reporter,
        **limits,
    )
    reporter.close(f"{contender.text}: {len(result.trace)} pushes")
    return result


def _check(trace: Trace) -> str:
    """Whether the run's own policy, given its own times, decides as recorded."""
    if trace.events:
        return "not possible; workers left or joined, or a push was refused."
    try:
        policy = policies.parse(trace.policy, trace.num_workers)
    except (ValueError, TypeError) as error:
        return f"not possible; {error}"
    if policies.reads_loss(policy, trace.num_workers):
        return "not possible; the run's policy goes by the training loss."
    again = whatif.reschedule(trace, policy, replayable=True)
    difference = transition.first_difference(trace, again)
    if difference:
        return f"the run's own policy decides otherwise: {difference}."
    return "the run's own policy gives the recorded decisions, row by row."


def _save_training(out, place, name, results: dict[str, Result]) -> list[dict]:
    """The trainings' summaries; the run's own comes first, if it left one."""
    histories = {text: result.history for text, result in results.items()}
    runs = {
        text: summary.summarise(result, _TARGET.value)
        for text, result in results.items()
    }
    try:
        record = json.loads((place / "run.json").read_text())
        history = History(tuple(record["records"]), np.empty(0))
        own = {field: record["summary"][field] for field in summary.FIELDS}
    except (OSError, ValueError, KeyError, TypeError):  # not a run of train.py
        pass
    else:
        histories = {name: history} | histories
        runs = {name: own | summary.to_target(history, _TARGET.value)} | runs
    outputs.save_history(
        out / "history.csv", {(text, 0): h for text, h in histories.items()}
    )
    names = {column for history in histories.values() for column in history.names}
    measure = "accuracy" if "accuracy" in names else "loss"
    curves.save_curves(
        {text: [history] for text, history in histories.items()},
        out / f"{measure}.png", "seconds", measure, _TARGET.value,
    )  # fmt: skip
    trained = [summary.over_seeds(text, [run]) for text, run in runs.items()]
    print(f"\ntrained:\n\n{summary.table(trained)}")
    return trained


if __name__ == "__main__":
    entry.run(main, positional="RUN_DIR")
