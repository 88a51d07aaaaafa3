"""One run in virtual time, described by data."""

import dataclasses
import functools
from typing import Any

from abs_dssp import (
    absences,
    communication,
    delays,
    optimizers,
    policies,
    replay,
    simulate,
    tasks,
)
from abs_dssp.absences import Absences
from abs_dssp.communication import Communication
from abs_dssp.delays import Delays
from abs_dssp.experiment import outputs
from abs_dssp.policies import Policy
from abs_dssp.replay import Result
from abs_dssp.simulation import fragment_schedule
from abs_dssp.tasks.base import Task
from abs_dssp.traces import Trace
from abs_dssp.training import fragmented
from abs_dssp.training.config import UpdateConfig

# Fields that are arguments of a task; None leaves the task's default.
OF_TASK = ["model", "batch_size", "partition", "shrink", "augment"]
OF_TASK += ["limit_train", "limit_test", "validation"]


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides the result of a run. Texts are those that flags take."""

    policy: str
    task: str
    model: str | None  # None: the task's own default
    workers: int
    delays: str  # of one gradient
    batch_size: int
    learning_rate: float | None  # None where `optimizer` has its own
    epochs: float | None  # None where only time ends the run
    eval_seconds: float | None  # virtual seconds; None: from `evaluations`
    seed: int = 0
    communication: str = "none()"
    local_steps: int = 1
    momentum: float = 0.0  # of the server; local steps have none
    weight_decay: float = 0.0
    drops: tuple[float, ...] = ()  # in units of `clock`
    clock: str = "epoch"
    aggregate: str = "mean"
    until_seconds: float | None = None
    loss_every: int | None = None
    augment: bool | None = None
    limit_train: int | None = None
    limit_test: int | None = None
    validation: int | None = None
    partition: str = "equal"
    shrink: int = 1  # images have this many times as small a side
    # While a field below has its default, `settings` leaves it out, so that runs that
    # were kept before it existed are still found.
    drop_factor: float = 0.1  # of the step size, at each of `drops`
    warmup: float = 0.0  # in units of `clock`
    evaluations: int | None = None  # at equal times, as many as BSP's slowest rounds
    # Evaluates after every so many commits too, or after these.
    eval_commits: int | tuple[int, ...] | None = None
    redraw: bool = True  # times of local steps: one each, or one for all of a push
    optimizer: str | None = None  # for `optimizers.parse`, instead of SGD
    local_optimizer: str | None = None  # of local steps, instead of that of the server
    push: str = "gradients"
    local_state: str = "fresh"
    absences: str = "none()"  # when workers die and return
    fragments: int = 1  # F, pushed in turn
    overlap: int = 0  # pushes before a worker takes what it was given

    @property
    def settings(self) -> dict[str, Any]:
        """The description, for files and digests."""
        added = ["drop_factor", "warmup", "evaluations", "eval_commits", "redraw"]
        added += ["optimizer", "local_optimizer", "push", "local_state", "absences"]
        added += ["fragments", "overlap"]
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in added or getattr(self, field.name) != field.default
        }

    @property
    def key(self) -> str:
        """Names the run on disk."""
        return outputs.digest(self.settings, length=20)

    def reads_loss(self) -> bool:
        """Whether the policy decides by the training loss, so that the run cannot be
        scheduled before it is trained."""
        return policies.reads_loss(self.make_policy(), self.workers)

    def make_policy(self) -> Policy:
        """The policy that `policy` describes."""
        return _policy(self.policy, self.workers)

    def make_task(self, data_dir: str | None = None, download: bool = False) -> Task:
        """Model and data.

        Args:
          data_dir: folder of prepared TFDS data.
          download: whether TFDS may download the data.
        """
        settings = {name: getattr(self, name) for name in OF_TASK}
        given = {name: v for name, v in settings.items() if v is not None}
        given |= {"data_dir": data_dir, "download": download}
        return _task(self.task, self.workers, tuple(given.items()))

    def make_delays(self) -> Delays:
        """Seconds per push of `local_steps` gradients."""
        step = delays.parse(self.delays, self.workers)
        return delays.per_step(step, self.local_steps, self.redraw)

    def make_absences(self) -> Absences | None:
        """When workers die and return; None if nobody dies."""
        return absences.parse(self.absences, self.workers)

    def make_communication(self, task: Task) -> Communication:
        """Time of a push and the pull after it, each as large as the parameters."""
        return communication.parse(self.communication, 2 * tasks.variable_bytes(task))

    def make_optimizer(self, local: bool = False):
        """The server's optimizer, or that of local steps.

        Without a `local_optimizer`, SGD has no momentum in local steps, and any other
        optimizer is the same in both places.
        """
        if local and self.local_optimizer is not None:
            return _optimizer(self.local_optimizer, None)
        if self.optimizer is not None:
            return _optimizer(self.optimizer, self.learning_rate)
        momentum = 0.0 if local else self.momentum
        schedule = self.learning_rate, self.drops, self.drop_factor, self.warmup
        return _sgd(schedule, momentum, self.weight_decay, self.clock)

    def make_update(self) -> UpdateConfig:
        """How pushes become updates.

        Raises:
          ValueError: if its settings do not go together.
        """
        if self.push == "displacement" and None in (
            self.optimizer,
            self.local_optimizer,
        ):
            raise ValueError(
                "push=displacement needs two optimizers, the server's and that of the "
                'local steps; give both, such as --optimizer="sgd(1.0)" and '
                f'--local_optimizer="adamw(0.001)", got {self.optimizer!r} and '
                f"{self.local_optimizer!r}."
            )
        both = self.make_optimizer(), self.make_optimizer(local=True)
        kinds = self.aggregate, self.push, self.local_state
        return UpdateConfig(*both, self.local_steps, *kinds)

    def require_fragments(self, update: UpdateConfig) -> None:
        """Refuses fragments of what has none.

        Args:
          update: that of `make_update`.

        Raises:
          ValueError: if the policy or the pushes are none for several fragments.
        """
        fragment_schedule.overlap_of("--overlap", self.overlap, self.fragments)
        if self.fragments > 1:
            policy = self.make_policy()
            fragment_schedule.require_policy("--policy", policy, self.workers)
            fragmented.require_displacement("--push", update)

    def eval_interval(self, task: Task) -> float:
        """Virtual seconds between evaluations.

        From `evaluations` it is the same for every policy and seed.
        """
        if self.eval_seconds is not None:
            return self.eval_seconds
        assert self.evaluations is not None
        if self.until_seconds is not None:
            return self.until_seconds / self.evaluations
        step = delays.parse(self.delays, self.workers)
        slowest = float(delays.table(step, 256).mean(axis=1).max())
        assert self.epochs is not None
        rounds = self.epochs * task.samples_per_epoch / self.batch_size / self.workers
        return max(slowest * rounds / self.evaluations, 1e-12)

    def schedule(self, task: Task) -> Trace:
        """The trace of a run of `epochs`, if its policy does not read the loss."""
        pushes = simulate.push_limit(task, None, None, self.epochs, self.local_steps)
        assert pushes is not None
        return simulate.schedule(
            self.make_policy(),
            self.make_delays(),
            pushes,
            self.seed,
            communication=self.make_communication(task),
            absences=self.make_absences(),
            local_steps=self.local_steps,
            task=task.name,
            fragments=self.fragments,
            overlap=self.overlap,
        )

    def replay(self, task: Task, trace: Trace, **settings: Any) -> Result:
        """What a trace leads to with this run's optimizer, aggregate and seed.

        Args:
          task: that of `make_task`.
          trace: of this run.
          **settings: further arguments of `replay.replay`.
        """
        same = ("aggregate", "push", "local_state")
        settings |= {name: getattr(self, name) for name in same}
        settings |= {"local_optimizer": self.make_optimizer(local=True)}
        return replay.replay(task, self.make_optimizer(), trace, self.seed, **settings)

    def train(self, task: Task, **changed: Any) -> Result:
        """Trains in virtual time.

        Args:
          task: that of `make_task`.
          **changed: arguments of `simulate.train`, beside or instead of those that the
            description gives.
        """
        same = ["seed", "until_seconds", "local_steps", "aggregate", "loss_every"]
        same += ["push", "local_state", "fragments", "overlap"]
        arguments: dict[str, Any] = {name: getattr(self, name) for name in same} | {
            "until_epochs": self.epochs,
            "communication": self.communication,
            "absences": self.make_absences(),
            "local_optimizer": self.make_optimizer(local=True),
            "eval_every_commits": self.eval_commits,
        }
        arguments |= changed
        if "delays" not in changed:
            arguments["delays"] = self.make_delays()
        if "eval_every_seconds" not in changed:
            arguments["eval_every_seconds"] = self.eval_interval(task)
        return simulate.train(
            task, self.make_policy(), optimizer=self.make_optimizer(), **arguments
        )


# The same object for the same text, so that jit finds its compiled program again.
@functools.lru_cache(maxsize=64)
def _policy(text: str, workers: int) -> Policy:
    return policies.resolve(text, workers, "--policy")


@functools.lru_cache(maxsize=8)
def _task(text: str, workers: int, settings: tuple[tuple[str, Any], ...]) -> Task:
    return tasks.parse(text, workers, **dict(settings))


@functools.lru_cache(maxsize=64)
def _optimizer(text: str, learning_rate: float | None):
    return optimizers.parse(text, learning_rate)


@functools.lru_cache(maxsize=64)
def _sgd(schedule: tuple, momentum: float, weight_decay: float, clock: str):
    rate = optimizers.drops(*schedule)
    return optimizers.sgd(
        rate, momentum=momentum, weight_decay=weight_decay, clock=clock
    )
