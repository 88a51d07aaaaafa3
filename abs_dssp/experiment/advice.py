"""Methods ranked by their predicted time to a target, for given worker times."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from abs_dssp import delays, policies, simulate, theory, traces, whatif
from abs_dssp.delays import Delays
from abs_dssp.experiment import methods
from abs_dssp.experiment.methods import Method
from abs_dssp.traces import Trace


@dataclasses.dataclass(frozen=True)
class Advice:
    """What is predicted of a method; steps are of a commit, in units of 1 / L.

    Seconds are per unit of progress, which is that of one step 1 / L without noise.
    """

    method: Method
    seconds: float  # at the theory's step
    commits: float  # per second
    step: float  # the theory's
    tuned_seconds: float  # at a step that was tuned
    tuned_step: float  # what tuning should find
    reason: str

    def time(self, tuned: bool) -> float:
        """Seconds at either step."""
        return self.tuned_seconds if tuned else self.seconds


def rank(
    model: Delays,
    ratio: float,
    pushes: int,
    seed: int = 0,
    tuned: bool = True,
    more: Sequence[str] = (),
    told: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Advice], list[str]]:
    """All methods, the fastest first, and the labels of those that are not ranked.

    Args:
      model: worker times.
      ratio: R = sigma^2 / eps.
      pushes: to schedule.
      seed: of random worker times.
      tuned: rank by the time at a tuned step, in place of the theory's.
      more: policies of one's own, as `methods.given` reads them.
      told: after every method, how many are done, and of how many.
    """
    n = model.num_workers
    if n < 2:
        raise ValueError("advise: one worker needs no policy; give at least two.")
    ranked, by_loss = [], []
    own = [methods.given(text, n) for text in dict.fromkeys(more)]
    known = [*methods.recommended(n, ratio), *own]
    for number, method in enumerate(known, 1):
        policy = policies.parse(method.text, n)
        if policies.reads_loss(policy, n):
            by_loss.append(method.label)
        else:
            trace = simulate.schedule(policy, model, pushes, seed=seed)
            ranked.append(advise(method, trace, ratio))
        told(number, len(known))
    return sorted(ranked, key=lambda advice: advice.time(tuned)), by_loss


def advise(method: Method, trace: Trace, ratio: float) -> Advice:
    """Predicts a method's time per unit of progress from its schedule.

    Args:
      method: whose aggregate and weights decide the step.
      trace: its schedule.
      ratio: R = sigma^2 / eps.
    """
    if trace.commits < 2:
        never = "it never commits twice"
        return Advice(method, math.inf, 0.0, 0.0, math.inf, 0.0, never)
    # With L = eps = 1 the variance of a gradient is R.
    step = method.step(trace, 1.0, ratio, 1.0)
    rate = trace.commits / trace.seconds
    tuned = tuned_step(step.schedule.kappa_1, trace, ratio)
    times = (1 / (rate * size) for size in (step.effective, tuned))
    seconds, tuned_seconds = times
    return Advice(
        method,
        seconds,
        rate,
        step.effective,
        tuned_seconds,
        tuned,
        _reason(trace, step),
    )


def tuned_step(kappa_1: float, trace: Trace, ratio: float) -> float:
    """A guess at the step that tuning finds, in units of 1 / L.

    Without the worst case: staleness counts as if each push had the mean of it, and
    noise may come to all of the target. docs/optimality.md has its rank correlation
    with what tuning found.

    Args:
      kappa_1: mean of 1 / K_t.
      trace: the schedule.
      ratio: R = sigma^2 / eps.
    """
    stable = float(theory.delay_stability_limit(theory.measured_tau_bar(trace)))
    return 1 / (1 / stable + kappa_1 * ratio)


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


def table(ranked: Sequence[Advice], tuned: bool = True) -> str:
    """The ranking as aligned text, one line per method.

    Args:
      ranked: the fastest first.
      tuned: which time it is by.
    """
    best = ranked[0].time(tuned)
    width = max(len(advice.method.label) for advice in ranked)
    lines = [
        f"{'policy':{width}} {'tuned':>13}  {'theory':>13} {'/ best':>7}  why",
        f"{'':{width}} {'time':>6} {'step':>6}  {'time':>6} {'step':>6}",
    ]
    for advice in ranked:
        lines.append(
            f"{advice.method.label:{width}} {_number(advice.tuned_seconds)} "
            f"{advice.tuned_step:6.3f}  {_number(advice.seconds)} {advice.step:6.3f} "
            f"{_times(advice.time(tuned) / best)}  {advice.reason}"
        )
    return "\n".join(lines)


def _times(ratio: float) -> str:
    return f"{ratio:6.2f}x" if math.isfinite(ratio) else "      -"


def _number(seconds: float) -> str:
    return f"{seconds:6.3g}" if math.isfinite(seconds) else "     -"


def worker_times(text: str, num_workers: int | None) -> Delays:
    """The times that a run recorded, or those of a delay model.

    Args:
      text: the run's folder, or a model such as `constant(seconds=[1,1,2])`.
      num_workers: of a model that does not say it.

    Raises:
      ValueError: if `text` is neither, or the number of workers is not known.
    """
    trace = Path(text) / "trace.npz"
    if "(" not in text:
        if not trace.exists():
            raise ValueError(
                f"advise: {text!r} is neither the folder of a run (it has no "
                "trace.npz) nor a delay model such as 'exponential(mean=[1,2])' or "
                "'csv(\"steps.csv\")'."
            )
        return whatif.delays_of(traces.Trace.load(trace))
    return delays.parse(text, num_workers)
