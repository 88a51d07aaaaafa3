"""Which policy for these machines? Ranked by predicted time to a target.

    abs-dssp advise RUN_DIR --noise_ratio=50
    abs-dssp advise "constant(seconds=[1,1,1,2.7])" --noise_ratio=50
    abs-dssp advise 'csv("steps.csv")' --policy="my_rules:patient(lead=2)"

The argument is the folder of a recorded run, whose times are scheduled again under
every policy, or a delay model (its workers counted by its lists or its file, or
--num_workers). Policies of one's own are ranked among the others.
Predicted: seconds per commit over the step, which is the time per unit of progress; for
the step that the theory allows, and for a guess at what tuning finds. How well either
ranks methods was measured: docs/optimality.md.
"""

import itertools
import shlex

from absl import flags

from abs_dssp.experiment import advice, entry
from abs_dssp.experiment.progress import Progress

_RATIO = flags.DEFINE_float(
    "noise_ratio",
    None,
    "R = sigma^2 / eps: over how many gradients one averages until their mean is as "
    "noisy as the target. The number of workers by default.",
    lower_bound=0,
)
_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "N, for a delay model that does not say it.", lower_bound=1
)
_POLICY = flags.DEFINE_multi_string(
    "policy",
    [],
    'A policy to rank beside the others, repeatable; its aggregate after ";", as in '
    '"fedbuff(k=4); aggregate=sum", or else the one that it states.',
)
_PUSHES = flags.DEFINE_integer("pushes", 4000, "Pushes to schedule.", lower_bound=100)
_STEPS = flags.DEFINE_enum(
    "steps", "tuned", ["tuned", "theory"], "By which time policies are ranked."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of a random delay model.", lower_bound=0)


def main(argv):
    model = advice.worker_times(argv[1], _WORKERS.value)
    ratio = _RATIO.value or float(model.num_workers)
    tuned = _STEPS.value == "tuned"
    progress = Progress("advise", "rules")
    ranked, by_loss = advice.rank(
        model, ratio, _PUSHES.value, _SEED.value, tuned, _POLICY.value, progress.update
    )
    progress.close()
    # Some are one rule here, and take the same time.
    unlike = [next(a) for _, a in itertools.groupby(ranked, lambda a: a.time(tuned))]
    first = [f"--policy={shlex.quote(a.method.setting)}" for a in unlike[:3]]
    by = "a guess at the step that tuning finds" if tuned else "the theory's step"
    print(
        f"{model.num_workers} workers, R = {ratio:g}, {_PUSHES.value:,} pushes "
        f"scheduled: seconds per unit of progress, ranked by {by}; steps in units of "
        f"1 / L\n\n{advice.table(ranked, tuned)}\n\n"
        f"The first: {first[0]}\nCompare it with: {' '.join(first[1:])}\n"
        "Their steps differ: tune --learning_rate for each. How well such rankings "
        "did, and what it costs to follow one: docs/optimality.md."
    )
    if by_loss:
        print(f"Not ranked, since the loss drives them: {', '.join(by_loss)}.")


def run() -> None:
    """Runs the command."""
    entry.run(main, positional="RUN_DIR or a delay model")
