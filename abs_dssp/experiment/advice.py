"""Methods ranked by their predicted time to a target, for given worker times."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abs_dssp import delays, literals, policies, simulate, theory, traces, whatif
from abs_dssp.delays import Delays
from abs_dssp.experiment import methods
from abs_dssp.experiment.methods import Method
from abs_dssp.traces import Trace


@dataclasses.dataclass(frozen=True)
class Advice:
    """What is predicted of a method."""

    method: Method
    seconds: float  # per unit of progress: of one step 1 / L without noise
    commits: float  # per second
    step: float  # in units of 1 / L
    reason: str


def rank(
    model: Delays, ratio: float, pushes: int, seed: int = 0
) -> tuple[list[Advice], list[str]]:
    """All methods, the fastest first, and the labels of those that are not ranked.

    Args:
      model: worker times.
      ratio: R = sigma^2 / eps.
      pushes: to schedule.
      seed: of random worker times.
    """
    n = model.num_workers
    if n < 2:
        raise ValueError("advise: one worker needs no policy; give at least two.")
    ranked, by_loss = [], []
    for method in methods.recommended(n, ratio):
        policy = policies.parse(method.text, n)
        if policies.reads_loss(policy, n):
            by_loss.append(method.label)
        else:
            trace = simulate.schedule(policy, model, pushes, seed=seed)
            ranked.append(advise(method, trace, ratio))
    return sorted(ranked, key=lambda advice: advice.seconds), by_loss


def advise(method: Method, trace: Trace, ratio: float) -> Advice:
    """Predicts a method's time per unit of progress from its schedule.

    Args:
      method: whose aggregate and weights decide the step.
      trace: its schedule.
      ratio: R = sigma^2 / eps.
    """
    if trace.commits < 2:
        return Advice(method, math.inf, 0.0, 0.0, "it never commits twice")
    # With L = eps = 1 the variance of a gradient is R.
    step = method.step(trace, 1.0, ratio, 1.0)
    rate = trace.commits / trace.seconds
    seconds = 1 / (rate * step.effective)
    return Advice(method, seconds, rate, step.effective, _reason(trace, step))


def _reason(trace: Trace, step: methods.Step) -> str:
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
    size = step.effective
    if size > 0.99:
        parts.append("the longest step there is")
    elif float(step.schedule.largest_step(1.0)) <= size * 1.01:
        parts.append(
            f"staleness up to {theory.effective_tau(trace)}, on average "
            f"{theory.measured_tau_bar(trace):.2g}, limits the step to {size:.3g} / L"
        )
    else:
        parts.append(f"noise limits the step to {size:.3g} / L")
    return "; ".join(parts)


def table(ranked: Sequence[Advice]) -> str:
    """The ranking as aligned text, one line per method."""
    best = ranked[0].seconds
    width = max(len(advice.method.label) for advice in ranked)
    lines = [f"{'policy':{width}}  time  / best  commits/s   step  why"]
    for advice in ranked:
        seconds = advice.seconds
        shown = f"{seconds:6.3g}" if math.isfinite(seconds) else "     -"
        lines.append(
            f"{advice.method.label:{width}} {shown} {seconds / best:6.2f}x "
            f"{advice.commits:10.3g} {advice.step:6.3f}  {advice.reason}"
        )
    return "\n".join(lines)


def worker_times(text: str, num_workers: int | None) -> Delays:
    """The times that a run recorded, or those of a delay model.

    Args:
      text: the run's folder, or a model such as `constant(seconds=[1,1,2])`.
      num_workers: of a model without lists.

    Raises:
      ValueError: if `text` is neither, or the number of workers is not known.
    """
    trace = Path(text) / "trace.npz"
    if "(" not in text:
        if not trace.exists():
            raise ValueError(
                f"advise: {text!r} is neither the folder of a run (it has no "
                "trace.npz) nor a delay model such as 'exponential(mean=[1,2])'."
            )
        return whatif.delays_of(traces.Trace.load(trace))
    if num_workers is not None:
        return delays.parse(text, num_workers)
    lengths = [
        np.size(value)
        for call in literals.calls(literals.parse_call(text, "advise"))
        for value in (*call.args, *call.kwargs.values())
        if isinstance(value, (list, tuple))
    ]
    if not lengths:
        raise ValueError(f"advise: {text!r} has no list; give --num_workers.")
    return delays.parse(text, max(lengths))
