"""One method in one case: at the step it recommends, and at one that was tuned.

The budget of tuning is the same for all: one run at every step of a grid, on a seed
that does not count.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from abs_dssp import optimizers, policies, replay, simulate
from abs_dssp.experiment.leaderboard.cases import NUM_WORKERS, Case
from abs_dssp.experiment.methods import Method
from abs_dssp.experiment.optimality import measure
from abs_dssp.traces import Trace

GRID = 2.0 ** np.arange(2, -7, -1)  # steps of a commit, in units of the case's
TUNING_SEED = 1000
DIVISIONS = ("recommended", "tuned")
_FOLLOWING = 3000  # pushes at most of rules that read the loss, one run at a time


@dataclasses.dataclass(frozen=True)
class Row:
    """What a method needed in a case."""

    case: str
    method: str
    policy: str
    aggregate: str
    recommended_step: float  # of a commit, in units of the case's
    recommended: tuple[float, ...]  # seconds by seed; inf: not within the pushes
    tuned_step: float
    tuned: tuple[float, ...]

    def mean(self, division: str) -> float:
        """Mean seconds; inf if any seed did not get there."""
        return float(np.mean(getattr(self, division)))


def run(case: Case, method: Method, seeds: Sequence[int]) -> Row:
    """Runs a method at the recommended step, tunes it, and runs it at the tuned step.

    Args:
      case: the race.
      method: who runs.
      seeds: of the runs that count.
    """
    policy = policies.parse(method.text, NUM_WORKERS)
    if policies.reads_loss(policy, NUM_WORKERS):
        return _following(case, method, policy, seeds)
    draws = seeds if case.chance else seeds[:1]
    traces = [_schedule(case, policy, seed) for seed in draws]
    tuning = _schedule(case, policy, TUNING_SEED) if case.chance else traces[0]
    rate, size = _recommended(case, method, tuning)
    # Steps of whole commits, in units of the case's.
    own = size / _unit(case)
    grid = GRID * (rate / own)  # learning rates
    tried = _times(case, method, [tuning], [[TUNING_SEED]], grid)[:, 0]
    best = int(np.argmin(tried))
    shares = [[s] for s in draws] if case.chance else [list(seeds)]
    found = _times(case, method, traces, shares, np.array([rate, grid[best]]))
    return _row(case, method, own, found[0], float(GRID[best]), found[1])


def _row(case, method, own, recommended, tuned_step, tuned) -> Row:
    def digits(times):
        return tuple(float(f"{t:.6g}") for t in times)

    return Row(
        case=case.name,
        method=method.label,
        policy=method.text,
        aggregate=method.aggregate,
        recommended_step=float(f"{own:.4g}"),
        recommended=digits(recommended),
        tuned_step=tuned_step,
        tuned=digits(tuned),
    )


def _schedule(case: Case, policy, seed: int) -> Trace:
    return simulate.schedule(
        policy, case.delays, case.pushes, seed=seed, communication=case.communication
    )


def _unit(case: Case) -> float:
    """The usual step of a commit."""
    if case.unit is not None:
        return case.unit
    known = case.task.constants
    assert known is not None and known.smoothness is not None
    return 1 / known.smoothness


def _recommended(case: Case, method: Method, trace: Trace) -> tuple[float, float]:
    """Learning rate, and the mean step of a commit that it makes.

    The theory's where the constants are known; elsewhere every commit makes the usual
    step, but those of a method that chooses its steps itself in units of 1 / L, for
    which the usual step is taken.
    """
    unit = _unit(case)
    if case.unit is None:
        variance = case.ratio * case.target
        step = method.step(trace, 1 / unit, variance, case.target)
        return step.learning_rate, step.effective
    weight = method.weight(trace)
    if method.weights_are_steps:
        return unit, weight * unit
    return unit / weight, unit


def _times(
    case: Case,
    method: Method,
    traces: Sequence[Trace],
    shares: Sequence[Sequence[int]],
    rates: np.ndarray,
) -> np.ndarray:
    """Seconds to the target by learning rate and seed; inf where it is not reached."""
    parts = []
    for trace, seeds in zip(traces, shares, strict=True):
        made = replay.sweep(
            case.task,
            optimizers.sgd,
            [rates],
            trace,
            seeds,
            aggregate=method.aggregate,
            eval_every_commits=measure.points(trace.commits),
            measures=[case.measure],
            until=measure.Enough(case.target, case.measure, all_lanes=len(rates) == 2),
        )
        values = made.measures[case.measure].astype(np.float64)
        parts.append(
            measure.reached(made.version, made.seconds, values, case.target)[1]
        )
    return np.concatenate(parts, axis=1)


def _following(case: Case, method: Method, policy, seeds: Sequence[int]) -> Row:
    """The same for a rule that reads the loss: every run has a trace of its own."""

    def seconds(step: float, seed: int) -> float:
        made = simulate.train(
            case.task,
            policy,
            case.delays,
            optimizers.sgd(step * _unit(case)),
            min(case.pushes, _FOLLOWING),
            seed=seed,
            communication=case.communication,
            eval_every_commits=measure.points(case.pushes),
            aggregate=method.aggregate,
        )
        names = ("version", "seconds", case.measure)
        version, at, values = map(made.history.column, names)
        found = measure.reached(version, at, values, case.target)
        return float(found[1])

    # At K = 1 such a rule is ASP.
    asp = policies.asp(NUM_WORKERS)
    own = 1.0
    if case.unit is None:
        trace = _schedule(case, asp, TUNING_SEED)
        own = _recommended(case, Method("", "asp()"), trace)[1] / _unit(case)
    tried = [seconds(float(step), TUNING_SEED) for step in GRID]
    best = float(GRID[int(np.argmin(tried))])
    results = [[seconds(step, seed) for seed in seeds] for step in (own, best)]
    return _row(case, method, own, results[0], best, results[1])
