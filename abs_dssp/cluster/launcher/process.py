"""A process of a local cluster: its group, its output line by line, its end."""

import collections
import contextlib
import io
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

_TAIL_LINES = 12  # of a failed process, shown again
_LONGEST_LINE = 65536  # bytes; a longer one is shown in pieces


class Process:
    """One process of the cluster, with the pipe of its output unless it has none.

    It leads a process group of its own, so that Ctrl-C on the terminal reaches the
    launcher alone and so that helpers which it leaves behind can be killed. Everything
    here belongs to the thread that made it. It ends by itself, or by `terminate` or
    `kill`; the caller then polls `ended`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        attached: bool = False,
        feed: bool = False,
        log: io.FileIO | None = None,
    ):
        """Starts `command`.

        Args:
          name: for messages.
          command: program and arguments.
          environment: None: this process's own.
          attached: write to this process's own output instead of to a pipe.
          feed: keep a pipe to its standard input, which ends with this process.
          log: a copy of all output goes there; the caller closes it.
        """
        self.name = name
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._log = log
        self._partial = b""
        self._attached = attached
        self._popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=None if attached else subprocess.PIPE,
            stderr=None if attached else subprocess.STDOUT,
            bufsize=0,
            process_group=0,
        )
        self.pipe = self._popen.stdout  # None once it is closed
        if self.pipe is not None:
            os.set_blocking(self.pipe.fileno(), False)

    @property
    def crashed(self) -> bool:
        """Whether a signal ended it; of an ended process only."""
        return self._popen.returncode < 0

    @property
    def status(self) -> int:
        """Exit status, 128 + number for a signal; of an ended process only."""
        code = self._popen.returncode
        return 128 - code if code < 0 else code

    def ended(self) -> bool:
        """Whether it has ended; the first time, kills what is left of its group."""
        if self._popen.returncode is None:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self._popen.pid, options) is None:
                return False
            # Before its number is given back, so that no stranger's group is hit.
            self.kill()
            self._popen.wait()
        return True

    def terminate(self) -> None:
        """Asks it, and not its helpers, to end; wakes it if it was stopped."""
        self._signal(os.kill, signal.SIGTERM)
        self._signal(os.killpg, signal.SIGCONT)

    def kill(self) -> None:
        """Kills the whole group."""
        self._signal(os.killpg, signal.SIGKILL)

    def _signal(self, send, number: int) -> None:
        if self._popen.returncode is None:
            with contextlib.suppress(OSError):
                send(self._popen.pid, number)

    def starve(self) -> None:
        """Closes its standard input, if it is fed."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def read(self) -> list[str] | None:
        """Lines in the next piece of its output, at most 64 KiB; None if there is none
        now. Closes the pipe at its end."""
        if self.pipe is None:
            return None
        try:
            piece = os.read(self.pipe.fileno(), 65536)
        except BlockingIOError:
            return None
        if not piece:
            return self.close() or None
        *lines, self._partial = (self._partial + piece).split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            lines.append(self._partial)
            self._partial = b""
        return self._decode(lines) + self._copy(piece)

    def close(self) -> list[str]:
        """Closes the pipe; returns the line that had no end, if any."""
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None
        lines = [self._partial] if self._partial else []
        self._partial = b""
        return self._decode(lines)

    def _decode(self, lines: Sequence[bytes]) -> list[str]:
        # A progress bar rewrites its line: what follows the last \r is what one sees.
        decoded = [
            line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
            for line in lines
        ]
        self.tail.extend(line for line in decoded if line.strip())
        return decoded

    def _copy(self, piece: bytes) -> list[str]:
        """Writes to the log; a full disk ends the log, not the run."""
        if self._log is None:
            return []
        try:
            self._log.write(piece)
        except OSError as error:
            name, self._log = self._log.name, None
            return [f"(its log {name} ends here: {error.strerror})"]
        return []

    def how_it_ended(self) -> str:
        """Such as "was killed by SIGKILL"."""
        if self.crashed:
            return f"was killed by {signal_name(self.status - 128)}"
        return f"{'failed' if self.status else 'ended'} with exit status {self.status}"

    def last_words(self) -> str:
        """Its last lines, for the report of its failure."""
        if self._attached:
            return "its output is above."
        if not self.tail:
            return "it wrote nothing."
        return "its last lines were:" + "".join(f"\n    {line}" for line in self.tail)


def signal_name(number: int) -> str:
    """Such as "SIGKILL"."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
