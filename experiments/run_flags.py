"""The flags that training experiments share, and what they build.

Importing this module defines the flags; `build` reads them. A user's mistake in any of
them is a ValueError with one sentence, which `entry.run` turns into exit status 1.
"""

import ast
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from abs_dssp import communication, delays, optimizers, policies, simulate, tasks
from abs_dssp.replay import Progress, Result
from abs_dssp.tasks.base import Task

_TASK = flags.DEFINE_string("task", "digits", "Data set or problem, by name.")
_MODEL = flags.DEFINE_string("model", None, "Model, e.g. mlp, cnn or resnet(depth=8).")
_WORKERS = flags.DEFINE_integer("workers", 4, "Number of workers.", lower_bound=1)
_DELAYS = flags.DEFINE_string(
    "delays", None, "Seconds per gradient: a model of worker speed."
)
_COMMUNICATION = flags.DEFINE_string(
    "communication", "none()", "Time of a push: none() or link(bandwidth=1e9)."
)
_LOCAL_STEPS = flags.DEFINE_integer(
    "local_steps", 1, "Gradient steps per push, U.", lower_bound=1
)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Samples per gradient.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 0.1, "Step size of SGD.", lower_bound=0)
_MOMENTUM = flags.DEFINE_float("momentum", 0.0, "Momentum of the server's SGD.")
_DECAY = flags.DEFINE_float("weight_decay", 0.0, "L2 weight decay.", lower_bound=0)
_DROPS = flags.DEFINE_list(
    "learning_rate_drops", [], "When to multiply the step size, in --schedule_clock."
)
_FACTOR = flags.DEFINE_float("learning_rate_factor", 0.1, "Multiplier at each drop.")
_CLOCK = flags.DEFINE_enum(
    "schedule_clock", "epoch", list(optimizers.CLOCKS), "What the drops count."
)
_AGGREGATE = flags.DEFINE_string(
    "aggregate",
    "mean",
    "How a commit combines its pushes: mean, sum, workers, table or "
    "compensated(strength=0.04,adaptive=False).",
)
_EPOCHS = flags.DEFINE_float("epochs", 20.0, "Stop after so many epochs of samples.")
_UNTIL = flags.DEFINE_float("until", None, "Stop at this time, in (virtual) seconds.")
_PARTITION = flags.DEFINE_string(
    "partition", "equal", "Data per worker: equal, shared or dirichlet(alpha=0.3)."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_DOWNLOAD = flags.DEFINE_bool("download", False, "Let TFDS download the data set.")
_AUGMENT = flags.DEFINE_bool(
    "augment", None, "Pad, crop and flip images; the CIFARs by default."
)
_LIMIT = flags.DEFINE_integer(
    "limit_train", None, "Train on so many samples only.", lower_bound=1
)
_LIMIT_TEST = flags.DEFINE_integer(
    "limit_test", None, "Evaluate on so many samples only.", lower_bound=1
)
_EVALUATIONS = flags.DEFINE_integer(
    "evaluations", 120, "Evaluations at equal virtual times.", lower_bound=1
)
_EVAL_COMMITS = flags.DEFINE_integer(
    "eval_every_commits", None, "Evaluate after every so many commits too."
)
_WIDTH = flags.DEFINE_integer(
    "width", None, "Gradients computed side by side.", lower_bound=1
)


# Versions kept at least: policies and seeds then share one compiled program.
_SLOTS = 16


@dataclasses.dataclass(frozen=True)
class Contender:
    """A policy and the settings that are its own."""

    text: str  # as given
    policy: policies.Policy
    local_steps: int
    learning_rate: float


_OWN: dict[str, Callable[[Any], Any]] = {"local_steps": int, "learning_rate": float}


def contender(text: str) -> Contender:
    """Reads `POLICY` or `POLICY; local_steps=8; learning_rate=0.05`.

    Raises:
      ValueError: if the policy or one of the settings cannot be read.
    """
    policy, *settings = text.split(";")
    own: dict[str, Any] = {
        "local_steps": _LOCAL_STEPS.value, "learning_rate": _RATE.value
    }  # fmt: skip
    for setting in settings:
        name, _, value = (part.strip() for part in setting.partition("="))
        if name not in _OWN:
            raise ValueError(
                f"--policy: unknown setting {name!r} in {text!r}; "
                f"known: {', '.join(sorted(_OWN))}."
            )
        try:
            own[name] = _OWN[name](ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(
                f"--policy: {name} must be a number, got {value!r}."
            ) from None
    if own["local_steps"] < 1 or own["learning_rate"] < 0:
        raise ValueError(f"--policy: a setting of {text!r} is out of range.")
    return Contender(
        text.strip(), policies.parse(policy.strip(), _WORKERS.value), **own
    )


def build_task() -> Task:
    """The task that the flags describe."""
    settings = {
        "batch_size": _BATCH.value,
        "partition": _PARTITION.value,
        "data_dir": _DATA_DIR.value,
        "download": _DOWNLOAD.value,
        "limit_train": _LIMIT.value,
        "limit_test": _LIMIT_TEST.value,
        "augment": _AUGMENT.value,
    }
    if _MODEL.value is not None:
        settings["model"] = _MODEL.value
    return tasks.parse(_TASK.value, _WORKERS.value, **settings)


def build_delays() -> delays.Delays:
    """Seconds per gradient; by default the last worker takes 2.7 times as long."""
    text = _DELAYS.value
    if text is None:
        shift = [1.0] * (_WORKERS.value - 1) + [2.7]
        text = f"shifted_exponential(shift={shift},mean=0.1)"
    return delays.parse(text, _WORKERS.value)


def settings() -> dict[str, Any]:
    """The values of all flags of this module that decide a result."""
    ignored = {"data_dir", "download"}
    module = flags.FLAGS.flags_by_module_dict()[__name__]
    return {f.name: f.value for f in module if f.name not in ignored}


def train(
    task: Task,
    contender: Contender,
    seed: int,
    *,
    target_accuracy: float | None = None,
    progress: Progress | None = None,
    checkpoint_dir: str | None = None,
) -> Result:
    """One run in virtual time, as the flags describe it."""
    step = build_delays()
    speed = delays.per_step(step, contender.local_steps)
    size = _variable_bytes(task)
    transfers = communication.parse(_COMMUNICATION.value, 2 * size)
    return simulate.train(
        task,
        contender.policy,
        speed,
        optimizer(contender.learning_rate),
        seed=seed,
        communication=transfers,
        local_steps=contender.local_steps,
        local_optimizer=optimizer(contender.learning_rate, local=True),
        aggregate=_AGGREGATE.value,
        width=_WIDTH.value,
        slots=_SLOTS,
        eval_every_commits=_EVAL_COMMITS.value,
        eval_every_seconds=_interval(task, step),
        target_accuracy=target_accuracy,
        progress=progress,
        checkpoint_dir=checkpoint_dir,
        **limits(),
    )


def optimizer(learning_rate: float, *, local: bool = False):
    """The server's SGD, or that of local steps, which has no momentum."""
    return _optimizer(learning_rate, 0.0 if local else _MOMENTUM.value)


def limits() -> dict[str, Any]:
    """When a run ends: `until_epochs` and `until_seconds`."""
    return {"until_epochs": _epochs(), "until_seconds": _UNTIL.value}


@functools.lru_cache  # the same object again, so that jit knows it
def _optimizer(learning_rate: float, momentum: float):
    drops = _numbers("learning_rate_drops", _DROPS.value)
    return optimizers.sgd(
        optimizers.drops(learning_rate, drops, _FACTOR.value),
        momentum=momentum,
        weight_decay=_DECAY.value,
        clock=_CLOCK.value,
    )


def _numbers(flag: str, values: Sequence[str]) -> list[float]:
    try:
        return [float(value) for value in values]
    except ValueError:
        raise ValueError(f"--{flag}: expected numbers, got {values}.") from None


def _epochs() -> float | None:
    """The limit in epochs; the default one yields to --until."""
    if _UNTIL.value is not None and not flags.FLAGS["epochs"].present:
        return None
    return _EPOCHS.value


def _variable_bytes(task: Task) -> int:
    import jax

    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes))


def _interval(task: Task, step: delays.Delays) -> float:
    """Seconds between evaluations: the same for every policy and seed."""
    if _UNTIL.value is not None:
        return _UNTIL.value / _EVALUATIONS.value
    durations = delays.table(step, 256).mean(axis=1)
    slowest = float(durations.max())
    rounds = _EPOCHS.value * task.samples_per_epoch / _BATCH.value / _WORKERS.value
    return max(slowest * rounds / _EVALUATIONS.value, 1e-12)


def adopt(saved: Mapping[str, Any]) -> None:
    """Takes the values that `settings` gave for a run, but not over given flags."""
    known = {f.name for f in flags.FLAGS.flags_by_module_dict()[__name__]}
    for name in known & set(saved):
        if not flags.FLAGS[name].present:
            flags.FLAGS[name].value = saved[name]
