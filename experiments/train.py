"""One policy, one run: in virtual time, or on real processes.

    python experiments/train.py --policy="dssp(s_lower=3,s_upper=15)" --out=out/dssp
    python experiments/train.py --cluster=local --processes=4 --slowdown="[1,1,1,2.7]" \
        --policy="dssp(s_lower=3,s_upper=15)" --out=out/real

Writes to --out: trace.npz, history.csv, run.json, timeline.json (for ui.perfetto.dev),
timeline.png, accuracy.png and checkpoints/; a real run its log, tensorboard/ and logs/
too. The same command again goes on where the run was interrupted.
"""

import json
import sys

import cluster_flags
import entry
import outputs
import run_flags
from absl import flags

from abs_dssp.report import curves, summary, timeline

_POLICY = flags.DEFINE_string(
    "policy", "dssp(s_lower=3,s_upper=15)", "Policy, with its arguments."
)
_TARGET = flags.DEFINE_float(
    "target_accuracy", None, "Stop at this accuracy.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "Output folder.", required=True)
flags.adopt_module_key_flags(run_flags)  # --help lists them too
flags.adopt_module_key_flags(cluster_flags)


def main(argv):
    del argv
    out = outputs.folder(_OUT.value)
    if cluster_flags.is_launcher():
        status = cluster_flags.launch(out)
        if status:
            sys.exit(status)
        return
    cluster = cluster_flags.join(out) if cluster_flags.wanted() else None
    contender = run_flags.contender(_POLICY.value)
    run_flags.build_delays()
    task = run_flags.build_task()
    settings = run_flags.settings()
    if cluster is not None:
        settings |= cluster_flags.record()
    identity = outputs.key({"settings": settings, "policy": contender.text,
                            "seed": _SEED.value, "target": _TARGET.value})  # fmt: skip
    kept = outputs.load_run(out, identity)
    if kept is not None:
        print(f"{out} holds this run already; remove it to train again.")
        return
    settings |= {"policy": contender.text, "seed": _SEED.value}
    if cluster is None:
        result = _virtual(task, contender, out, identity)
    else:
        if cluster.is_server:
            outputs.write(out / "settings.json", json.dumps(settings, indent=1))
        result = cluster_flags.train(
            cluster, task, contender, _SEED.value, out, _TARGET.value
        )
        if result is None:
            return
    outputs.write(out / "settings.json", json.dumps(settings, indent=1))
    if len(result.trace):
        _save(out, contender, result, identity)
    if result.stopped not in ("end", "target"):
        raise ValueError(
            f"the run ended early: {result.stopped}."
            + ("" if cluster is None else " The same command goes on with it.")
        )


def _virtual(task, contender, out, identity):
    reporter = outputs.Reporter(contender.text)
    result = run_flags.train(
        task,
        contender,
        _SEED.value,
        target_accuracy=_TARGET.value,
        progress=reporter,
        checkpoint_dir=str(out / "checkpoints" / identity),
    )
    reporter.close("")
    return result


def _save(out, contender, result, identity):
    """Everything that a run leaves; `run.json` last, if it is complete."""
    name = (contender.text, _SEED.value)
    outputs.save_history(out / "history.csv", {name: result.history})
    timeline.save_chrome(result.trace, out / "timeline.json")
    timeline.save_picture([result.trace], out / "timeline.png")
    measure = "accuracy" if "accuracy" in result.history.names else "loss"
    runs = {contender.text: [result.history]}
    curves.save_curves(
        runs, out / f"{measure}.png", "seconds", measure, _TARGET.value,
        real=result.trace.recorded,
    )  # fmt: skip
    if result.stopped.startswith("interrupted"):
        result.trace.save(out / "trace.npz")
    else:
        outputs.save_run(out, result, identity, _TARGET.value)
    entry = summary.over_seeds(
        contender.text, [summary.summarise(result, _TARGET.value)]
    )
    print(f"{summary.table([entry])}\n\nWritten to {out}")


if __name__ == "__main__":
    entry.run(main)
