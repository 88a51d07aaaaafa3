"""One policy, one run, in virtual time; long runs are checkpointed and resumed.

    python experiments/train.py --policy="dssp(s_lower=3,s_upper=15)" --out=out/dssp

Writes to --out: trace.npz, history.csv, run.json, timeline.json (for ui.perfetto.dev),
timeline.png, accuracy.png and checkpoints/. The same command again goes on where the
run was interrupted.
"""

import json

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


def main(argv):
    del argv
    contender = run_flags.contender(_POLICY.value)
    run_flags.build_delays()
    task = run_flags.build_task()
    out = outputs.folder(_OUT.value)
    settings = run_flags.settings()
    identity = outputs.key({"settings": settings, "policy": contender.text,
                            "seed": _SEED.value, "target": _TARGET.value})  # fmt: skip
    kept = outputs.load_run(out, identity)
    if kept is not None:
        print(f"{out} holds this run already; remove it to train again.")
        return
    reporter = outputs.Reporter(contender.text)
    result = run_flags.train(
        task,
        contender,
        _SEED.value,
        target_accuracy=_TARGET.value,
        progress=reporter,
        checkpoint_dir=str(out / "checkpoints" / identity),
    )
    outputs.write(out / "settings.json", json.dumps(settings, indent=1))
    outputs.save_history(
        out / "history.csv", {(contender.text, _SEED.value): result.history}
    )
    timeline.save_chrome(result.trace, out / "timeline.json")
    timeline.save_picture([result.trace], out / "timeline.png")
    measure = "accuracy" if "accuracy" in result.history.names else "loss"
    runs = {contender.text: [result.history]}
    curves.save_curves(runs, out / f"{measure}.png", "seconds", measure, _TARGET.value)
    outputs.save_run(out, result, identity, _TARGET.value)
    entry = summary.over_seeds(
        contender.text, [summary.summarise(result, _TARGET.value)]
    )
    reporter.close("")
    print(f"{summary.table([entry])}\n\nWritten to {out}")
    if result.stopped not in ("end", "target"):
        raise ValueError(f"the run ended early: {result.stopped}.")


if __name__ == "__main__":
    run_flags.run(main)
