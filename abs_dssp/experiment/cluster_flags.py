"""The flags of real runs, and how the training scripts start and join a cluster."""

import ast
import contextlib
import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags

from abs_dssp import checks, files, simulate
from abs_dssp.cluster import lines, transport
from abs_dssp.cluster import settings as settings_lib
from abs_dssp.cluster.status import Status
from abs_dssp.experiment import entry, outputs, policy_text, run_flags
from abs_dssp.experiment.run import Run
from abs_dssp.replay import Result
from abs_dssp.training import flat

_CLUSTER = flags.DEFINE_enum(
    "cluster",
    "",
    ["", "local", "auto", "guest"],
    "Real processes instead of virtual time: local starts them on this machine; auto "
    "joins those that Slurm, Open MPI, Kubernetes or the flags below name; guest adds "
    "workers to the run in --out.",
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 4, "Processes of --cluster=local.", lower_bound=1
)
_DEVICES = flags.DEFINE_integer(
    "devices_per_process",
    None,
    "Devices of each, by default as many as a worker has.",
    lower_bound=1,
)
_OF_WORKER = flags.DEFINE_integer(
    "devices_per_worker",
    1,
    "Devices of each worker, which divide the model among them; a process has as many "
    "workers as its devices are enough for.",
    lower_bound=1,
)
_PROCESSES_OF_WORKER = flags.DEFINE_integer(
    "processes_per_worker",
    1,
    "Processes of each worker, all on one host, which have its devices among them; "
    "process 0 has the server alone then.",
    lower_bound=1,
)
_SHARDING = flags.DEFINE_string(
    "sharding",
    "largest",
    "Which axis of a parameter a worker's devices divide, where the model's own "
    "metadata of Flax do not say: largest, metadata (none), or my_module:rule of "
    "(name, shape, devices).",
)
_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 3, "Crashed processes that are started again.", lower_bound=0
)
flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the coordination service."
)
flags.DEFINE_integer("num_processes", None, "Processes in all.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Index of this one.", lower_bound=0)
flags.DEFINE_bool(
    "coordinator_apart", False, "The coordination service has a process of its own."
)
flags.DEFINE_bool("server_works", True, "Process 0 has workers beside the server.")
_WORKER = flags.DEFINE_integer(
    "worker", 0, "Index of the first worker of a guest.", lower_bound=0
)
flags.DEFINE_integer(
    "max_workers", None, "Room for so many workers, some of which may come later."
)
_SERVERS = flags.DEFINE_integer(
    "servers",
    1,
    "Processes that serve, with --fragments: from process 0 on, each serves a group of "
    "them. All processes must see --out.",
    lower_bound=1,
)
_KEY_FILE = flags.DEFINE_string("key_file", None, "Keys for connections between hosts.")
flags.DEFINE_enum(
    "transport",
    "auto",
    [*transport.NAMES, *transport.OLD_NAMES],
    "How vectors travel.",
)
flags.DEFINE_string("listen", "", "HOST[:PORT] for workers of other hosts.")
flags.DEFINE_bool("encrypt", True, "Encrypt connections between hosts.")
_PUSH = flags.DEFINE_enum(
    "push_format", "float32", list(flat.DTYPES), "Number format of pushes."
)
_PULL = flags.DEFINE_enum(
    "pull_format", "float32", list(flat.DTYPES), "Number format of pulls."
)
_SLOWDOWN = flags.DEFINE_string(
    "slowdown",
    None,
    "Straggling: [1,1,1,2.7] makes the last worker 2.7 times slower than it is, or "
    "than --delays has it.",
)
_TIMES = flags.DEFINE_list(
    "times", [], "Cluster settings, such as lease=5,checkpoint=30 (seconds)."
)
_METRICS = flags.DEFINE_integer(
    "metrics_port", None, "Serve /metrics here; 0 takes a free port."
)
_METRICS_HOST = flags.DEFINE_string(
    "metrics_host", "127.0.0.1", "Interface of /metrics."
)
_LOG_FORMAT = flags.DEFINE_enum(
    "log_format", "text", lines.FORMATS, "How the cluster says its lines."
)
_TENSORBOARD = flags.DEFINE_bool("tensorboard", True, "Write TensorBoard scalars.")


def wanted() -> bool:
    """Whether a real cluster is asked for.

    Raises:
      ValueError: for flags that say something to a cluster alone, without one.
    """
    if not _CLUSTER.value:
        for flag in flags.FLAGS.flags_by_module_dict()[__name__]:
            if flag.present and flag.name != "cluster":
                raise ValueError(
                    f"--{flag.name} is for real processes; give --cluster=local too, "
                    "or leave it out."
                )
    return bool(_CLUSTER.value)


def launch(out: Path) -> int:
    """Starts this very command in processes of its own; its exit status."""
    from abs_dssp.cluster.launcher import launch as launcher

    return launcher.run(
        [*entry.again(), *_for_processes(sys.argv[1:]), "--cluster=auto"],
        _PROCESSES.value,
        devices_per_process=_devices_per_process(),
        max_restarts=_RESTARTS.value,
        out=out,
        key_file=_KEY_FILE.value,
        logs=out / "logs",
        log_format=_LOG_FORMAT.value,
    )


def status_of_a_mistake(words: Sequence[str]) -> int:
    """What whoever started a process of a run learns from its end: 2, not again.

    Args:
      words: the command line, whose flags may be the mistake.
    """
    given = " ".join(words)
    return 2 if re.search(r"(^| )--?cluster[= ](auto|guest)( |$)", given) else 1


def _devices_per_process() -> int:
    """What is said, or what one worker needs."""
    each, wanted = _OF_WORKER.value, _DEVICES.value
    if wanted is not None and wanted % each:
        raise ValueError(
            f"--devices_per_process: must be a multiple of --devices_per_worker={each},"
            f" got {wanted}."
        )
    return each if wanted is None else wanted


def is_launcher() -> bool:
    """Whether this process only starts others."""
    return _CLUSTER.value == "local"


def join(out: Path):
    """Joins the cluster, and makes its size known to the other flags."""
    from abs_dssp.cluster import topology

    # Every option has a flag of its name.
    names = [field.name for field in dataclasses.fields(topology.Options)]
    given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    options = topology.Options(**given)
    if _CLUSTER.value == "guest":
        cluster = topology.guest(options, out, _WORKER.value)
    else:
        cluster = topology.joined(options)
    workers = flags.FLAGS["workers"]
    if workers.present and workers.value != cluster.num_workers:
        raise ValueError(
            f"--workers: this cluster has {cluster.num_workers} workers (devices, or "
            f"--max_workers), got {workers.value}; leave the flag out."
        )
    run_flags.put("workers", cluster.num_workers)
    return cluster


def settings() -> settings_lib.Settings:
    """The cluster's times, changed by --times."""
    fields = dataclasses.fields(settings_lib.Settings)
    kinds: dict[str, Any] = {field.name: type(field.default) for field in fields}
    changed: dict[str, Any] = {}
    for text in _TIMES.value:
        changed |= policy_text.assignment("times", text, kinds)
    return settings_lib.Settings(**changed)


def end_early(reason: str, sentence: str) -> NoReturn:
    """Ends this process, whose run has ended early.

    Args:
      reason: why; a signal gives the status that a shell gives it, so that whatever
        starts processes again knows that this one was told to end.
      sentence: for the user.

    Raises:
      TransientError: if it was no signal.
    """
    name = reason.removeprefix("interrupted by ")
    if name not in signal.Signals.__members__:
        raise checks.TransientError(sentence)
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(128 + signal.Signals[name])


class Joint(NamedTuple):
    """What process 0 has at the end of a run."""

    result: Result
    status: Status | None  # None of several servers


def train(
    cluster, task, run: Run, out: Path, target: float | None, settings_record: str
) -> Joint | None:
    """Takes part in a run; gives its result in process 0 only.

    Args:
      cluster: joined.
      task: model and data.
      run: the rest of the run.
      out: its folder.
      target: accuracy at which it ends.
      settings_record: what `settings.json` is to say, once the folder is this run's.
    """
    from abs_dssp.cluster import run as cluster_run
    from abs_dssp.cluster.worker_errors import EndedError

    num_pushes = simulate.push_limit(
        task, None, run.until_seconds, run.epochs, run.local_steps
    )
    shown: dict[str, Any] = {}
    if _LOG_FORMAT.value == "json":
        shown["say"] = lambda line: print(
            lines.as_json(line, cluster.process, time.time()),
            file=sys.stderr,
            flush=True,
        )
    views: _Views | None = None
    with contextlib.ExitStack() as stack:
        if cluster.is_server:
            views = stack.enter_context(contextlib.closing(_Views(out)))

            def begun():
                files.write(out / "settings.json", settings_record)
                views.open()

            shown = {"watch": views.show, "recorder": views.record, "say": views.say}
            shown["begun"] = begun
        try:
            result = cluster_run.train(
                cluster,
                task,
                run.make_policy(),
                run.make_optimizer(),
                run.seed,
                out=out,
                num_pushes=num_pushes,
                until_seconds=run.until_seconds,
                target_accuracy=target,
                local_steps=run.local_steps,
                local_optimizer=run.make_optimizer(local=True),
                aggregate=run.aggregate,
                push=run.push,
                local_state=run.local_state,
                fragments=run.fragments,
                servers=_SERVERS.value,
                identity=_compared(run),
                settings=settings(),
                slowdown=_slowdown(),
                # Durations as in virtual time, where asked for.
                pace=None if flags.FLAGS.delays is None else run.make_delays(),
                **shown,
            )
        except EndedError as error:
            end_early(error.reason, str(error))
    if views is None or result is None:
        return None
    if run.fragments > 1:  # each server has a status of its own
        return Joint(result, None)
    return None if views.status is None else Joint(result, views.status)


class _Views:
    """The live table, /metrics, TensorBoard and evaluations.jsonl of a run."""

    def __init__(self, out: Path):
        from abs_dssp.report import live, metrics

        self._out, host = out, _METRICS_HOST.value
        self._live = live.Live(log_format=_LOG_FORMAT.value)
        self.status: Status | None = None  # the latest
        self.say = self._live.say
        self._metrics: Any = None
        self._scalars: Any = None
        if _METRICS.value is not None:
            self._metrics = metrics.MetricsServer(_METRICS.value, host)
            self.say(f"metrics: http://{host}:{self._metrics.port}/metrics")

    def open(self) -> None:
        """The folder is this run's."""
        from abs_dssp.report import scalars

        if _TENSORBOARD.value:
            self._scalars = scalars.Scalars(self._out / "tensorboard")

    def show(self, status: Status) -> None:
        self.status = status
        self._live.show(status)
        if self._metrics is not None:
            self._metrics.update(status)
        if self._scalars is not None:
            self._scalars.write(status)

    def record(self, record) -> None:
        outputs.append(self._out / "evaluations.jsonl", record)

    def close(self) -> None:
        self._live.close()
        for part in (self._metrics, self._scalars):
            if part is not None:
                part.close()


def _compared(run: Run) -> dict[str, Any]:
    """The flags that all processes must be given alike."""
    own = (
        *("learning_rate", "optimizer", "local_optimizer"),
        *("push", "local_state", "aggregate"),
    )
    same = run_flags.settings() | {name: getattr(run, name) for name in own}
    return {"flags": {k: v for k, v in same.items() if k not in ("workers", "width")}}


def _slowdown() -> list[float] | None:
    text = _SLOWDOWN.value
    if text is None:
        return None
    try:
        return [float(number) for number in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(
            f"--slowdown: expected a list such as [1,1,1,2.7], got {text!r}."
        ) from None


def _for_processes(words: list[str]) -> list[str]:
    """The command line without what is for the launcher."""
    ours = ("cluster", "processes", "devices_per_process", "max_restarts")
    kept, skip = [], False
    for word in words:
        name, equals, _ = word.lstrip("-").partition("=")
        if skip:
            skip = False
        elif word.startswith("-") and name in ours:
            skip = not equals  # the value is a word of its own
        else:
            kept.append(word)
    return kept


def record() -> dict[str, Any]:
    """What a replay needs to know beside the training flags."""
    more: dict[str, Any] = {}  # as before there were these flags: kept runs are found
    if _OF_WORKER.value > 1:
        more = {"devices_per_worker": _OF_WORKER.value, "sharding": _SHARDING.value}
    if _PROCESSES_OF_WORKER.value > 1:
        more["processes_per_worker"] = _PROCESSES_OF_WORKER.value
    return more | {
        "push_format": _PUSH.value,
        "pull_format": _PULL.value,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
