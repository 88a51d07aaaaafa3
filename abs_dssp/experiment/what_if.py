"""Other policies on the times that a run recorded: schedules, and trainings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abs_dssp import extras, policies, whatif
from abs_dssp.experiment import outputs
from abs_dssp.experiment.progress import PushProgress
from abs_dssp.experiment.run import Run
from abs_dssp.history import rederivation
from abs_dssp.replay import Result
from abs_dssp.report import curves, summary
from abs_dssp.tasks.base import Task
from abs_dssp.traces import Trace


def schedules(
    trace: Trace,
    runs: Mapping[str, Run],
    results: Mapping[str, Result],
    transfers: bool,
) -> dict[str, Trace]:
    """What every policy does with the recorded times.

    Args:
      trace: of the recorded run.
      runs: by name.
      results: of `train`, if they were trained: their schedules are taken where a
        policy goes by the training loss.
      transfers: whether the recorded communication counts.
    """
    return {
        name: results[name].trace
        if name in results and run.reads_loss()
        else whatif.reschedule(
            trace,
            run.make_policy(),
            local_steps=run.local_steps,
            communication=transfers,
        )
        for name, run in runs.items()
    }


def notes(trace: Trace, runs: Mapping[str, Run], trained: bool) -> list[str]:
    """What a reader of the schedules must know."""
    return whatif.caveats(trace) + [
        f"{name} goes by the training loss and was scheduled without one; --train "
        "gives it one."
        for name, run in runs.items()
        if not trained and run.reads_loss()
    ]


def check(trace: Trace) -> str:
    """Whether the run's own policy, given its own times, decides as recorded."""
    if any(event.kind != "timer" for event in trace.events):
        return "not possible; workers left or joined, or a push was refused."
    try:
        policy = policies.parse(trace.policy, trace.num_workers)
    except (ValueError, TypeError) as error:
        return f"not possible; {error}"
    if policies.reads_loss(policy, trace.num_workers):
        return "not possible; the run's policy goes by the training loss."
    again = whatif.reschedule(trace, policy, replayable=True)
    difference = rederivation.first_difference(trace, again)
    if difference:
        return f"the run's own policy decides otherwise: {difference}."
    return "the run's own policy gives the recorded decisions, row by row."


def train(
    trace: Trace, name: str, run: Run, task: Task, transfers: bool, **changed: Any
) -> Result:
    """Trains in virtual time, on the recorded times.

    Args:
      trace: of the recorded run.
      name: of this run, for progress.
      run: policy, step size and the like.
      task: model and data.
      transfers: whether the recorded communication counts.
      **changed: further arguments of `Run.train`.
    """
    assert run.evaluations is not None
    steps, progress = run.local_steps, PushProgress(name)
    result = run.train(
        task,
        delays=whatif.delays_of(trace, local_steps=steps, communication=transfers),
        communication=None,  # a part of the delays
        eval_every_seconds=max(trace.seconds, 1e-12) / run.evaluations,
        progress=progress,
        **changed,
    )
    progress.close(f"{name}: {len(result.trace)} pushes")
    return result


def as_recorded(trace: Trace, run: Run) -> dict[str, Any]:
    """Arguments of `train` for as many gradient steps as were recorded."""
    pushes = max(1, round(len(trace) * trace.local_steps / run.local_steps))
    return {"num_pushes": pushes, "until_epochs": None, "until_seconds": None}


def save_training(
    out: Path,
    run_dir: Path,
    recorded: str,
    results: Mapping[str, Result],
    target: float | None,
) -> list[dict[str, Any]]:
    """Writes evaluations and curves; gives the trainings' summaries.

    Args:
      out: folder to write to.
      run_dir: of the recorded run, which comes first if it left a `run.json`.
      recorded: name of the recorded run.
      results: of the trainings, by name.
      target: accuracy whose time is taken.
    """
    histories = {name: result.history for name, result in results.items()}
    rows = {name: summary.summarise(r, target) for name, r in results.items()}
    record = outputs.load_json(run_dir / "run.json")
    if record is not None and {"records", "summary"} <= set(record):
        history = outputs.kept_history(record)
        own = {field: record["summary"].get(field) for field in summary.FIELDS}
        histories = {recorded: history} | histories
        rows = {recorded: own | summary.to_target(history, target)} | rows
    by_seed = {(name, 0): history for name, history in histories.items()}
    outputs.save_history(out / "history.csv", by_seed)
    measure = outputs.measure(histories.values())
    shown = {name: [history] for name, history in histories.items()}
    path = out / f"{measure}.png"
    if extras.available("matplotlib", "a picture of the curves"):
        curves.save_curves(shown, path, measure=measure, target=target)
    return [summary.over_seeds(name, [row]) for name, row in rows.items()]
