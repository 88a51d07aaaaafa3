"""Who reaches the target first: policies side by side on unequal simulated workers.

    python experiments/compare.py --out=out/compare
    python experiments/compare.py --policy="bsp()" --policy="ssp(s=3)" --out=out/two

Trains a real model under every policy and seed in virtual time. Writes to --out:
summary.json (one object per policy), history.csv, the traces, and PNGs: accuracy
against time and against rounds, staleness, timeline. Finished runs are kept: the same
command again computes only what is missing.
"""

import json
import time

import entry
import numpy as np
import outputs
import run_flags
from absl import flags

from abs_dssp.report import curves, summary, timeline
from abs_dssp.traces import Trace
from abs_dssp.training.evaluation import History

_POLICY = flags.DEFINE_multi_string(
    "policy",
    None,
    'Policy, repeatable; its own settings after ";", as in "bsp(); local_steps=4".',
)
_TARGET = flags.DEFINE_float(
    "target_accuracy", 0.95, "Accuracy whose time is taken.", lower_bound=0
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
    texts = list(_POLICY.value or default_policies(flags.FLAGS.workers))
    contenders = [run_flags.contender(text) for text in texts]
    run_flags.build_delays()
    task = run_flags.build_task()
    out = outputs.folder(_OUT.value)
    settings = run_flags.settings()
    outputs.write(out / "settings.json", json.dumps(settings, indent=1))
    entries = []
    histories: dict[tuple[str, int], History] = {}
    traces: dict[str, Trace] = {}
    for number, contender in enumerate(contenders, 1):
        runs = []
        for seed in range(_SEEDS.value):
            run = _run(task, contender, seed, out, settings, f"{number}/{len(texts)}")
            history = History(tuple(run["records"]), np.empty(0))
            histories[contender.text, seed] = history
            # A kept run may have been made for another target.
            runs.append(run["summary"] | summary.to_target(history, _TARGET.value))
            traces.setdefault(contender.text, run["trace"])
        entries.append(summary.over_seeds(contender.text, runs))
    outputs.write(out / "summary.json", json.dumps(entries, indent=1))
    outputs.save_history(out / "history.csv", histories)
    by_policy = {
        text: [histories[text, seed] for seed in range(_SEEDS.value)] for text in texts
    }
    names = {name for history in histories.values() for name in history.names}
    measure = "accuracy" if "accuracy" in names else "loss"
    target = _TARGET.value if measure == "accuracy" else None
    for against, name in (("seconds", "time"), ("version", "rounds")):
        path = out / f"{measure}_{name}.png"
        curves.save_curves(by_policy, path, against, measure, target)
    curves.save_staleness(traces, out / "staleness.png")
    timeline.save_picture(list(traces.values()), out / "timeline.png")
    print(
        f"\n{task.name}, {task.num_workers} workers, {_SEEDS.value} seed(s); "
        f"target accuracy {_TARGET.value}\n\n{summary.table(entries)}\n\n"
        f"Written to {out}: summary.json, history.csv, runs/, {measure}_time.png, "
        f"{measure}_rounds.png, staleness.png, timeline.png"
    )


def _run(task, contender, seed, out, settings, place):
    """One run, or what was kept of it."""
    own = [contender.text, contender.local_steps, contender.learning_rate]
    identity = outputs.key({"settings": settings, "own": own, "seed": seed})
    folder = out / "runs" / f"{outputs.slug(contender.text)}-seed{seed}"
    label = f"[{place}] {contender.text} seed {seed}"
    kept = outputs.load_run(folder, identity)
    if kept is not None:
        print(f"{label}: kept from before", flush=True)
        return kept
    reporter = outputs.Reporter(label)
    begun = time.monotonic()
    result = run_flags.train(task, contender, seed, progress=reporter)
    outputs.save_run(folder, result, identity, _TARGET.value)
    if seed == 0:
        timeline.save_chrome(result.trace, folder / "timeline.json")
    took = time.monotonic() - begun
    line = (
        f"{label}: {len(result.trace)} pushes, {result.trace.seconds:.1f} virtual s, "
        f"final accuracy {result.history.last('accuracy'):.4f} ({took:.1f} s)"
    )
    if result.stopped not in ("end", "target"):
        line += f"; ended early: {result.stopped}"
    reporter.close(line)
    saved = outputs.load_run(folder, identity)
    assert saved is not None
    return saved


if __name__ == "__main__":
    entry.run(main)
