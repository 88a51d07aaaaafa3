"""How long a method takes to a target: at the theory's step, and at the best of a grid.

The grid is the same for all methods, in steps of a whole commit, and so is the growth
that it allows: a step may begin as many times longer as `abs_dssp` counts with less
noise, and fall as fast in terms of pushes.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from abs_dssp import absences, optimizers, policies, replay, simulate, theory
from abs_dssp.experiment import advice
from abs_dssp.experiment.methods import Method, Step
from abs_dssp.experiment.optimality.problems import Problem
from abs_dssp.experiment.optimality.regimes import Regime
from abs_dssp.policies import rounds
from abs_dssp.traces import Trace

GRID = 2.0 ** np.arange(3, -11, -1)  # steps of a commit, in units of 1 / L
WINDOW = 0.2  # share of the commits so far over which a sustained mean is taken
_PILOT = 4000  # pushes of the first schedule, from which a step is chosen
_LOOK = 10  # evaluations until it is looked again whether all can end
SPACING = 1.025  # ratio of the commits at which a run is evaluated
_WITHOUT_SWEEP = 20_000  # pushes at most of rules that read the loss, one run at a time
RULES = 3  # of measuring; outcomes by earlier ones are not taken


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is measured."""

    num_workers: int
    seeds: int
    max_pushes: int


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds to the target by seed; inf where it was not reached."""

    first: tuple[float, ...]  # that the squared gradient norm is at most eps
    sustained: tuple[float, ...]  # that its mean over the last fifth is

    @property
    def mean(self) -> float:
        """Mean sustained seconds; inf if any seed did not get there."""
        return float(np.mean(self.sustained))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One method in one regime, over seeds; steps of a commit in units of 1 / L."""

    step: float  # that the theory recommends
    recommended: Times  # at this step
    best_step: float  # of the grid; at the start, if it falls
    falls: bool
    inside: bool  # whether the best step is not the grid's first or last
    best: Times
    predicted: float  # seconds, by the theory; NaN for a rule that reads the loss
    guessed: float  # seconds per unit of progress at a tuned step; see `advice`
    tau_max: float
    pushes: int

    def at(self, which: str) -> Times:
        """At the `recommended` step or at the `best`, whichever that is: where the
        theory's is better than all of the grid, it is the best."""
        own = self.recommended
        return self.best if which == "best" and self.best.mean < own.mean else own


def compete(
    method: Method, regime: Regime, problem: Problem, limits: Limits
) -> Outcome:
    """Runs a method until the target is reached, at all steps that are compared.

    Args:
      method: policy and aggregate.
      regime: worker times.
      problem: objective and target.
      limits: workers, seeds, and pushes at most.
    """
    n = limits.num_workers
    policy = policies.parse(method.text, n)
    world = (regime.model(n), absences.parse(regime.absences, n))
    if policies.reads_loss(policy, n):
        return _follow_the_loss(method, policy, world, problem, limits)
    step, pushes = _plan(method, policy, world, problem, limits.max_pushes)
    draws = range(limits.seeds) if regime.chance else [0]
    traces = [_schedule(policy, world, pushes, seed) for seed in draws]
    weight = float(np.mean([method.weight(trace) for trace in traces]))
    own = _measure(method, problem, traces, limits, [[step.learning_rate], [1.0], [0]])
    # No step of the grid counts that takes longer, so the schedules may end there.
    enough = [t[: _row_at(t, max(own[0].sustained))] for t in traces]
    lanes = _lanes(problem, weight, float(np.mean([_size(t) for t in enough])), n)
    found = _measure(method, problem, enough, limits, lanes)
    chosen = min(range(len(found)), key=lambda i: found[i].mean)
    peak = float(lanes[1][chosen])
    tau_max = max(float(theory.effective_tau(trace)) for trace in traces)
    return Outcome(
        step=step.effective * problem.smoothness,
        recommended=own[0],
        best_step=float(GRID[chosen % len(GRID)]),
        falls=peak > 1,
        inside=0 < chosen % len(GRID) < len(GRID) - 1,
        best=found[chosen],
        predicted=_predicted(problem, step, traces[0]),
        guessed=guess(problem, step, traces[0]),
        tau_max=tau_max,
        pushes=pushes,
    )


def falling_step(rate, peak, fall):
    """SGD whose step begins `peak` times as long as it ends.

    Before the end the step is rate peak / (1 + fall t) at commit t.
    """

    def schedule(version):
        size = 1 + fall * jnp.asarray(version, jnp.float32)
        return rate * jnp.maximum(1.0, peak / size)

    return optimizers.sgd(schedule, clock="server_updates")


def reached(
    version: np.ndarray, seconds: np.ndarray, values: np.ndarray, target: float
) -> tuple[np.ndarray, np.ndarray]:
    """When runs reach a target: at first, and with their mean over the last fifth.

    Args:
      version: (E,) commits at the evaluations, rising.
      seconds: (E,).
      values: (..., E) squared gradient norms.
      target: eps.

    Returns:
      Seconds (...), inf where a run does not get there.

    Example:
      >>> values = np.array([5.0, 0.5, 2.0, 0.5, 0.4, 0.3])
      >>> commits = np.arange(10, 16)
      >>> first, sustained = reached(commits, 2.0 * commits, values, target=1.0)
      >>> float(first), float(sustained)  # (0.5 + 2.0 + 0.5) / 3 at commit 13
      (22.0, 26.0)
    """
    values = np.minimum(np.where(np.isfinite(values), values, 1e30), 1e30)
    begin = np.searchsorted(version, (1 - WINDOW) * version, side="right")
    begin = np.minimum(begin, np.arange(version.size))
    # Not as differences of running sums: after a peak of 1e20 these would all be 0.
    windows = [values[..., start : end + 1] for end, start in enumerate(begin)]
    means = np.stack([window.mean(-1) for window in windows], -1)

    def when(series):
        done = series <= target
        return np.where(done.any(-1), seconds[done.argmax(-1)], math.inf)

    return when(values), when(means)


def _measure(
    method: Method, problem: Problem, traces: Sequence[Trace], limits: Limits, lanes
) -> list[Times]:
    """Times of every lane; one trace for all seeds, or one each."""
    task = problem.task(limits.num_workers)
    seeds = range(limits.seeds)
    shares = [seeds] if len(traces) == 1 else [[seed] for seed in seeds]
    first, sustained = [], []
    for trace, own in zip(traces, shares, strict=True):
        made = replay.sweep(
            task,
            falling_step,
            lanes,
            trace,
            own,
            aggregate=method.aggregate,
            eval_every_commits=points(trace.commits),
            measures=["gradient_norm_squared"],
            until=Enough(problem.target),
        )
        values = made.measures["gradient_norm_squared"].astype(np.float64)
        found = reached(made.version, made.seconds, values, problem.target)
        first.append(found[0])
        sustained.append(found[1])
    both = np.concatenate(first, axis=1), np.concatenate(sustained, axis=1)
    rows = zip(*both, strict=True)
    return [Times(tuple(a.tolist()), tuple(b.tolist())) for a, b in rows]


class Enough:
    """Whether a lane that has not got to the target can still be the best.

    One whose last seed comes after three times the best mean of three seeds has a
    larger mean itself. Where each seed has a trace of its own, this ends lanes that
    are three times as slow as the best of this seed.

    Args:
      target: eps.
      measure: that is compared with it.
      all_lanes: go on until all lanes have got there.
    """

    def __init__(
        self,
        target: float,
        measure: str = "gradient_norm_squared",
        all_lanes: bool = False,
    ):
        self.target, self.measure, self.all_lanes = target, measure, all_lanes
        self.version: list[int] = []
        self.seconds: list[float] = []
        self.values: list[np.ndarray] = []

    def __call__(self, version: int, seconds: float, measures) -> bool:
        self.version.append(version)
        self.seconds.append(seconds)
        self.values.append(measures[self.measure].astype(np.float64))
        if len(self.version) % _LOOK:
            return False
        columns = np.array(self.version), np.array(self.seconds)
        _, sustained = reached(*columns, np.stack(self.values, -1), self.target)
        if self.all_lanes:
            return bool(np.isfinite(sustained).all())
        best = sustained.mean(axis=1).min()
        return bool(seconds > 3 * best)


def points(commits: int) -> list[int]:
    """Commits at which a run is evaluated: all at first, then ever fewer."""
    count = int(math.log(max(commits, 1)) / math.log(SPACING)) + 1
    return sorted({round(SPACING**k) for k in range(count)})


def _lanes(problem: Problem, weight: float, size: float, n: int):
    """Learning rates, and how steps fall, of all lanes: `falling_step`'s arguments."""
    rates = GRID / problem.smoothness / weight
    peak = problem.ratio / (n / 2)
    if peak <= 1:
        return [rates, np.ones_like(rates), np.zeros_like(rates)]
    # abs_dssp's R^t is (N / 2) g^t after (N / 2) 2 (g^t - 1) / (g - 1) pushes.
    fall = size * (rounds.GROWTH - 1) / n
    return [
        np.concatenate([rates, rates / peak]),
        np.repeat([1.0, peak], rates.size),
        np.repeat([0.0, fall], rates.size),
    ]


def _row_at(trace: Trace, seconds: float) -> int:
    """The row after the first commit past this time."""
    late = np.flatnonzero(trace.committed & (trace.time > seconds))
    return int(late[0]) + 1 if late.size else len(trace)


def _size(trace: Trace) -> float:
    """Accepted pushes per commit."""
    return float(trace.accepted.sum()) / max(trace.commits, 1)


def _predicted(problem: Problem, step: Step, trace: Trace) -> float:
    enough = theory.target_commits(problem.gap, step.effective, problem.target)
    return float(enough / (trace.commits / trace.seconds))


def guess(problem: Problem, step: Step, trace: Trace) -> float:
    """`advice`'s seconds at a tuned step, of the schedule that was run."""
    tuned = advice.tuned_step(step.schedule.kappa_1, trace, problem.ratio)
    return float(trace.seconds / max(trace.commits, 1) / tuned)


def _schedule(policy, world, pushes: int, seed: int = 0) -> Trace:
    """The rule with the workers of a regime: their speed, and when they die."""
    model, gone = world
    return simulate.schedule(policy, model, pushes, seed, absences=gone)


def _plan(
    method: Method, policy, world, problem: Problem, max_pushes: int
) -> tuple[Step, int]:
    """Step and pushes of a run, from schedules, each as long as the last one asks."""
    known = (problem.smoothness, problem.variance, problem.target)
    trace = _schedule(policy, world, _PILOT)
    pushes = _PILOT
    for _ in range(3):  # a longer run may meet a staler push, which asks for less
        step = method.step(trace, *known)
        per_commit = len(trace) / max(trace.commits, 1)
        # The noise slows the descent; from experience by less than a factor of 3.
        commits = 3 * problem.steps / (step.effective * problem.smoothness) + 20
        pushes = int(min(max_pushes, max(500, commits * per_commit)))
        trace = _schedule(policy, world, pushes)
    return method.step(trace, *known), pushes


def _follow_the_loss(
    method: Method, policy, world, problem: Problem, limits: Limits
) -> Outcome:
    """The same where K follows the loss, so that every run has a trace of its own: the
    theory's step is that of the rule at K = 1, and the grid's best that of seed 0."""
    n = limits.num_workers
    model, gone = world
    trace = _schedule(policies.k_async(n, k=1), world, _PILOT)
    known = (problem.smoothness, problem.variance, problem.target)
    step = float(theory.target_step(*known, theory.schedule_of(trace)))
    own = step * problem.smoothness
    most = min(limits.max_pushes, _WITHOUT_SWEEP)
    pushes = int(min(most, max(500, 3 * n * problem.steps / own)))
    task = problem.task(n)

    def times(step: float, seeds: Sequence[int]) -> tuple[Times, float]:
        first, sustained, tau_max = [], [], 0.0
        for seed in seeds:
            made = simulate.train(
                task,
                policy,
                model,
                optimizers.sgd(step / problem.smoothness),
                pushes,
                seed=seed,
                absences=gone,
                eval_every_commits=points(pushes),
                aggregate=method.aggregate,
            )
            record = made.history
            names = ("version", "seconds", "gradient_norm_squared")
            version, at, values = map(record.column, names)
            one = reached(version, at, values, problem.target)
            first.append(float(one[0]))
            sustained.append(float(one[1]))
            tau_max = max(tau_max, float(theory.effective_tau(made.trace)))
        return Times(tuple(first), tuple(sustained)), tau_max

    recommended, tau_max = times(own, range(limits.seeds))
    tried = [times(float(step), [0])[0].mean for step in GRID]
    chosen = int(np.argmin(tried))
    best, _ = times(float(GRID[chosen]), range(limits.seeds))
    return Outcome(
        step=own,
        recommended=recommended,
        best_step=float(GRID[chosen]),
        falls=False,
        inside=0 < chosen < len(GRID) - 1,
        best=best,
        predicted=math.nan,
        guessed=math.nan,
        tau_max=tau_max,
        pushes=pushes,
    )
