"""What every figure needs: runs over seeds, tuned step sizes, comparisons."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp.experiment import verdicts
from abs_dssp.experiment.reproduction import papers, timing
from abs_dssp.experiment.reproduction.runs import Outcome, Runner
from abs_dssp.experiment.reproduction.scales import Problem, Scale
from abs_dssp.experiment.run import Run
from abs_dssp.report import document

Outcomes = dict[str, list[Outcome]]  # by method, one per seed


@dataclasses.dataclass(frozen=True)
class Context:
    """The scale, and where and how runs are made."""

    scale: Scale
    out: Path
    runner: Runner
    ratio: float = 2.6  # of the speeds of Figure 4's two workers

    def folder(self, name: str) -> Path:
        """Where a figure's pictures and report go."""
        path = self.out / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def over_seeds(
        self, named: Mapping[str, Run], label: str, seeds: int | None = None
    ) -> Outcomes:
        """Every run with every seed, or with so many, by name."""
        count = self.scale.seeds if seeds is None else seeds
        wanted = {
            name: [dataclasses.replace(run, seed=seed) for seed in range(count)]
            for name, run in named.items()
        }
        made = self.runner.execute((r for rs in wanted.values() for r in rs), label)
        return {name: [made[run] for run in rs] for name, rs in wanted.items()}

    def tune(
        self, named: Mapping[str, Run], problem: Problem, label: str
    ) -> tuple[dict[str, float], document.Table]:
        """The best step size of every method, each from the same grid.

        Seeds of its own, training data without the validation split, the whole length
        of the run. The best is that with the highest accuracy averaged over the
        evaluations and seeds, which favours neither a fast start nor a high end alone.
        Where it lies at the edge of a method's grid, that grid grows by factors of 2.
        """
        held: dict[str, Any] = {"validation": problem.validation, "limit_test": None}
        scores: dict[str, dict[float, float]] = {name: {} for name in named}
        missing = {name: list(problem.rates) for name in named}
        for _ in range(1 + self.scale.tuning_steps):
            wanted = {
                (name, rate): [
                    dataclasses.replace(run, learning_rate=rate, seed=seed, **held)
                    for seed in range(1000, 1000 + self.scale.tuning_seeds)
                ]  # not the final runs' seeds
                for name, run in named.items()
                for rate in missing[name]
            }
            runs = (run for each in wanted.values() for run in each)
            made = self.runner.execute(runs, f"{label}, tuning")
            for (name, rate), each in wanted.items():
                means = [mean_accuracy(made[run]) for run in each]
                scores[name][rate] = float(np.mean(means))
            missing = {name: _beyond(tried) for name, tried in scores.items()}
            if not any(missing.values()):
                break
        chosen = {name: _best(tried) for name, tried in scores.items()}
        return chosen, self._tuning_table(scores, chosen, problem, label)

    def _tuning_table(
        self,
        scores: Mapping[str, Mapping[float, float]],
        chosen: Mapping[str, float],
        problem: Problem,
        label: str,
    ) -> document.Table:
        rates = sorted({rate for tried in scores.values() for rate in tried})
        rows = []
        for name, tried in scores.items():
            shown = [f"{tried[rate]:.3f}" if rate in tried else "" for rate in rates]
            edge = " (edge)" if _beyond(tried) else ""
            rows.append([name, *shown, f"{chosen[name]:g}{edge}"])
        grown = (
            "; a grid whose best was at its edge was extended, "
            f"{self.scale.tuning_steps} times at most"
        )
        return document.Table(
            f"{label}: step sizes tuned alike, by accuracy on {problem.validation} "
            "validation samples, averaged over the run and "
            f"{self.scale.tuning_seeds} seeds; the best of each row was taken"
            f"{grown if self.scale.tuning_steps else ''}.",
            ["method", *(f"{rate:g}" for rate in rates), "taken"],
            rows,
        )


def _best(scores: Mapping[float, float]) -> float:
    return max(scores, key=lambda rate: scores[rate])


def _beyond(scores: Mapping[float, float]) -> list[float]:
    """The step size to try next, if the best one is at the edge of those tried."""
    best = _best(scores)
    if len(scores) < 2:
        return []  # nothing to choose from
    if best == max(scores):
        return [2 * best]
    return [best / 2] if best == min(scores) else []


def mean_accuracy(outcome: Outcome) -> float:
    """Accuracy averaged over the evaluations; 0 for a run that diverged."""
    if outcome.stopped != "end":
        return 0.0
    return float(outcome.history.column("accuracy").mean())


def under(run: Run, texts: Mapping[str, str]) -> dict[str, Run]:
    """The same run under policies, by name."""
    return {name: dataclasses.replace(run, policy=p) for name, p in texts.items()}


def at_rates(named: Mapping[str, Run], rates: Mapping[str, float]) -> dict[str, Run]:
    """The same runs with step sizes of their own."""
    return {
        name: dataclasses.replace(run, learning_rate=rates[name])
        for name, run in named.items()
    }


def tuned_by_kind(
    context: Context, named: Mapping[str, Run], problem: Problem, label: str
) -> tuple[dict[str, Run], document.Table]:
    """BSP at its best step size, and every other method at ASP's.

    So the stale paradigms differ by their schedules alone.
    """
    few = {name: named[name] for name in ("BSP", "ASP")}
    rates, table = context.tune(few, problem, label)
    all_ = dict.fromkeys(named, rates["ASP"]) | {"BSP": rates["BSP"]}
    return at_rates(named, all_), table


def freely(context: Context, problem: Problem, times: str, **more: Any) -> Run:
    """A run of DSSP's four workers whose server is no bottleneck, without its policy.

    Args:
      context: scale, and where runs are made.
      problem: what is trained.
      times: of a gradient.
      **more: further settings of the run.
    """
    return problem.run(
        workers=timing.WORKERS,
        delays=times,
        eval_seconds=None,
        evaluations=context.scale.evaluations,
        **more,
    )


def trained_out(context: Context, run: Run, label: str) -> list[Outcome]:
    """The same for as many times the epochs as the scale says, for a few seeds.

    It tells what a run misses by its length.
    """
    longer = lengthened(run, context.scale.trained_out)
    seeds = min(2, context.scale.tuning_seeds)
    return context.over_seeds({"": longer}, f"{label}, longer", seeds)[""]


def epoch_drops(problem: Problem) -> tuple[float, ...]:
    """Where the ResNets' step size falls, in epochs of a run of this problem."""
    assert problem.epochs is not None
    return tuple(at / papers.EPOCHS * problem.epochs for at in papers.DROPS)


def lengthened(run: Run, factor: float) -> Run:
    """A run of as many times the epochs, with its drops at the same shares of it."""
    assert run.epochs is not None
    return dataclasses.replace(
        run,
        epochs=factor * run.epochs,
        drops=tuple(round(factor * drop, 9) for drop in run.drops),
    )


def finals(outcomes: Sequence[Outcome]) -> np.ndarray:
    """The final accuracy of every seed."""
    return np.array([outcome.final for outcome in outcomes])


def times_to(
    outcomes: Sequence[Outcome], target: float, column: str = "seconds"
) -> list[float | None]:
    """When each seed reaches the target, in units of `column`; None if it does not."""
    return [outcome.reaching(target, column) for outcome in outcomes]


def sooner(
    mine: Sequence[Outcome],
    rival: Sequence[Outcome],
    target: float,
    column: str = "seconds",
) -> verdicts.Evidence:
    """The claim that one needs less to the target.

    A run that does not get there needs more than its whole length. That says who needs
    less if the other one got there within that length; other seeds are left out.
    """
    pairs = []
    for sides in zip(mine, rival, strict=True):
        times = [one.reaching(target, column) for one in sides]
        ends = [one.history.last(column) for one in sides]
        a, b = (e if t is None else t for t, e in zip(times, ends, strict=True))
        known = [t is not None for t in times]
        if all(known) or (known[0] and a <= b) or (known[1] and b <= a):
            pairs.append((a, b))
    own, theirs = np.array(pairs, float).reshape(-1, 2).T
    return verdicts.sooner(own, theirs)


def is_same(one: Sequence[Outcome], other: Sequence[Outcome]) -> bool:
    """Whether two methods made the same traces, and so one and the same runs."""
    return all(a.trained == b.trained for a, b in zip(one, other, strict=True))


def compared(
    text: str,
    paper: str,
    ours: str,
    sides: tuple[Sequence[Outcome], Sequence[Outcome]],
    evidence: verdicts.Evidence,
    reason: str = "",
) -> document.Claim:
    """A claim about two methods, unless they made one and the same runs."""
    if not is_same(*sides):
        return verdicts.claim(text, paper, ours, evidence, reason)
    why = "both made one and the same schedule, push by push"
    return document.Claim(text, paper, ours, document.BY_CONSTRUCTION, why)
