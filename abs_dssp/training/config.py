"""The settings of training: frozen and checked once, when they are made."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import jax.numpy as jnp
import numpy as np
import optax

from abs_dssp import checks
from abs_dssp.tasks.base import Task
from abs_dssp.tasks.splitting import Split
from abs_dssp.training import aggregators

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Every = SupportsIndex | Sequence[int]  # commits: after so many, or after these
LOOPS = ("auto", "compiled", "host")
PUSHES = ("gradients", "displacement")
LOCAL_STATES = ("fresh", "kept")


class Wire(NamedTuple):
    """Number formats of what travels between worker and server."""

    push: str = "float32"
    pull: str = "float32"


def wire(push: str = "float32", pull: str = "float32") -> Wire:
    """Checks the formats of pushes and pulls: `"float32"` or `"bfloat16"`.

    Raises:
      ValueError: for another format.

    Example:
      >>> wire(push="bfloat16")
      Wire(push='bfloat16', pull='float32')
    """
    for name, value in (("push", push), ("pull", pull)):
        if value not in DTYPES:
            known = ", ".join(DTYPES)
            raise ValueError(f"{name} format must be one of {known}, got {value!r}.")
    return Wire(push, pull)


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """How pushes become updates. Hashable: a static argument of compiled functions.

    With `push="gradients"` a push is the sum of the U gradients of a computation. With
    `"displacement"` it is w_pulled - w_local after U steps of the local optimiser, for
    U = 1 too, and the server's optimiser takes that for a gradient. So sgd(1.0) with
    `"mean"` is FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629) with any local
    optimiser, and sgd(0.7, momentum=0.9, nesterov=True) around AdamW is DiLoCo
    (Douillard et al., 2023, arXiv 2311.08105). Momentum around sums of gradients is
    not: they are larger than a displacement by one over the local step.

    Attributes:
      optimizer: the server's; its `update` is given `epoch` and `server_updates` as
        extra arguments (see `optimizers.on_clock`).
      local_optimizer: makes the local steps within a push; of gradients the server's by
        default, so that plain SGD has the same step size in both places (gamma = eta).
        Of a single gradient no local step is made, and nothing runs it.
      local_steps: U, gradient steps per push; at least 1.
      aggregate: what a commit makes of its pushes: a name of `aggregators.KNOWN`, with
        arguments where it has any, such as `"mean"` or `"compensated(strength=0.04)"`.
      push: one of `PUSHES`.
      local_state: `"fresh"`: the local optimiser starts anew at every pull; `"kept"`:
        every worker has a state of its own, which the computations that it finishes
        carry on, those that the policy discards too. It starts anew only where the
        worker left or joined; a cancelled computation leaves no mark.

    Raises:
      ValueError: for `local_steps` below 1, an unknown name, a displacement without a
        local optimiser or with an aggregate that squares gradients, or a state that is
        kept where no local optimiser runs.

    Example:
      >>> import optax
      >>> fedavg = UpdateConfig(
      ...     optax.sgd(1.0), optax.adam(1e-3), local_steps=20, push="displacement")
      >>> fedavg.moves_locally
      True
    """

    optimizer: optax.GradientTransformation
    local_optimizer: optax.GradientTransformation | None = None
    local_steps: int = 1
    aggregate: str = "mean"
    push: str = "gradients"
    local_state: str = "fresh"

    def __post_init__(self):
        checks.whole("replay", "local_steps", self.local_steps, least=1)
        aggregators.parse(self.aggregate)  # refuses what it does not know
        named = (("push", PUSHES), ("local_state", LOCAL_STATES))
        for name, known in named:
            if getattr(self, name) not in known:
                listed = ", ".join(map(repr, known))
                got = repr(getattr(self, name))
                raise ValueError(f"{name} must be one of {listed}, got {got}.")
        if self.push == "displacement" and self.local_optimizer is None:
            raise ValueError(
                "push='displacement' needs a local optimizer, which makes the steps "
                "that are pushed; give one beside the server's, such as sgd(0.1) "
                "beside sgd(1.0)."
            )
        if self.push == "displacement" and self.aggregate.startswith("compensated"):
            raise ValueError(
                f"aggregate={self.aggregate!r} takes squares of gradients for a "
                "curvature, so it needs push='gradients', got 'displacement'."
            )
        if self.keeps_local_state and not self.moves_locally:
            raise ValueError(
                "local_state='kept' has nothing to keep: with push='gradients' and "
                "local_steps=1 no local optimizer runs; take push='displacement' or "
                "more local steps."
            )

    @property
    def moves_locally(self) -> bool:
        """Whether the local optimiser makes steps within a push."""
        return self.local_steps > 1 or self.push == "displacement"

    @property
    def keeps_local_state(self) -> bool:
        """Whether every worker has a state of the local optimiser of its own."""
        return self.local_state == "kept"

    @property
    def aggregator(self) -> aggregators.Aggregator:
        """What `aggregate` names."""
        return aggregators.parse(self.aggregate)

    @property
    def server(self) -> optax.GradientTransformationExtraArgs:
        """The server's optimiser; accepts extra arguments."""
        return optax.with_extra_args_support(self.optimizer)

    @property
    def local(self) -> optax.GradientTransformationExtraArgs:
        """The optimiser of the local steps; accepts extra arguments."""
        return optax.with_extra_args_support(self.local_optimizer or self.optimizer)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """How a replay computes. Only `formats` changes more than the rounding.

    Attributes:
      width: gradients computed side by side; 1 on a CPU and N elsewhere by default.
      num_versions: versions of the parameters that are kept at least.
      loop: `"compiled"`, `"host"` (row by row) or `"auto"`.
      formats: number formats of pushes and pulls.
      recorded: whether a cluster wrote the trace, whose bits `"auto"` then reproduces.
      split: how that cluster's workers divided the model among their devices; `"host"`
        does it likewise.

    Raises:
      ValueError: for an unknown loop or a width below 1, or if two settings exclude
        each other.
    """

    width: int | None = None
    num_versions: int = 1
    loop: str = "auto"
    formats: Wire = Wire()
    recorded: bool = False
    split: Split | None = None

    def __post_init__(self):
        if self.loop not in LOOPS:
            known = ", ".join(map(repr, LOOPS))
            raise ValueError(f"replay: loop must be one of {known}, got {self.loop!r}.")
        if self.width is not None:
            checks.whole("replay", "width", self.width, least=1)
        checks.whole("replay", "slots", self.num_versions, least=1)
        side_by_side = self.width not in (None, 1)
        if self.loop == "host" and side_by_side:
            raise ValueError(f"replay: loop 'host' has width 1, got {self.width}.")
        if self.formats != Wire() and (self.loop == "compiled" or side_by_side):
            raise ValueError(
                "replay: formats other than float32 need loop='host' and width 1, "
                f"got {self.loop!r} and {self.width}."
            )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """When the parameters are evaluated, besides the start and the end.

    Attributes:
      every_commits: after every so many commits; of several numbers, after these.
      every_seconds: at every multiple of this time of the trace.
      target_accuracy: stop at the first evaluation of at least this accuracy.

    Raises:
      ValueError: for an interval that is not above 0, an accuracy outside 0..1, or a
        target without an interval.
    """

    every_commits: Every | None = None
    every_seconds: float | None = None
    target_accuracy: float | None = None

    def __post_init__(self):
        if self.every_seconds is not None:
            checks.number("replay", "eval_every_seconds", self.every_seconds, above=0)
        if self.every_commits is not None:
            for each in np.atleast_1d(np.asarray(self.every_commits)).tolist():
                checks.whole("replay", "eval_every_commits", each, least=1)
        if self.target_accuracy is not None:
            checks.share("replay", "target_accuracy", self.target_accuracy)
            if self.every_seconds is None and self.every_commits is None:
                raise ValueError(
                    "replay: target_accuracy is looked for at evaluations; give "
                    "eval_every_commits or eval_every_seconds too, got neither."
                )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often the state is saved.

    Attributes:
      folder: of the checkpoints; None saves nothing.
      every: pushes between two checkpoints; at every evaluation by default.

    Raises:
      ValueError: if `every` is below 1.
    """

    folder: str | Path | None = None
    every: int | None = None

    def __post_init__(self):
        if self.every is not None:
            checks.whole("replay", "checkpoint_every", self.every, least=1)


@dataclasses.dataclass(frozen=True)
class RunLimits:
    """Where a run in virtual time ends: at the first limit that it reaches.

    Attributes:
      num_pushes: pushes.
      until_seconds: virtual time.
      until_epochs: samples processed, in epochs.

    Raises:
      ValueError: for a limit that is not above 0, or if there is none.
    """

    num_pushes: int | None = None
    until_seconds: float | None = None
    until_epochs: float | None = None

    def __post_init__(self):
        given = dataclasses.asdict(self)
        for name, value in given.items():
            if value is not None:
                checks.number("train", name, value, above=0)
        if self.num_pushes is not None:
            checks.whole("train", "num_pushes", self.num_pushes, least=1)
        if all(value is None for value in given.values()):
            raise ValueError(
                f"train: give one of {', '.join(given)}; the run would never end."
            )

    def pushes(self, task: Task, local_steps: int) -> int | None:
        """Pushes that are enough for every limit; None where only time ends the run."""
        limits = [] if self.num_pushes is None else [self.num_pushes]
        if self.until_epochs is not None:
            wanted = self.until_epochs * task.samples_per_epoch
            limits.append(math.ceil(wanted / (task.batch_size * local_steps)))
        return min(limits, default=None)


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """All settings of a replay."""

    update: UpdateConfig
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
