"""A cluster on this machine: starts its processes, shows their logs, ends them all.

    scripts/launch --processes=4 -- experiments/train.py --policy="bsp()" --out=out/bsp

Every process runs the same command, with these flags added to it:

    --coordinator_address=127.0.0.1:PORT --num_processes=P --process_id=I
    --coordinator_apart --key_file=PATH

The coordination service of `jax.distributed` runs in a process of its own (see
`coordinator`), so that a process that crashes, process 0 too, can be started again
under its index while the others go on. A crash is an end by a signal; an end with a
non-zero status is a failure, which ends the whole cluster. All of it binds loopback
only. No process is left behind, on Linux not even when the launcher is killed.
"""

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from abs_dssp import extras
from abs_dssp.cluster import keys, lines
from abs_dssp.cluster.launcher import supervise

_OWN_FLAGS = ("coordinator_address", "num_processes", "process_id", "coordinator_apart")
_DEVICES = "--xla_force_host_platform_device_count"


def run(
    command: Sequence[str],
    processes: int,
    *,
    devices_per_process: int = 1,
    max_restarts: int = 3,
    out: str | os.PathLike | None = None,
    key_file: str | os.PathLike | None = None,
    port: int | None = None,
    logs: str | os.PathLike | None = None,
    grace_seconds: float = 10.0,
    attach_first: bool = True,
    log_format: str = "text",
    stream: supervise.Stream | None = None,
) -> int:
    """Runs `command` in `processes` processes on this machine until all have ended.

    The first failure ends all: a process with a non-zero exit status, one crash more
    than `max_restarts`, or the coordinator's death. When process 0, the server, has
    ended with status 0, the others have `grace_seconds` to end by themselves. SIGINT,
    SIGTERM and SIGHUP end all in the same way: SIGTERM, then SIGKILL after
    `grace_seconds`, or at once on a second signal. Signals are handled when this is
    called on the main thread.

    Args:
      command: program and arguments, such as `[sys.executable, "train.py", ...]`; a
        `--key_file` among them is kept.
      processes: number of processes P, at least 1.
      devices_per_process: devices that XLA makes of the CPU in each process.
      max_restarts: crashed processes started again, all indices together.
      out: folder for the key file `cluster.key` (made, or used again if it is there);
        None: a private one, removed at the end.
      key_file: a key file to use as it is, see `keys`.
      port: of the coordinator; None: a free one.
      logs: folder for `process0.log`, ...: each process's whole output, unless it is
        attached to the terminal.
      grace_seconds: from SIGTERM to SIGKILL.
      attach_first: give process 0 the terminal itself when `stream` is one; its output
        is neither prefixed nor repeated on failure.
      log_format: one of `lines.FORMATS`; as JSON, a process's other lines become
        messages too.
      stream: where lines go, each after the name of its process; None: `sys.stderr`.

    Returns:
      The exit status: 0, the first failure's (128 + number for a signal), 1 for the
      coordinator, 130 after Ctrl-C and 143 after SIGTERM.

    Raises:
      ValueError: if an argument or the key file makes no sense, or another launcher
        writes to `logs`; nothing was started.
      MissingExtraError: if a key must be made and cryptography is not installed.
      OSError: if a folder cannot be made.
    """
    _check(command, processes, devices_per_process, max_restarts, port, grace_seconds)
    stream = sys.stderr if stream is None else stream
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(_signals())
        if logs is not None:
            os.makedirs(logs, exist_ok=True)
            stack.enter_context(_alone_in(logs))
        key = os.fspath(
            key_file or _value_of("key_file", command) or _make_key(out, stack)
        )
        keys.load(key)  # refuses once what every process would refuse
        settings = supervise.Settings(
            command=[*command, "--coordinator_apart", f"--key_file={key}"],
            num_processes=processes,
            bind=f"127.0.0.1:{port or 0}",
            environment=_environment(os.environ, devices_per_process),
            logs=None if logs is None else Path(logs),
            attached=attach_first and stream.isatty(),
            max_restarts=max_restarts,
            grace_seconds=grace_seconds,
            log_format=log_format,
        )
        cluster = supervise.Cluster(settings, stream)
        stack.callback(cluster.close)
        return cluster.run(received)


def _check(command, processes, devices, restarts, port, grace_seconds) -> None:
    for name, value, least in (
        ("processes", processes, 1),
        ("devices_per_process", devices, 1),
        ("max_restarts", restarts, 0),
        ("grace_seconds", grace_seconds, 0),
    ):
        if not value >= least:
            raise ValueError(f"launch: {name} must be at least {least}, got {value}.")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"launch: port must be in 1..65535, got {port}.")
    if not command or shutil.which(command[0]) is None:
        raise ValueError(f"launch: no program to run, got {list(command)[:1]}.")
    for name in _OWN_FLAGS:
        if any(re.match(f"--?(no)?{name}(=|$)", word) for word in command):
            raise ValueError(
                f"launch: --{name} is the launcher's to set; leave it out."
            )


def _value_of(flag: str, command: Sequence[str]) -> str | None:
    """The value of `--flag=value` or `--flag value`, the last one as absl has it."""
    found = None
    for i, word in enumerate(command):
        if match := re.fullmatch(f"--?{flag}(?:=(.*))?", word, re.DOTALL):
            found = (
                match[1] if match[1] is not None else "".join(command[i + 1 : i + 2])
            )
    return found


def _make_key(
    out: str | os.PathLike | None, stack: contextlib.ExitStack
) -> str | os.PathLike:
    if out is None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="abs_dssp-"))
    else:
        os.makedirs(out, exist_ok=True)
        folder = os.fspath(out)
    path = os.path.join(folder, "cluster.key")
    if not os.path.lexists(path):
        with contextlib.suppress(keys.KeyExistsError):  # somebody was faster
            keys.make(path)
    return path


def _environment(
    inherited: Mapping[str, str], devices_per_process: int
) -> dict[str, str]:
    """The processes' environment, made of the launcher's own."""
    environment = dict(inherited)
    environment["PYTHONUNBUFFERED"] = "1"  # a line is shown when it is written
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # notes of XLA
    flags = environment.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(f"{_DEVICES}=")]
    environment["XLA_FLAGS"] = " ".join([*flags, f"{_DEVICES}={devices_per_process}"])
    if any(f"{kind}_proxy" in environment for kind in ("grpc", "https", "http")):
        # gRPC would ask the proxy for the way to loopback, and hang.
        name = "no_grpc_proxy" if "no_grpc_proxy" in environment else "no_proxy"
        known = environment.get(name)
        environment[name] = f"{known},127.0.0.1" if known else "127.0.0.1"
    return environment


@contextlib.contextmanager
def _alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other launchers from writing there, until this process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another launcher writes to {os.fspath(folder)}; wait for its end, or "
                "choose another folder."
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the numbers of the signals that ask for an end, on the main thread."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
        wanted.append(signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in wanted
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(
    argv: Sequence[str],
    prog: str = "launch",
    commands: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> int:
    """Reads the options and runs what stands after `--`; returns its status.

    Args:
      argv: options, `--`, and a Python script or one of `commands`, with its flags.
      prog: the program's name, for its help.
      commands: by name, the words that start what is no script.
    """
    what = "COMMAND or SCRIPT" if commands else "SCRIPT"
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} --processes=P [options] -- {what} [its flags]",
        description=f"Runs a {what.lower()} in P processes on this machine.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--processes", type=int, required=True, help="number of processes")
    option("--devices_per_process", type=int, default=1, help="CPU devices in each")
    option("--max_restarts", type=int, default=3, help="of crashed processes, in all")
    option("--port", type=int, help="of the coordinator (default: a free one)")
    option("--out", help="folder for the key file (default: a private one)")
    option("--key_file", help="a key file to use instead of a new one")
    option("--logs", help="folder for the whole log of each process")
    option("--grace_seconds", type=float, default=10.0, help="from SIGTERM to SIGKILL")
    option("--log_format", choices=lines.FORMATS, default="text", help="of all lines")
    option(
        "--attach_first",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="process 0 writes to the terminal itself, where there is one",
    )
    argv = list(argv)
    separator = argv.index("--") if "--" in argv else len(argv)
    options = vars(parser.parse_args(argv[:separator]))
    command = argv[separator + 1 :]
    if not command:
        parser.error("no script; put it and its flags after --")
    first, *flags = command
    start = commands.get(first, [sys.executable, first])
    if first not in commands and not os.path.isfile(first):
        parser.error(f"no script {first!r} in {os.getcwd()}")
    try:
        return run([*start, *flags], **options)
    except (ValueError, OSError, extras.MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
