"""Several hosts on this machine, for tests: network namespaces that a switch joins.

    with hosts.network(2, rate="100mbit", round_trip=0.05) as (first, second):
        process = first.start(["ping", "-c1", second.address], log)

Host i has the address 10.0.0.(i + 1) and the name host(i), by which the others know it.
Everything is gone at the end, also when a test
fails; what a test that was killed has left, the next one removes.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts import ROOT

_PREFIX = "absdssp"  # of namespaces, before the process that made them
_CHILD = ROOT / "abs_dssp" / "cluster" / "launcher" / "child.py"
_WIRE = Path(__file__).with_name("wire.py")
_FILES = Path("/etc/netns")  # what `ip netns exec` shows in place of files in /etc
_NAMED = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']


@functools.cache
def missing() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "network namespaces need ip and tc (iproute2)"
    name = f"{_PREFIX}-{os.getpid()}-try"
    tried = [
        subprocess.run(["ip", *words], capture_output=True).returncode
        for words in (
            ("netns", "add", name),
            ("-n", name, "link", "add", "name", "try0", "type", "veth"),
            ("-n", name, "link", "add", "name", "try2", "type", "bridge"),
            ("netns", "delete", name),
        )
    ]
    return "network namespaces need root's rights here" if any(tried) else ""


class Host:
    """A network namespace with one interface."""

    def __init__(self, namespace: str, name: str, address: str):
        self.namespace, self.name, self.address = namespace, name, address
        self._processes: list[subprocess.Popen] = []

    def start(
        self,
        command: str | Sequence[object],
        log: Path,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen:
        """Starts a command here, a text through `sh`; what it writes goes to `log`."""
        words = ["sh", "-c", f"exec {command}"] if isinstance(command, str) else command
        # It ends with this process, as a process of the launcher does with that.
        become = [sys.executable, "-I", "-S", _CHILD, os.getpid()]
        inside = ["ip", "netns", "exec", self.namespace, *_NAMED, self.name]
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [str(word) for word in (*become, *inside, *words)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=cwd,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def run(
        self,
        *command: object,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What a short command prints that is run here."""
        inside = ["ip", "netns", "exec", self.namespace, *_NAMED, self.name]
        done = subprocess.run(
            [*inside, *map(str, command)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=None if environment is None else {**os.environ, **environment},
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def unplug(self) -> None:
        """Cuts the host off: its link is down, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")

    def plug(self) -> None:
        """The link is up again."""
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def limit(self, rate: str) -> None:
        """Sends no faster than this, such as `100mbit`."""
        self.run("tc", "qdisc", "replace", "dev", "eth0", "root", *_bucket(rate))

    def commands(self) -> list[tuple[int, str]]:
        """Number and command line of each process here, whoever started it."""
        found = []
        for pid in _pids(self.namespace):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                found.append((int(pid), b" ".join(words).decode().strip()))
        return [(pid, command) for pid, command in found if command]

    def crash(self) -> None:
        """Kills all that runs here, whoever started it."""
        for process in self._processes:  # which may not have got there yet
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _kill_in(self.namespace)


def _bucket(rate: str) -> list[str]:
    """A token bucket that holds what passes in a quarter of a millisecond."""
    number, unit = re.fullmatch(r"(\d+)(mbit|gbit)", rate).groups()
    burst = int(number) * {"mbit": 1e6, "gbit": 1e9}[unit] / 8 * 0.25e-3
    return ["tbf", "rate", rate, "burst", str(round(max(burst, 1600))), "latency", "1s"]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def network(
    count: int,
    *,
    rate: str | None = None,
    round_trip: float = 0.0,
    loss: float = 0.0,
    seed: int = 0,
) -> Iterator[list[Host]]:
    """So many hosts that reach each other, and nobody else.

    Args:
      count: of hosts.
      rate: of every host's link in each direction; None for what the machine does.
      round_trip: seconds from host 0 to any other and back.
      loss: share of the frames between host 0 and any other that are lost, each way.
      seed: says which.
    """
    _remove_remains()
    with contextlib.ExitStack() as stack:
        switch, *names = (f"{_PREFIX}-{os.getpid()}-{i}" for i in range(count + 1))
        for name in (switch, *names):
            stack.callback(_remove, name)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        far = names[1:] if round_trip or loss else []
        if far:
            ends = [
                place
                for i, name in enumerate(far, 1)
                for place in (f"{name}:eth0", f"{switch}:port{i}")
            ]
            words = [round_trip / 2, loss, seed, *ends]
            wire = subprocess.Popen(
                [sys.executable, "-S", str(_WIRE), *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(_end, wire)
            assert wire.stdout is not None
            assert wire.stdout.readline() == b"ready\n"
        found = []
        known = "".join(f"10.0.0.{i + 1} host{i}\n" for i in range(count))
        for i, name in enumerate(names):
            (_FILES / name).mkdir(parents=True, exist_ok=True)
            (_FILES / name / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
            if name not in far:
                here = ("link", "add", "eth0", "netns", name)
                there = ("peer", "name", f"port{i}", "netns", switch)
                _ip(*here, "type", "veth", *there)
            _ip("-n", switch, "link", "set", f"port{i}", "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"10.0.0.{i + 1}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            # Every kernel allows it. Some machines have bbr, which paces what is small.
            congestion = "net.ipv4.tcp_congestion_control=reno"
            _ip("netns", "exec", name, "sysctl", "-qw", congestion)
            host = Host(name, f"host{i}", f"10.0.0.{i + 1}")
            stack.callback(host.crash)
            if rate is not None:
                host.limit(rate)
            found.append(host)
        yield found


def _end(wire: subprocess.Popen) -> None:
    wire.kill()
    wire.communicate()


def _remove(name: str) -> None:
    """Removes a namespace, and kills whoever is still in it."""
    _kill_in(name)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    shutil.rmtree(_FILES / name, ignore_errors=True)


def _kill_in(namespace: str) -> None:
    while True:
        left = [pid for pid in _pids(namespace) if not _is_zombie(pid)]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)


def _pids(namespace: str) -> list[str]:
    listed = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True
    )
    return listed.stdout.split()


def _is_zombie(pid: str) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        )
    except OSError:
        return True


def _remove_remains() -> None:
    """Removes the namespaces of processes that are no more."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        prefix, _, rest = line.split()[0].partition("-")
        if prefix == _PREFIX and not Path(f"/proc/{rest.split('-')[0]}").exists():
            _remove(line.split()[0])


def documented(section: str) -> list[str]:
    """The commands of a section of docs/clusters.md, a line each, as they stand there.

    Args:
      section: its title.
    """
    text = (ROOT / "docs" / "clusters.md").read_text()
    _, _, rest = text.partition(f"\n## {section}\n")
    assert rest, f"docs/clusters.md has no section {section!r}"
    blocks = re.findall(r"(?:^    .*\n)+", rest.split("\n## ")[0], re.MULTILINE)
    joined = "".join(blocks).replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines()]


def tree(folder: Path) -> Path:
    """A folder in which the commands of the documentation run as they stand there.

    Args:
      folder: to make it in.
    """
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    # No link: Python would look for its packages beside it.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    kept = ("abs_dssp", "experiments", "scripts", "docs")
    of_the_installation = ("pyproject.toml", "constraints.txt")
    for name in (*kept, *of_the_installation):
        (folder / name).symlink_to(ROOT / name)
    # As scripts/lib/environment leaves it, which would install the package otherwise.
    both = b"".join((ROOT / name).read_bytes() for name in of_the_installation)
    done = subprocess.run(["cksum"], input=both, capture_output=True, check=True)
    (folder / ".venv" / "installed-all").write_bytes(done.stdout)
    return folder


def wait(condition, what: str, seconds: float = 60.0, *, log: Path | None = None):
    """Waits until the condition gives something true, and returns that."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        said = log.read_text() if log is not None and log.exists() else ""
        assert time.monotonic() < end, f"in vain: {what}\n{said}"
        time.sleep(0.05)
    return found
