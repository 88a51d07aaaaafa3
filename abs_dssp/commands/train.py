r"""One policy, one run: in virtual time, or on real processes.

    abs-dssp train --policy="dssp(s_lower=3,s_upper=15)" --out=out/dssp
    abs-dssp train --cluster=local --processes=4 --slowdown="[1,1,1,2.7]" \
        --policy="dssp(s_lower=3,s_upper=15)" --out=out/real

Writes to --out: trace.npz, history.csv, run.json, timeline.json (for ui.perfetto.dev),
timeline.png, accuracy.png and checkpoints/; a real run its log, tensorboard/ and logs/
too. The same command again goes on where the run was interrupted.
"""

import json
import sys
from pathlib import Path

from absl import flags

from abs_dssp import extras, files
from abs_dssp.experiment import cluster_flags, entry, outputs, run_flags
from abs_dssp.experiment.progress import PushProgress
from abs_dssp.experiment.run import Run
from abs_dssp.replay import Result
from abs_dssp.report import curves, spent, summary, timeline

_POLICY = flags.DEFINE_string(
    "policy",
    "dssp(s_lower=3,s_upper=15)",
    "Policy, with its arguments; one. compare.py takes several.",
    allow_overwrite=False,
)
_TARGET = flags.DEFINE_float("target_accuracy", None, "Stop at this accuracy.")
flags.register_validator("target_accuracy", entry.accuracy)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "Output folder.", required=True)
_LOST = 3  # exit status of a run that is over and had lost workers
flags.adopt_module_key_flags(run_flags)  # --help lists them too
flags.adopt_module_key_flags(cluster_flags)


def main(argv):
    del argv
    out = outputs.folder(_OUT.value)
    if cluster_flags.wanted():
        run_flags.refuse_on_processes(_POLICY.value)
    if cluster_flags.is_launcher():
        status = cluster_flags.launch(out)
        if status:
            sys.exit(status)
        return
    cluster = cluster_flags.join(out) if cluster_flags.wanted() else None
    run = run_flags.run(_POLICY.value, _SEED.value)
    text = _POLICY.value.strip()
    task = run_flags.task()
    settings = run_flags.settings()
    if cluster is not None:
        settings |= cluster_flags.record()
    own = {"policy": text, "seed": run.seed}
    key = outputs.digest({"settings": settings, "target": _TARGET.value} | own)
    if outputs.load_run(out, key) is not None:
        print(f"{out} holds this run already; remove it to train again.")
        return
    if cluster is None and (out / "run.json").exists():
        raise ValueError(
            f"--out: {out} holds a run of another policy, of other settings or of "
            "other versions of the packages; give another folder."
        )
    record = json.dumps(settings | own, indent=1)
    if cluster is None:
        result, spent_on = _virtual(task, run, out, key), None
        files.write(out / "settings.json", record)
    else:
        joint = cluster_flags.train(cluster, task, run, out, _TARGET.value, record)
        if joint is None:  # this is not process 0, and the run is over
            return
        result = joint.result
        spent_on = None if joint.status is None else spent.summarise(joint.status)
    if len(result.trace):
        _save(out, text, run, result, key, spent_on)
    if result.stopped not in ("end", "target"):
        early = f"the run ended early: {result.stopped}."
        if cluster is None:
            raise ValueError(early)
        again = f"{early} The same command goes on with it."
        cluster_flags.end_early(result.stopped, again)
    if result.missing:
        print(
            f"the run is over, but without workers that it was told to expect: "
            f"{result.missing}; look at their logs.",
            file=sys.stderr,
        )
        sys.exit(_LOST)


def _virtual(task, run: Run, out: Path, key: str) -> Result:
    progress = PushProgress(_POLICY.value, run.until_seconds)
    result = run.train(
        task,
        target_accuracy=_TARGET.value,
        progress=progress,
        checkpoint_dir=str(out / "checkpoints" / key),
        **run_flags.memory(),
    )
    progress.close()
    return result


def _save(
    out: Path, text: str, run: Run, result: Result, key: str, spent_on: dict | None
) -> None:
    """Everything that a run leaves; `run.json` last, if it is complete."""
    trace, history = result.trace, result.history
    outputs.save_history(out / "history.csv", {(text, run.seed): history})
    timeline.save_chrome(trace, out / "timeline.json")
    if extras.available("matplotlib", "a picture of the run"):
        timeline.save_picture([trace], out / "timeline.png")
        measure = outputs.measure([history])
        path, target = out / f"{measure}.png", _TARGET.value
        shown = {text: [history]}
        curves.save_curves(shown, path, "seconds", measure, target, real=trace.recorded)
    if result.stopped.startswith("interrupted"):
        trace.save(out / "trace.npz")
    else:
        more = {} if spent_on is None else {"spent": spent_on}
        outputs.save_run(out, result, key, _TARGET.value, **more)
    row = summary.over_seeds(text, [summary.summarise(result, _TARGET.value)])
    print(f"{summary.table([row])}\n")
    if spent_on is not None:
        print(f"{spent.table(spent_on)}\n")
    print(f"Written to {out}")


def run() -> None:
    """Runs the command."""
    entry.run(main, mistake=cluster_flags.status_of_a_mistake(sys.argv[1:]))
