"""How long a method takes to a target on a known problem, at its recommended step."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks, theory
from abs_dssp.experiment import outputs
from abs_dssp.experiment.methods import Method, Step

_PILOT = 4000  # pushes of the first schedule, from which a step is chosen
_STEPS = 2  # which rule of `theory.target_step` an outcome is by; 1 took mean staleness


@dataclasses.dataclass(frozen=True)
class Regime:
    """Worker times."""

    label: str
    model: Callable[[int], delays.Delays]
    mean: Callable[[int], np.ndarray]  # seconds per gradient, for the lower bound


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective, its target, and what gradient descent needs for it."""

    label: str
    task: Callable[[int], tasks.Task]  # N -> task
    ratio: float  # R = sigma^2 / eps
    gap: float  # F(w0) - F*
    target: float  # eps, of the squared gradient norm
    steps: float  # iterations of gradient descent at step 1 / L to the target


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is measured."""

    num_workers: int
    seeds: int
    max_pushes: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One method in one regime, over seeds."""

    step: float
    seconds: tuple[float, ...]  # to the target, by seed; inf if it was not reached
    commits: tuple[float, ...]
    predicted: float  # seconds, by Theorem A
    tau_max: float
    pushes: int

    @property
    def mean(self) -> float:
        """Mean seconds; inf if any seed did not reach the target."""
        return float(np.mean(self.seconds))


def regimes(n: int) -> list[Regime]:
    """Worker times of all kinds; the fastest worker needs about a second."""
    return [
        *(_fixed(label, times) for label, times in fixed_times(n).items()),
        Regime("exponential", lambda n: delays.exponential(1.0, n), np.ones),
        Regime("heavy-tailed", _heavy_tailed, lambda n: np.full(n, 1.2)),
        Regime("slow, then fast", _turning, np.ones),
    ]


def fixed_times(n: int) -> dict[str, np.ndarray]:
    """Seconds per gradient of N workers, (N,), of the regimes without chance."""
    index = np.arange(1.0, n + 1)
    return {
        "equal": np.ones(n),
        "sqrt(i)": np.sqrt(index),
        "i": index,
        "one straggler, 100 x": np.append(np.ones(n - 1), 100.0),
    }


def _fixed(label: str, times: np.ndarray) -> Regime:
    return Regime(label, lambda n: delays.constant(times, n), lambda n: times)


def _heavy_tailed(n: int) -> delays.Delays:
    """A Pareto variable of least 0.2 and tail 1.2 has mean 1.2 and no variance."""
    return delays.pareto(0.2, 1.2, n)


def _turning(n: int) -> delays.Delays:
    """Half of the workers are slow for 40 s, then the other half is."""
    early = [1.0] * 40 + [20.0] * 4000
    late = [20.0] * 2 + [1.0] * 20000
    return delays.recorded([early if i < n // 2 else late for i in range(n)])


def tridiagonal(ratio: float, dim: int, target: float) -> Problem:
    """The quadratic, with noise of variance R eps."""

    def make(n: int) -> tasks.Task:
        return tasks.tridiagonal(n, dim=dim, noise=ratio * target)

    return _problem(f"tridiagonal quadratic, d = {dim}", make, ratio, target)


def logistic(ratio: float, samples: int, dim: int, target: float) -> Problem:
    """Logistic regression, with the batch size that makes sigma^2 / B about R eps."""
    single = tasks.logistic(1, samples=samples, dim=dim, l2=1e-3, batch_size=1)
    assert single.constants is not None and single.constants.noise_variance is not None
    batch = max(1, round(single.constants.noise_variance / (ratio * target)))

    def make(n: int) -> tasks.Task:
        # Everybody draws from all of the data: the theorem's workers are alike.
        return tasks.logistic(
            n, samples=samples, dim=dim, l2=1e-3, batch_size=batch, partition="shared"
        )

    return _problem(f"logistic regression, d = {dim}", make, ratio, target)


def _problem(label, make, ratio: float, target: float) -> Problem:
    """Measures gap and gradient descent's iterations on a task of one worker."""
    task = make(1)
    variables = task.init(jax.random.key(0))
    gap = float(task.objective(task.data, variables)) - task.constants.optimum
    slope = jax.jit(jax.grad(lambda p, d, v: task.objective(d, v._replace(params=p))))
    evaluate = jax.jit(task.evaluate)
    rate = 1 / task.constants.smoothness
    count = 0
    while count < 100_000:
        norm = evaluate(task.data, variables)["gradient_norm_squared"]
        if float(norm) <= target / 2:
            break
        change = slope(variables.params, task.data, variables)
        variables = variables._replace(
            params=jax.tree.map(lambda w, g: w - rate * g, variables.params, change)
        )
        count += 1
    return Problem(label, make, ratio, gap, target, max(count, 1))


def compete(
    method: Method, regime: Regime, problem: Problem, limits: Limits
) -> Outcome:
    """Runs a method until the target is reached, at its recommended step.

    Args:
      method: policy and aggregate.
      regime: worker times.
      problem: objective and target.
      limits: workers, seeds, and pushes at most.
    """
    task = problem.task(limits.num_workers)
    policy = policies.parse(method.text, limits.num_workers)
    model = regime.model(limits.num_workers)
    by_loss = policies.reads_loss(policy, limits.num_workers)
    if by_loss:
        step, pushes = _plan_at_least_k(task, model, problem, limits)
    else:
        step, pushes = _plan(method, policy, task, model, problem, limits.max_pushes)
    optimizer, tau_max = optimizers.sgd(step.learning_rate), step.schedule.tau_max
    seconds, commits = [], []
    for seed in range(limits.seeds):
        settings: dict[str, Any] = {"seed": seed}
        if by_loss:
            settings["eval_every_commits"] = max(1, pushes // 3000)
            result = simulate.train(task, policy, model, optimizer, pushes, **settings)
            trace = result.trace
            tau_max = theory.schedule_of(trace).tau_max
        else:
            trace = simulate.schedule(policy, model, pushes, seed=seed)
            settings["eval_every_commits"] = max(1, trace.commits // 300)
            settings["aggregate"] = method.aggregate
            result = replay.replay(task, optimizer, trace, **settings)
        reached = _reached(result.history.records, problem.target)
        seconds.append(reached["seconds"] if reached else math.inf)
        commits.append(reached["version"] if reached else math.inf)
    enough = theory.target_commits(problem.gap, step.effective, problem.target)
    predicted = float(enough / (trace.commits / trace.seconds))
    times = (tuple(seconds), tuple(commits), predicted)
    return Outcome(step.learning_rate, *times, tau_max, pushes)


def _plan(
    method: Method, policy, task: tasks.Task, model, problem: Problem, max_pushes: int
) -> tuple[Step, int]:
    """Step and pushes of a run, from schedules, each as long as the last one asks."""
    smoothness, variance = constants(task)
    trace = simulate.schedule(policy, model, _PILOT)
    pushes = _PILOT
    for _ in range(3):  # a longer run may meet a staler push, which asks for less
        step = method.step(trace, smoothness, variance, problem.target)
        per_commit = len(trace) / max(trace.commits, 1)
        # The noise slows the descent; from experience by less than a factor of 3.
        commits = 3 * problem.steps / (step.effective * smoothness) + 20
        pushes = int(min(max_pushes, max(500, commits * per_commit)))
        trace = simulate.schedule(policy, model, pushes)
    return method.step(trace, smoothness, variance, problem.target), pushes


def _plan_at_least_k(
    task: tasks.Task, model, problem: Problem, limits: Limits
) -> tuple[Step, int]:
    """The same where K follows the loss, so that the trace is not known before the
    training: the step is that of the rule at K = 1."""
    n = limits.num_workers
    trace = simulate.schedule(policies.k_async(n, k=1), model, _PILOT)
    schedule = theory.schedule_of(trace)
    step = float(theory.target_step(*constants(task), problem.target, schedule))
    pushes = int(min(limits.max_pushes, max(500, 3 * n * problem.steps / step)))
    return Step(step, step, schedule), pushes


def constants(task: tasks.Task) -> tuple[float, float]:
    """L, and sigma^2 of a batch."""
    known = task.constants
    assert known is not None and known.smoothness and known.noise_variance
    return known.smoothness, known.noise_variance / task.batch_size


def _reached(records, target: float):
    """The first evaluation with at most this squared gradient norm, or None."""
    return next((r for r in records if r["gradient_norm_squared"] <= target), None)


class Kept:
    """Outcomes by their settings, a line of JSON each: none is measured twice."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, Outcome] = {}
        names = {field.name for field in dataclasses.fields(Outcome)}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:  # cut off by an interruption
                continue
            made = {k: v for k, v in record["outcome"].items() if k in names}
            for name in ("seconds", "commits"):
                made[name] = tuple(made[name])
            self._known[record["key"]] = Outcome(**made)

    def get(
        self, method: Method, regime: Regime, problem: Problem, limits: Limits
    ) -> Outcome:
        """See `compete`."""
        settings = {
            "who": [method.text, method.aggregate, method.label],
            "where": regime.label,
            "problem": problem.label,
            "ratio": problem.ratio,
            "n": limits.num_workers,
            "target": problem.target,
            "seeds": limits.seeds,
            "limit": limits.max_pushes,
            "steps": _STEPS,
        }
        key = outputs.digest(settings)
        if key not in self._known:
            made = compete(method, regime, problem, limits)
            names = {"method": method.label, "regime": regime.label}
            record = {"key": key, "outcome": names | dataclasses.asdict(made)}
            outputs.append(self.path, record)
            self._known[key] = made
        return self._known[key]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every method in every regime, on one problem."""

    problem: Problem
    limits: Limits
    methods: Sequence[Method]
    regimes: Sequence[Regime]
    outcomes: dict[tuple[str, str], Outcome]  # by the labels of method and regime

    @property
    def labels(self) -> list[str]:
        """Of the methods, in order."""
        return [method.label for method in self.methods]

    @property
    def columns(self) -> list[str]:
        """Labels of the regimes, in order."""
        return [regime.label for regime in self.regimes]

    @property
    def means(self) -> np.ndarray:
        """Mean seconds (methods, regimes)."""
        rows = [[self.outcomes[a, b].mean for b in self.columns] for a in self.labels]
        return np.array(rows)

    @property
    def relative(self) -> np.ndarray:
        """Mean seconds over those of the regime's best method."""
        return self.means / self.means.min(axis=0)
