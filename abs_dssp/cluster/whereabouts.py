"""Where the server of a fragment is, or that it has ended: files in its folder."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from abs_dssp.cluster import topology
from abs_dssp.cluster.log import UnwritableError
from abs_dssp.cluster.system import REAL, System
from abs_dssp.training.checkpoints import read_file

_OVER = "over.json"


class Whereabouts:
    """What the processes of a run tell each other about one fragment's server."""

    def __init__(self, folder: Path, run: dict[str, Any], system: System = REAL):
        """Nothing is written.

        Args:
          folder: of the fragment.
          run: what tells this run from others and from its own shorter version, for
            JSON.
          system: has disk and clock.
        """
        self._folder, self._run, self._system = folder, run, system

    def publish(self, address: dict[str, Any]) -> None:
        """The server is there.

        Raises:
          LogError: if that cannot be written.
        """
        self._remove(_OVER)
        self._write(topology.ADDRESS, address)

    def withdraw(self) -> None:
        """It is nowhere any more."""
        self._remove(topology.ADDRESS)

    def end(self, why: str) -> None:
        """It has ended, and the run with it.

        Raises:
          LogError: if that cannot be written.
        """
        self._write(_OVER, {"over": why} | self._run)

    def over(self) -> str:
        """Why the run is over, as this server has said; empty while it has not."""
        return self._read(_OVER).get("over", "")

    def __call__(self, seconds: float) -> dict[str, Any] | None:
        """The server's address, or that it has ended; see `connector.Lookup`."""
        time = self._system.time
        end = time.perf_counter() + seconds
        while True:
            for name in (topology.ADDRESS, _OVER):
                if found := self._read(name):
                    return found
            if time.perf_counter() > end:
                return None
            time.sleep(0.1)

    def _read(self, name: str) -> dict[str, Any]:
        """What a file says of this run; nothing if it is not there, or not whole."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(read_file(self._system.os, self._folder / name))
            same = name != _OVER or self._run.items() <= found.items()
            return found if same else {}
        return {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a file that others see whole or not at all, for its owner alone."""
        files, path = self._system.os, self._folder / name
        partial = self._folder / f".{name}.{files.getpid()}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            descriptor = files.open(partial, flags, 0o600)
            try:
                data = memoryview(json.dumps(content).encode())
                while data:
                    data = data[files.write(descriptor, data) :]
                files.fsync(descriptor)
            finally:
                files.close(descriptor)
            files.replace(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                files.unlink(partial)
            raise UnwritableError(
                f"{path}: {error.strerror}; make room and start the same command again."
            ) from error

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._system.os.unlink(self._folder / name)
