"""The flags that training scripts share, and the run that they describe.

Importing this module defines the flags. A user's mistake in any of them is a ValueError
with one sentence, which `entry.run` turns into exit status 1.
"""

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from abs_dssp import delays, literals, optimizers, tasks
from abs_dssp.experiment import policy_text
from abs_dssp.experiment.run import OF_TASK, Run
from abs_dssp.tasks.base import Task
from abs_dssp.training import config

flags.DEFINE_string(
    "task",
    "digits",
    "Data set or problem, by name, or one of your own: my_module:make(width=3) is what "
    "make(num_workers, width=3) returns.",
)
flags.DEFINE_string("model", None, "Model, e.g. mlp, cnn or resnet(depth=8).")
flags.DEFINE_integer(
    "workers",
    4,
    "Number of workers; as many as --delays says, if it does.",
    lower_bound=1,
)
flags.DEFINE_string("delays", None, "Seconds per gradient: a model of worker speed.")
flags.DEFINE_string(
    "communication", "none()", "Time of a push: none() or link(bandwidth=1e9)."
)
_ABSENCES = flags.DEFINE_string(
    "absences",
    "none()",
    "When workers die and return, in virtual time: none(), exponential(mean_up=600, "
    "mean_down=30) or given([(worker, dies, returns)]), in seconds.",
)
_LOCAL_STEPS = flags.DEFINE_integer(
    "local_steps", 1, "Gradient steps per push, U.", lower_bound=1
)
flags.DEFINE_integer(
    "fragments",
    1,
    "Parts of the parameters that a worker pushes in turn, one every --local_steps, "
    "each with versions and decisions of its own (Streaming DiLoCo); more than 1 need "
    "--push=displacement.",
    lower_bound=1,
)
_OVERLAP = flags.DEFINE_integer(
    "overlap",
    0,
    "Pushes of other fragments that a worker makes, computing on, before it takes what "
    "it was given for one; below --fragments, in virtual time alone.",
    lower_bound=0,
)
flags.DEFINE_integer("batch_size", 32, "Samples per gradient.", lower_bound=1)
_OPTIMIZER = flags.DEFINE_string(
    "optimizer",
    None,
    "Instead of SGD: an optax optimizer such as adam(learning_rate=0.001), or one of "
    "your own, my_module:make. Its step is --learning_rate, if given, or its own.",
)
flags.DEFINE_string(
    "local_optimizer", None, "That of the local steps, instead of the server's."
)
flags.DEFINE_enum(
    "push",
    "gradients",
    list(config.PUSHES),
    "What workers send: the sum of the gradients of their local steps, or how far the "
    "local optimizer went, which the server's takes for a gradient (FedAvg, DiLoCo).",
)
flags.DEFINE_enum(
    "local_state",
    "fresh",
    list(config.LOCAL_STATES),
    "Whether the local optimizer begins anew at every pull, or each worker keeps its "
    "own.",
)
_RATE = flags.DEFINE_float("learning_rate", 0.1, "Step size of SGD.", lower_bound=0)
flags.DEFINE_float("momentum", 0.0, "Momentum of the server's SGD.")
flags.DEFINE_float("weight_decay", 0.0, "L2 weight decay.", lower_bound=0)
_DROPS = flags.DEFINE_list(
    "learning_rate_drops", [], "When to multiply the step size, in --schedule_clock."
)
_FACTOR = flags.DEFINE_float("learning_rate_factor", 0.1, "Multiplier at each drop.")
_CLOCK = flags.DEFINE_enum(
    "schedule_clock", "epoch", list(optimizers.CLOCKS), "What the drops count."
)
flags.DEFINE_string(
    "aggregate",
    "mean",
    "How a commit combines its pushes: mean, sum, workers, table or "
    "compensated(strength=0.04,adaptive=False).",
)
flags.DEFINE_float("epochs", 20.0, "Stop after so many epochs of samples.")
_UNTIL = flags.DEFINE_float("until", None, "Stop at this time, in (virtual) seconds.")
flags.DEFINE_string(
    "partition",
    "equal",
    "Data per worker: equal, contiguous, shared or dirichlet(alpha=0.3).",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_DOWNLOAD = flags.DEFINE_bool("download", False, "Let TFDS download the data set.")
flags.DEFINE_bool("augment", None, "Pad, crop and flip images; the CIFARs by default.")
flags.DEFINE_integer(
    "limit_train", None, "Train on so many samples only.", lower_bound=1
)
flags.DEFINE_integer(
    "limit_test", None, "Evaluate on so many samples only.", lower_bound=1
)
flags.DEFINE_integer(
    "evaluations", 120, "Evaluations at equal virtual times.", lower_bound=1
)
_EVAL_COMMITS = flags.DEFINE_integer(
    "eval_every_commits", None, "Evaluate after every so many commits too."
)
_WIDTH = flags.DEFINE_integer(
    "width", None, "Gradients computed side by side.", lower_bound=1
)

_SLOTS = 16  # versions kept at least: policies and seeds share a compiled program
_TEXTS = ("optimizer", "local_optimizer", "push", "local_state")
# Left out of `settings` at their defaults.
_ADDED = (*_TEXTS, "absences", "fragments", "overlap")
_OWN: dict[str, Callable[[Any], Any]] = {
    "local_steps": int,
    "fragments": int,
    "overlap": int,
    "learning_rate": float,
    **dict.fromkeys(_TEXTS, str),
}
_OF_SGD = ("momentum", "weight_decay", "learning_rate_drops")  # and of nothing else
_adopted: set[str] = set()  # flags whose values another run was given


def run(text: str, seed: int = 0) -> Run:
    """The run of a policy with settings of its own, and what the flags say.

    Args:
      text: `POLICY`, or `POLICY; local_steps=8; learning_rate=0.05; aggregate=sum`;
        `fragments`, `overlap`, `optimizer`, `local_optimizer`, `push` and `local_state`
        can be given likewise, and are read as the flags are.
      seed: of the run.

    Raises:
      ValueError: if the policy, one of its settings or the delay model cannot be read.
    """
    policy, own = policy_text.settings_of(text, _OWN)
    replaced = "optimizer" in own  # whose step is its own
    rate = None if replaced else _rate()
    own = {"local_steps": _LOCAL_STEPS.value, "learning_rate": rate} | own
    least = min(own["local_steps"], own.get("fragments", 1), 1 + own.get("overlap", 0))
    if least < 1 or (own["learning_rate"] or 0) < 0:
        raise ValueError(f"--policy: a setting of {text!r} is out of range.")
    made = _describe(policy, seed, own)
    made.make_policy()
    made.make_delays()
    made.make_absences()
    if made.optimizer is not None and not replaced:
        for name in _OF_SGD:
            if flags.FLAGS[name].value != flags.FLAGS[name].default:
                raise ValueError(
                    f"--{name} belongs to SGD and has no effect on --optimizer="
                    f"{made.optimizer!r}; leave it out, or write it into --optimizer."
                )
    made.require_fragments(made.make_update())
    return made


def task() -> Task:
    """Model and data, which are the same for every policy and seed."""
    _say_whose_times()
    own = {"local_steps": _LOCAL_STEPS.value, "learning_rate": _rate()}
    described = _describe("", 0, own)
    return described.make_task(_DATA_DIR.value, _DOWNLOAD.value)


def _say_whose_times() -> None:
    """Notes that recorded times are of more or fewer workers than there are here."""
    text, wanted = flags.FLAGS["delays"].value, settings()["workers"]
    try:
        recorded = delays.parse(text or "", None).num_workers
    except ValueError:  # of any number of workers, or refused later
        return
    if wanted != recorded:
        first = f"the first {wanted} take part"
        again = "after these the workers have the same times, from another place on"
        print(
            f"note: --delays has times of {recorded} workers and there are {wanted}: "
            f"{first if wanted < recorded else again}.",
            file=sys.stderr,
        )


def _rate() -> float | None:
    """The step size; None where --optimizer has its own."""
    given = _RATE.present or "learning_rate" in _adopted
    return _RATE.value if _OPTIMIZER.value is None or given else None


def _describe(policy: str, seed: int, own: Mapping[str, Any]) -> Run:
    # A flag that has the name of a field is that field.
    fields = {field.name for field in dataclasses.fields(Run)}
    given = {name: value for name, value in settings().items() if name in fields}
    given |= own
    if given["delays"] is None:  # the last worker takes 2.7 times as long
        shift = [1.0] * (given["workers"] - 1) + [2.7]
        given["delays"] = f"shifted_exponential(shift={shift},mean=0.1)"
    if _UNTIL.value is not None and not flags.FLAGS["epochs"].present:
        given["epochs"] = None  # the default number yields to --until
    return Run(
        policy=policy,
        eval_seconds=None,
        seed=seed,
        drops=_numbers("learning_rate_drops", _DROPS.value),
        clock=_CLOCK.value,
        until_seconds=_UNTIL.value,
        drop_factor=_FACTOR.value,
        eval_commits=_EVAL_COMMITS.value,
        **given,
    )


def refuse_on_processes(policy: str) -> None:
    """Says what real processes cannot do: die by a model, or go on before a release.

    Args:
      policy: `--policy`, which may bring settings of its own.

    Raises:
      ValueError: if it was asked for.
    """
    if _ABSENCES.value != _ABSENCES.default:
        raise ValueError(
            "--absences is for virtual time and does nothing to real processes; leave "
            "it out, or kill some of them (scripts/chaos)."
        )
    _, own = policy_text.settings_of(policy, _OWN)
    overlap = own.get("overlap", _OVERLAP.value)
    if overlap:
        raise ValueError(
            f"--overlap={overlap} is for virtual time: workers of real "
            "processes wait until they are released; leave it out."
        )


def memory() -> dict[str, Any]:
    """Arguments of `Run.train` that decide memory and speed, and no result."""
    return {"width": _WIDTH.value, "slots": _SLOTS}


def put(name: str, value: Any) -> None:
    """Gives a flag the value that something other than the command line says."""
    flags.FLAGS[name].value = value
    _adopted.add(name)


def _open(name: str) -> bool:
    """Whether nothing has said yet what a flag is."""
    return not flags.FLAGS[name].present and name not in _adopted


def _settle() -> None:
    """Gives flags the values that others imply.

    These are the number of workers that the delay model has, what the text of the task
    says, and the defaults of a task of one's own.

    Raises:
      ValueError: if a flag says otherwise than the text of the task.
    """
    text = flags.FLAGS["delays"].value
    if text is not None and _open("workers"):
        with contextlib.suppress(ValueError):  # it says none, or is refused later
            put("workers", delays.parse(text, None).num_workers)
    call = literals.parse_call(str(flags.FLAGS["task"].value), "--task")
    known = flags.FLAGS.flags_by_module_dict()[__name__]
    names = {flag.name for flag in known} & set(OF_TASK)
    for name in names & set(call.kwargs):
        said, value = call.kwargs[name], flags.FLAGS[name].value
        if not _open(name) and value != said:
            raise ValueError(
                f"--{name}: got {value!r}, but --task says {name} too; leave one out."
            )
        if isinstance(said, (int, float, str)):
            put(name, said)
    made = tasks.arguments(call.name)
    names |= {"data_dir"} if ":" in call.name else set()
    for name in sorted(names - set(made)):
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} has no effect on --task={call.name}, which takes "
                f"{', '.join(made) or 'nothing'}; leave it out."
            )
    if ":" in call.name:
        for name in names & set(made) - set(call.kwargs):
            default = made[name].default
            if default is not inspect.Parameter.empty and _open(name):
                put(name, default)


def settings() -> dict[str, Any]:
    """The values of all flags of this module that decide a result."""
    _settle()
    ignored = {"data_dir", "download"}
    for name in _ADDED:  # as before there were these flags: kept runs are found
        if flags.FLAGS[name].value == flags.FLAGS[name].default:
            ignored |= {name}
    if _rate() is None:
        ignored |= {"learning_rate"}
    module = flags.FLAGS.flags_by_module_dict()[__name__]
    return {f.name: f.value for f in module if f.name not in ignored}


def adopt(saved: Mapping[str, Any]) -> None:
    """Gives flags that are not on the command line the values that a run had.

    Args:
      saved: what `settings` gave, and the run's `policy`, whose own settings count.
    """
    _, own = policy_text.settings_of(saved.get("policy", ""), _OWN)
    saved = {**saved, **own}
    if "optimizer" in own and "learning_rate" not in own:
        saved.pop("learning_rate", None)
    known = {f.name for f in flags.FLAGS.flags_by_module_dict()[__name__]}
    if _OPTIMIZER.present:  # another one than that run had
        known -= {"learning_rate", *_OF_SGD}
    for name in known & set(saved):
        if not flags.FLAGS[name].present:
            put(name, saved[name])


def _numbers(flag: str, values: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except ValueError:
        raise ValueError(f"--{flag}: expected numbers, got {values}.") from None
