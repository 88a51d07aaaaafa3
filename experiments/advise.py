"""Which policy for these machines? Ranked by predicted time to a target.

    python experiments/advise.py RUN_DIR --noise_ratio=50
    python experiments/advise.py "constant(seconds=[1,1,1,2.7])" --noise_ratio=50

The argument is the folder of a recorded run, whose times are scheduled again under
every policy, or a delay model (its workers counted by its lists, or --num_workers).
Predicted: seconds per commit over the step that Theorem A allows, which is the time per
unit of progress; what a policy costs in time and in step are told apart.
"""

import dataclasses
import math
from pathlib import Path

import contestants
import entry
import numpy as np
from absl import flags
from contestants import Contestant

from abs_dssp import delays, literals, policies, simulate, theory, traces, whatif
from abs_dssp.delays import Delays
from abs_dssp.traces import Trace

_RATIO = flags.DEFINE_float(
    "noise_ratio",
    None,
    "R = sigma^2 / eps: over how many gradients one averages until their mean is as "
    "noisy as the target. The number of workers by default.",
    lower_bound=0,
)
_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "N, for a delay model without lists.", lower_bound=1
)
_PUSHES = flags.DEFINE_integer("pushes", 4000, "Pushes to schedule.", lower_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "Of a random delay model.", lower_bound=0)


@dataclasses.dataclass(frozen=True)
class Advice:
    """What is predicted of a policy."""

    label: str
    text: str
    aggregate: str
    seconds: float  # per unit of progress: of one step 1 / L without noise
    commits: float  # per second
    step: float  # in units of 1 / L
    reason: str


def main(argv):
    model = _model(argv[1])
    n = model.num_workers
    if n < 2:
        raise ValueError("advise: one worker needs no policy; give at least two.")
    ratio = _RATIO.value or float(n)
    found, skipped = [], []
    for who in contestants.contestants(n, ratio):
        if who.loss_driven:
            skipped.append(who.label)
            continue
        trace = simulate.schedule(
            policies.parse(who.text, n), model, _PUSHES.value, seed=_SEED.value
        )
        found.append(advise(who, trace, ratio))
    found.sort(key=lambda advice: advice.seconds)
    best = found[0].seconds
    print(
        f"{n} workers, R = {ratio:g}: seconds per step 1 / L, by Theorem A "
        f"({_PUSHES.value:,} pushes scheduled)\n"
    )
    width = max(len(a.label) for a in found)
    print(f"{'policy':{width}}  time  / best  commits/s   step  why")
    for a in found:
        shown = f"{a.seconds:6.3g}" if math.isfinite(a.seconds) else "     -"
        print(
            f"{a.label:{width}} {shown} {a.seconds / best:6.2f}x {a.commits:10.3g} "
            f"{a.step:6.3f}  {a.reason}"
        )
    more = "" if found[0].aggregate == "mean" else f" --aggregate={found[0].aggregate}"
    print(f"\nUse --policy='{found[0].text}'{more}.")
    if skipped:
        print(f"Not ranked, since the loss drives them: {', '.join(skipped)}.")


def advise(who: Contestant, trace: Trace, ratio: float) -> Advice:
    """Predicts a contestant's time per unit of progress from its schedule.

    Args:
      who: contestant.
      trace: its schedule.
      ratio: R = sigma^2 / eps.
    """
    if trace.commits < 2:
        never = "it never commits twice"
        return Advice(who.label, who.text, who.aggregate, math.inf, 0.0, 0.0, never)
    schedule = who.sees(trace)
    step = float(theory.target_step(1.0, ratio, 1.0, schedule))
    if who.own_step:
        step = float(trace.weight.sum()) / trace.commits
    rate = trace.commits / trace.seconds
    return Advice(
        who.label,
        who.text,
        who.aggregate,
        1 / (rate * step),
        rate,
        step,
        _reason(trace, schedule, step),
    )


def _reason(trace: Trace, schedule: theory.Schedule, step: float) -> str:
    """What costs most, in one line."""
    per_commit = trace.accepted.sum() / max(trace.commits, 1)
    parts = [f"{per_commit:.3g} pushes a commit"]
    waiting = trace.waiting_share
    if waiting > 0.02:
        parts.append(f"{waiting:.0%} of the workers' time spent waiting")
    discarded = 1 - trace.accepted.mean()
    if discarded > 0.02:
        parts.append(f"{discarded:.0%} of the pushes discarded")
    if trace.cancelled_share > 0.02:
        parts.append(f"{trace.cancelled_share:.0%} of it on work that is cancelled")
    stable = float(
        theory.largest_step_a(1.0, math.sqrt(schedule.tau_max * schedule.tau_bar))
    )
    if step > 0.99:
        parts.append("the longest step there is")
    elif stable <= step * 1.01:
        parts.append(
            f"staleness up to {schedule.tau_max:.0f}, on average "
            f"{schedule.tau_bar:.2g}, limits the step to {step:.3g} / L"
        )
    else:
        parts.append(f"noise limits the step to {step:.3g} / L")
    return "; ".join(parts)


def _model(text: str) -> Delays:
    """A delay model from a run's folder or from text."""
    place = Path(text)
    if "(" not in text:
        if not (place / "trace.npz").exists():
            raise ValueError(
                f"advise: {text!r} is neither the folder of a run (it has no "
                "trace.npz) nor a delay model such as 'exponential(mean=[1,2])'."
            )
        return whatif.delays_of(traces.Trace.load(place / "trace.npz"))
    if _WORKERS.value is not None:
        return delays.parse(text, _WORKERS.value)
    lengths = [np.size(value) for value in _lists(text)]
    if not lengths:
        raise ValueError(f"advise: {text!r} has no list; give --num_workers.")
    return delays.parse(text, max(lengths))


def _lists(text: str):
    def walk(call):
        for value in [*call.args, *call.kwargs.values()]:
            if isinstance(value, literals.Call):
                yield from walk(value)
            elif isinstance(value, (list, tuple)):
                yield value

    return walk(literals.parse_call(text, "advise"))


if __name__ == "__main__":
    entry.run(main, positional="RUN_DIR or a delay model")
