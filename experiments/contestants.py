"""Who takes part in `optimality.py`: policies, worker times, and everybody's step."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from abs_dssp import delays, optimizers, policies, replay, simulate, tasks, theory
from abs_dssp.traces import Trace

PILOT = 4000  # pushes of the first schedule, from which a step is chosen


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A policy with what its commits need."""

    label: str
    text: str  # for policies.parse
    aggregate: str = "mean"
    # How Theorem A sees a trace, where that is not the trace's own constants.
    sees: Callable[[Trace], theory.Schedule] = theory.schedule_of
    loss_driven: bool = False
    own_step: bool = False  # its weights are its steps, in units of 1 / L


@dataclasses.dataclass(frozen=True)
class Regime:
    """Worker times."""

    label: str
    model: Callable[[int], delays.Delays]
    mean: Callable[[int], np.ndarray]  # seconds per gradient, for the lower bound


def contestants(n: int, ratio: float) -> list[Contestant]:
    """Everybody, each with the parameters that its source recommends.

    Args:
      n: workers.
      ratio: R = sigma^2 / eps.
    """
    batch = int(theory.rennala_batch(ratio, 1.0))
    half = n // 2
    concurrency = _by_concurrency(n)
    return [
        Contestant("BSP", "bsp()"),
        Contestant("ASP", "asp()"),
        Contestant("SSP, s = 3", "ssp(s=3)"),
        Contestant("DSSP printed, 3 to 15", "dssp()"),
        Contestant("DSSP bounded, 3 to 15", 'dssp(variant="bounded")'),
        Contestant(f"m-sync, m = {half}", f"m_sync(m={half})"),
        Contestant(f"K-async, K = {half}", f"k_async(k={half})"),
        Contestant(f"K-batch-async, K = {batch}", f"k_batch_async(k={batch})"),
        Contestant(f"K-batch-sync, K = {2 * batch}", f"k_batch_sync(k={2 * batch})"),
        Contestant("AdaSync, K0 = 1", "adasync(k0=1,interval=5)", loss_driven=True),
        Contestant("ABS, K0 = 1, a = 20", "abs(k0=1,a=20)"),
        Contestant(f"ABS, K0 = {half}", f"abs(k0={half})"),
        Contestant(f"Rennala, S = {batch}", f"rennala(batch_size={batch})"),
        Contestant(f"Ringmaster, R = {batch}", f"ringmaster(threshold={batch})"),
        Contestant(
            f"Ringmaster, R = {batch}, stops",
            f"ringmaster(threshold={batch},stop=True)",
        ),
        Contestant(
            f"Malenia, S = {max(n, batch)}", f"malenia(batch_size={max(n, batch)})",
            "workers", _of_workers(n),
        ),
        Contestant("Ringleader", "ringleader()", "table", _table(n)),
        Contestant("Rescaled", "rescaled()", "sum"),
        Contestant("FedBuff, K = 10", "fedbuff(k=10)", "sum"),
        Contestant("FedAsync", "fedasync()", "sum", concurrency),
        Contestant(
            "ASP, Mishchenko", f"weighted(asp(),mishchenko(concurrency={n}))", "sum",
            concurrency,
        ),
        Contestant(
            "ASP, Koloskova",
            f"weighted(asp(),koloskova(concurrency={n},limit={n}))", "sum", concurrency,
        ),
        Contestant("ZipLine, R = 8", "zipline(lookahead=8)"),
        Contestant("Sync-Switch at 20", "sync_switch(at=20)"),
        Contestant("abs_dssp", f"abs_dssp(noise={ratio:g})", "sum", own_step=True),
    ]  # fmt: skip


def regimes(n: int) -> list[Regime]:
    """Worker times of all kinds; the fastest worker needs about a second."""
    index = np.arange(1.0, n + 1)
    straggler = np.append(np.ones(n - 1), 100.0)
    fixed = [
        ("equal", np.ones(n)),
        ("sqrt(i)", np.sqrt(index)),
        ("i", index),
        ("one straggler, 100 x", straggler),
    ]
    found = [_fixed(label, times) for label, times in fixed]
    found.append(
        Regime(
            "exponential",
            lambda count: delays.exponential(1.0, count),
            lambda count: np.ones(count),
        )
    )
    found.append(
        Regime(
            "heavy-tailed",
            lambda count: delays.pareto(0.2, 1.2, count),  # mean 1.2, no variance
            lambda count: np.full(count, 1.2),
        )
    )
    found.append(Regime("slow, then fast", _turning, lambda count: np.ones(count)))
    return found


def _fixed(label: str, times: np.ndarray) -> Regime:
    def model(count: int) -> delays.Delays:
        return delays.constant(times, count)

    return Regime(label, model, lambda count: times)


def _turning(n: int) -> delays.Delays:
    """Half of the workers are slow for 40 s, then the other half is."""
    early = [1.0] * 40 + [20.0] * 4000
    late = [20.0] * 2 + [1.0] * 20000
    return delays.recorded([early if i < n // 2 else late for i in range(n)])


def _of_workers(n: int) -> Callable[[Trace], theory.Schedule]:
    """Mean over workers of means: 1 / n^2 sum 1 / B_i in the place of 1 / K."""

    def sees(trace: Trace) -> theory.Schedule:
        rounds = np.cumsum(trace.committed) - trace.committed
        used = trace.accepted & (rounds < trace.commits)
        count = np.zeros((trace.commits, n))
        np.add.at(count, (rounds[used], trace.worker[used]), 1)
        share = np.where(count > 0, 1 / np.maximum(count, 1), 0).sum(axis=1)
        kappa = float(np.mean(share / np.maximum((count > 0).sum(axis=1), 1) ** 2))
        return theory.Schedule(kappa, 0.0, 0.0, 1 / kappa)

    return sees


def _table(n: int) -> Callable[[Trace], theory.Schedule]:
    """Ringleader's n commits of a round share the noise of n gradients, and what they
    use was computed up to 2 n - 2 versions ago."""

    def sees(trace: Trace) -> theory.Schedule:
        del trace
        return theory.Schedule(1.0, 2.0 * n - 2, float(n), 1.0)

    return sees


def _by_concurrency(n: int) -> Callable[[Trace], theory.Schedule]:
    """Steps that fall with the delay: as if none exceeded the concurrency."""

    def sees(trace: Trace) -> theory.Schedule:
        own = theory.schedule_of(trace)
        return own._replace(tau_max=min(own.tau_max, float(n)), tau_bar=float(n - 1))

    return sees


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One contestant in one regime, over seeds."""

    contestant: str
    regime: str
    step: float
    seconds: tuple[float, ...]  # to the target, by seed; inf if it was not reached
    commits: tuple[float, ...]
    predicted: float  # seconds, by Theorem A
    tau_max: float
    pushes: int

    @property
    def mean(self) -> float:
        """Mean seconds; inf if any seed did not get there."""
        return float(np.mean(self.seconds))


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective, its target, and what gradient descent needs for it."""

    label: str
    task: Callable[[int], tasks.Task]  # N -> task
    gap: float
    target: float  # eps, of the squared gradient norm
    steps: float  # iterations of gradient descent at step 1 / L to the target


def compete(
    who: Contestant, where: Regime, problem: Problem, n: int, seeds: int, limit: int
) -> Outcome:
    """Runs a contestant until the target is reached, at its own recommended step.

    Args:
      who: contestant.
      where: worker times.
      problem: objective and target.
      n: workers.
      seeds: repetitions.
      limit: pushes at most.
    """
    task = problem.task(n)
    policy = policies.parse(who.text, n)
    constants = task.constants
    assert constants is not None and constants.smoothness and constants.noise_variance
    smoothness = constants.smoothness
    variance = constants.noise_variance / task.batch_size
    model = where.model(n)

    def step_for(trace):
        schedule = who.sees(trace)
        if who.own_step:
            mean = float(trace.weight.sum()) / max(trace.commits, 1)
            return 1 / smoothness, mean / smoothness, schedule
        step = float(theory.target_step(smoothness, variance, problem.target, schedule))
        if who.aggregate == "sum":  # a commit's weights add up to its scale
            total = trace.weight[: len(trace)].sum() / max(trace.commits, 1)
            step /= float(total)
            return step, step * float(total), schedule
        return step, step, schedule

    if who.loss_driven:
        return _loss_driven(who, where, problem, task, policy, model, seeds, limit)
    pushes, trace = PILOT, simulate.schedule(policy, model, PILOT)
    for _ in range(3):  # a longer run may meet a staler push, which asks for less
        step, effective, schedule = step_for(trace)
        per_commit = len(trace) / max(trace.commits, 1)
        # The noise slows the descent; from experience by less than a factor of 3.
        commits = 3 * problem.steps / (effective * smoothness) + 20
        pushes = int(min(limit, max(500, commits * per_commit)))
        trace = simulate.schedule(policy, model, pushes)
    step, effective, schedule = step_for(trace)
    seconds, commits_made = [], []
    for seed in range(seeds):
        trace = simulate.schedule(policy, model, pushes, seed=seed)
        every = max(1, trace.commits // 300)
        result = replay.replay(
            task, optimizers.sgd(step), trace, seed, aggregate=who.aggregate,
            eval_every_commits=every,
        )  # fmt: skip
        reached = _first(result.history.records, problem.target)
        seconds.append(reached["seconds"] if reached else math.inf)
        commits_made.append(reached["version"] if reached else math.inf)
    rate = trace.commits / trace.seconds
    enough = theory.target_commits(problem.gap, effective, problem.target)
    return Outcome(
        who.label, where.label, step, tuple(seconds), tuple(commits_made),
        float(enough / rate), schedule.tau_max, pushes,
    )  # fmt: skip


def _loss_driven(who, where, problem, task, policy, model, seeds, limit) -> Outcome:
    """K follows the loss, so the trace is not known before the training: the step is
    that of the rule at its least K."""
    n = task.num_workers
    trace = simulate.schedule(policies.k_async(n, k=1), model, PILOT)
    step = float(
        theory.target_step(
            task.constants.smoothness,
            task.constants.noise_variance / task.batch_size,
            problem.target,
            theory.schedule_of(trace),
        )
    )
    pushes = int(min(limit, max(500, 3 * n * problem.steps / step)))
    seconds, commits = [], []
    for seed in range(seeds):
        result = simulate.train(
            task, policy, model, optimizers.sgd(step), pushes, seed=seed,
            eval_every_commits=max(1, pushes // 3000),
        )  # fmt: skip
        reached = _first(result.history.records, problem.target)
        seconds.append(reached["seconds"] if reached else math.inf)
        commits.append(reached["version"] if reached else math.inf)
    found = theory.schedule_of(result.trace)
    rate = result.trace.commits / result.trace.seconds
    enough = theory.target_commits(problem.gap, step, problem.target)
    return Outcome(
        who.label, where.label, step, tuple(seconds), tuple(commits),
        float(enough / rate), found.tau_max, pushes,
    )  # fmt: skip


def _first(records, target: float):
    for record in records:
        if record["gradient_norm_squared"] <= target:
            return record
    return None


def tridiagonal(ratio: float, dim: int, target: float) -> Problem:
    """The quadratic, with noise of variance R eps; descent measured, not assumed."""
    probe = tasks.tridiagonal(1, dim=dim, noise=ratio * target)
    return _problem(
        f"tridiagonal quadratic, d = {dim}",
        lambda n: tasks.tridiagonal(n, dim=dim, noise=ratio * target),
        probe, target,
    )  # fmt: skip


def logistic(ratio: float, samples: int, dim: int, target: float) -> Problem:
    """Logistic regression; the batch is what makes the noise sigma^2 / B = R eps."""
    single = tasks.logistic(1, samples=samples, dim=dim, l2=1e-3, batch_size=1)
    assert single.constants is not None and single.constants.noise_variance is not None
    batch = max(1, round(single.constants.noise_variance / (ratio * target)))

    def make(n):
        # Everybody draws from all of the data: the theorem's workers are alike.
        return tasks.logistic(
            n, samples=samples, dim=dim, l2=1e-3, batch_size=batch, partition="shared"
        )

    return _problem(f"logistic regression, d = {dim}", make, make(1), target)


def _problem(label, make, probe, target) -> Problem:
    """Measures gap and gradient descent's iterations on a task of one worker."""
    assert probe.constants is not None
    variables = probe.init(jax.random.key(0))
    start = float(probe.objective(probe.data, variables))
    slope = jax.jit(jax.grad(lambda p, d, v: probe.objective(d, v._replace(params=p))))
    evaluate = jax.jit(probe.evaluate)
    rate = 1 / probe.constants.smoothness
    count = 0
    while count < 100_000:
        found = evaluate(probe.data, variables)
        if float(found["gradient_norm_squared"]) <= target / 2:
            break
        change = slope(variables.params, probe.data, variables)
        variables = variables._replace(
            params=jax.tree.map(lambda w, g: w - rate * g, variables.params, change)
        )
        count += 1
    return Problem(label, make, start - probe.constants.optimum, target, max(count, 1))
