"""One run in virtual time, described by data."""

import dataclasses
import functools
import math
from typing import Any

import jax

from abs_dssp import communication, delays, optimizers, policies, simulate, tasks
from abs_dssp.communication import Communication
from abs_dssp.delays import Delays
from abs_dssp.experiment import outputs
from abs_dssp.policies import Policy
from abs_dssp.replay import Result
from abs_dssp.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """All that decides the result of a run. Texts are those that flags take."""

    policy: str
    task: str
    model: str | None  # None: the task's own default
    workers: int
    delays: str  # of one gradient
    batch_size: int
    learning_rate: float
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
    evaluations: int | None = None  # at equal times, as many as BSP's slowest rounds
    eval_commits: int | None = None  # evaluates after every so many commits too

    @property
    def settings(self) -> dict[str, Any]:
        """The description, for files and digests."""
        added = ("drop_factor", "evaluations", "eval_commits")
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
        settings = {
            "batch_size": self.batch_size,
            "data_dir": data_dir,
            "download": download,
            "augment": self.augment,
            "limit_train": self.limit_train,
            "limit_test": self.limit_test,
            "validation": self.validation,
            "partition": self.partition,
            "shrink": self.shrink,
        }
        if self.model is not None:
            settings["model"] = self.model
        return _task(self.task, self.workers, tuple(settings.items()))

    def make_delays(self) -> Delays:
        """Seconds per push of `local_steps` gradients."""
        step = delays.parse(self.delays, self.workers)
        return delays.per_step(step, self.local_steps)

    def make_communication(self, task: Task) -> Communication:
        """Time of a push and the pull after it, each as large as the parameters."""
        shapes = jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))
        size = sum(math.prod(s.shape) * s.dtype.itemsize for s in shapes)
        return communication.parse(self.communication, 2 * size)

    def make_optimizer(self, local: bool = False):
        """The server's SGD, or that of local steps."""
        momentum = 0.0 if local else self.momentum
        schedule = self.learning_rate, self.drops, self.drop_factor
        return _sgd(schedule, momentum, self.weight_decay, self.clock)

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

    def train(self, task: Task, **changed: Any) -> Result:
        """Trains in virtual time.

        Args:
          task: that of `make_task`.
          **changed: arguments of `simulate.train`, beside or instead of those that the
            description gives.
        """
        arguments: dict[str, Any] = {
            "seed": self.seed,
            "until_epochs": self.epochs,
            "until_seconds": self.until_seconds,
            "communication": self.make_communication(task),
            "local_steps": self.local_steps,
            "local_optimizer": self.make_optimizer(local=True),
            "aggregate": self.aggregate,
            "loss_every": self.loss_every,
            "eval_every_commits": self.eval_commits,
        } | changed
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
    return policies.parse(text, workers)


@functools.lru_cache(maxsize=8)
def _task(text: str, workers: int, settings: tuple[tuple[str, Any], ...]) -> Task:
    return tasks.parse(text, workers, **dict(settings))


@functools.lru_cache(maxsize=64)
def _sgd(schedule: tuple, momentum: float, weight_decay: float, clock: str):
    return optimizers.sgd(
        optimizers.drops(*schedule),
        momentum=momentum,
        weight_decay=weight_decay,
        clock=clock,
    )
