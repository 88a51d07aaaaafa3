"""Watches the processes of a local cluster until the last one has ended.

One thread does everything: it shows what the processes write, starts again what has
crashed, and ends all of them on the first failure or when it is asked to.
"""

import dataclasses
import io
import os
import selectors
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from abs_dssp.cluster import lines as said
from abs_dssp.cluster.launcher.process import Process, signal_name

_HERE = Path(__file__).parent
_POLL_SECONDS = 0.02  # how soon an end or a signal is noticed
_START_SECONDS = 60.0  # for the coordinator to serve; it takes some 0.1 s
_READY = "ready at "  # what the coordinator says then, before its address
_KILL_SECONDS = 5.0  # for SIGKILL to work
_PIPE_BYTES = 2**20  # the most that Linux lets a pipe hold


@runtime_checkable
class Stream(Protocol):
    """Where lines are shown: a text file, or what looks like one."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to run, and when to give up."""

    command: Sequence[str]  # the flags about address, number and index are added
    num_processes: int
    bind: str  # HOST:PORT of the coordinator; port 0: a free one
    environment: Mapping[str, str]
    logs: Path | None  # folder of process0.log, ...
    attached: bool  # process 0 writes to the terminal itself
    max_restarts: int  # of crashed processes, all together
    grace_seconds: float  # from SIGTERM to SIGKILL
    log_format: str = "text"  # one of `lines.FORMATS`


class Cluster:
    """The coordinator and the processes of one run.

    Belongs to the thread that calls `run`, which must live as long as the processes: on
    Linux the kernel kills them when the thread that started them ends. Stopped by
    `close`, at any time.
    """

    def __init__(self, settings: Settings, stream: Stream):
        self._settings = settings
        self._stream = stream
        self._stream_lost = False
        self._selector = selectors.DefaultSelector()
        self._coordinator: Process | None = None
        self._address = ""  # HOST:PORT of the coordinator, once it serves
        self._running: dict[int, Process] = {}
        self._logs: dict[int, io.FileIO] = {}
        self._restarts = 0
        self._status: int | None = None  # set once the end has been decided
        self._leave_by: float | None = None  # set once process 0 has ended well
        self._kill_at = float("inf")
        self._killed = False

    def run(self, received: Sequence[int]) -> int:
        """Runs until nothing runs any more; returns the exit status.

        Args:
          received: signals that ask for an end; grows while this runs.
        """
        if not self._start_coordinator(received):
            return self._status or 1
        for index in range(self._settings.num_processes):
            self._start(index)
        while self._running:
            self._show(_POLL_SECONDS)
            self._heed(received)
            self._check_coordinator()
            for index, process in list(self._running.items()):
                if process.ended():
                    self._drain(process)
                    del self._running[index]
                    self._settle(index, process)
            self._enforce()
        return self._status or 0

    def close(self) -> None:
        """Kills what still runs; the coordinator last, since the others need it."""
        left = list(self._running.values())
        for process in left:
            process.kill()
        if self._coordinator is not None:
            left.append(self._coordinator)
            self._coordinator.starve()
        deadline = time.monotonic() + _KILL_SECONDS
        for process in left:
            while not process.ended() and time.monotonic() < deadline:
                time.sleep(0.002)
            process.kill()
            process.close()
        for file in self._logs.values():
            file.close()
        self._selector.close()

    def _start_coordinator(self, received: Sequence[int]) -> bool:
        """Whether the coordinator serves; if it does not, one line has said why."""
        coordinator = self._coordinator = Process(
            "coordinator",
            [
                sys.executable,
                "-P",  # the modules beside it are not to be found as top-level ones
                str(_HERE.parent / "coordinator.py"),
                f"--bind={self._settings.bind}",
                f"--num_processes={self._settings.num_processes}",
                "--end_with_stdin",
            ],
            environment=self._settings.environment,
            feed=True,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not received:
            ended = coordinator.ended()
            lines = coordinator.read()
            for line in lines or ():
                if line.startswith(_READY):
                    self._address = line.removeprefix(_READY)
                    self._watch(coordinator)
                    return True
            if ended and lines is None:
                reason = (
                    coordinator.tail[-1] if coordinator.tail else "it wrote nothing."
                )
                self._say(f"no coordinator: {reason.removeprefix('error: ')}")
                return False
            if time.monotonic() > deadline:
                self._say(f"the coordinator does not serve after {_START_SECONDS:g} s.")
                return False
            time.sleep(0.002)
        self._heed(received)
        return False

    def _start(self, index: int) -> None:
        settings = self._settings
        attached = settings.attached and index == 0
        if settings.logs is not None and not attached and index not in self._logs:
            path = settings.logs / f"process{index}.log"
            self._logs[index] = open(path, "ab", buffering=0)
        # -I -S: to become a command needs nothing of the user's or of the site's.
        become = [sys.executable, "-I", "-S", str(_HERE / "child.py"), str(os.getpid())]
        self._running[index] = process = Process(
            f"process {index}",
            [
                *become,
                *settings.command,
                f"--coordinator_address={self._address}",
                f"--num_processes={settings.num_processes}",
                f"--process_id={index}",
            ],
            environment=settings.environment,
            attached=attached,
            log=self._logs.get(index),
        )
        self._watch(process)

    def _watch(self, process: Process) -> None:
        if process.pipe is not None:
            self._selector.register(process.pipe, selectors.EVENT_READ, process)

    def _show(self, seconds: float) -> None:
        """Shows what processes have written, or waits that long for it."""
        ready = [key.data for key, _ in self._selector.select(seconds)]
        for process in sorted(ready, key=lambda process: process.name):
            self._read(process)

    def _read(self, process: Process) -> bool:
        """Shows one piece of a process's output; False if there is none now."""
        pipe = process.pipe
        lines = process.read()
        if pipe is not None and process.pipe is None:
            self._selector.unregister(pipe)
        self._write(process.name, lines or ())
        return lines is not None

    def _drain(self, process: Process) -> None:
        """Shows all that an ended process has written. A helper that left its group may
        hold the pipe open, so its end is not waited for."""
        for _ in range(_PIPE_BYTES // 65536):
            if not self._read(process):
                break
        if process.pipe is not None:
            self._selector.unregister(process.pipe)
        self._write(process.name, process.close())

    def _write(self, name: str, lines: Sequence[str]) -> None:
        if self._stream_lost or not lines:
            return
        try:
            self._stream.write("".join(self._shown(name, line) for line in lines))
            self._stream.flush()
        except (OSError, ValueError):  # such as a pipe whose reader has gone
            self._stream_lost = True
            self._stop(1, "")

    def _shown(self, name: str, line: str) -> str:
        if self._settings.log_format == "text":
            return f"[{name}] {line}\n"
        index = name.removeprefix("process ")
        process = int(index) if index.isdecimal() else name
        return said.as_json(line, process, time.time()) + "\n" if line else ""

    def _say(self, sentence: str) -> None:
        self._write("launch", [said.Warned(sentence)])

    def _heed(self, received: Sequence[int]) -> None:
        """Ends all on the first signal, and kills them on the second."""
        if received:
            name = signal_name(received[0])
            sentence = f"{name}: ending all processes; once more kills them at once."
            self._stop(128 + received[0], sentence)
        if len(received) > 1 and not self._killed:
            self._kill_at = 0.0

    def _check_coordinator(self) -> None:
        coordinator = self._coordinator
        if self._status is None and coordinator is not None and coordinator.ended():
            self._drain(coordinator)
            how = coordinator.how_it_ended()
            self._stop(1, f"the coordinator {how}; no process can go on without it.")

    def _settle(self, index: int, process: Process) -> None:
        """Draws the consequences of a process's end."""
        most = self._settings.max_restarts
        if self._status is not None:
            return  # it was asked to end
        if process.status == 0:
            if index == 0:
                self._leave_by = time.monotonic() + self._settings.grace_seconds
        elif not process.crashed or self._leave_by is not None:
            after = " after process 0 had ended"
            self._fail(process, after if self._leave_by is not None else "")
        elif self._restarts == most:
            self._fail(process, f" after {most} restarts" if most else "")
        else:
            self._restarts += 1
            count = f"started again, restart {self._restarts} of at most {most}."
            self._say(f"{process.name} {process.how_it_ended()}; {count}")
            self._start(index)

    def _fail(self, process: Process, when: str) -> None:
        how = f"{process.name} {process.how_it_ended()}{when}"
        self._stop(process.status, f"{how}; {process.last_words()}")

    def _stop(self, status: int, sentence: str) -> None:
        """Decides the exit status, once, and asks every process to end."""
        if self._status is not None:
            return
        self._status = status
        self._kill_at = time.monotonic() + self._settings.grace_seconds
        if sentence:
            self._say(sentence)
        for process in self._running.values():
            process.terminate()

    def _enforce(self) -> None:
        """Ends, kills and at last gives up on the processes whose time has come."""
        now = time.monotonic()
        left = ", ".join(process.name for process in self._running.values())
        if self._status is None and self._leave_by is not None and now > self._leave_by:
            seconds = f"{self._settings.grace_seconds:g} s"
            self._stop(0, f"process 0 has ended; ended {left} too, after {seconds}.")
        if now > self._kill_at and not self._killed:
            self._killed = True
            self._kill_at = now
            for process in self._running.values():
                process.kill()
        if self._killed and left and now > self._kill_at + _KILL_SECONDS:
            self._say(f"{left} did not end on SIGKILL; left to the kernel.")
            self._running.clear()
