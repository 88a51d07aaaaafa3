"""Disks that tear, lie, fill up and forget; and the part of `os` that uses them.

A disk is a host's own, or several hosts share it. A shared one keeps its power: it
loses what a host that loses its own has written and not synced, and nothing of others.
"""

import errno
import os
import posixpath
from collections.abc import Callable
from typing import Any, NamedTuple

from abs_dssp.cluster.simulate.world import Died, Process, World

_PAGE = 64  # bytes that reach a disk together: small, as the files here are


class _File:
    """Content as processes see it, and what a loss of power would leave."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = b""
        self.modified = 0.0
        self.lock: Process | None = None
        self.writer: Host | None = None  # the last one


class Disk:
    """Files and folders by path, and what a loss of power would leave of them."""

    def __init__(self) -> None:
        self.files: dict[str, _File] = {}
        self.named: dict[str, _File] = {}  # as a loss of power would leave them
        self.folders = {"/"}
        self.full_until = 0.0
        self._changed: dict[str, Host] = {}  # names that are not synced, and by whom

    def change(self, host: "Host", *names: str) -> None:
        """A host has made these names, or removed them."""
        self._changed |= dict.fromkeys(names, host)

    def sync(self, folder: str) -> None:
        """The names in a folder are safe."""
        for name in [n for n in self.named if posixpath.dirname(n) == folder]:
            del self.named[name]
        for name, file in self.files.items():
            if posixpath.dirname(name) == folder:
                self.named[name] = file
                self._changed.pop(name, None)

    def sync_file(self, name: str, file: _File) -> None:
        """The content of a file is safe, and its name."""
        file.durable = bytes(file.content)
        if self.files.get(name) is file:
            self.named[name] = file
            self._changed.pop(name, None)

    def clear(self, folder: str) -> None:
        """Removes everything in a folder, and in those within it."""
        for there in (self.files, self.named, self._changed):
            for name in [n for n in there if n.startswith(f"{folder}/")]:
                del there[name]

    def lose(self, host: "Host") -> None:
        """What a host has not synced is gone, as a whole or in parts."""
        random = host.world.random
        others = [n for n, changer in self._changed.items() if changer is not host]
        apart = {n: self.files[n] for n in others if n in self.files}
        before = {n: self.named[n] for n in others if n in self.named}
        if random.random() < 0.5:  # names are written as they are synced
            self.files = {n: f for n, f in self.named.items() if n not in others}
            self.files |= apart
        for file in self.files.values():
            if file.writer is host:
                file.content = bytearray(_remains(host.world, file))
                file.durable = bytes(file.content)
        self.named = {n: f for n, f in self.files.items() if n not in others} | before
        self._changed = {n: self._changed[n] for n in others}


class Host:
    """A machine: a disk, a date, processes."""

    def __init__(self, world: World, name: str, disk: Disk | None = None):
        self.world, self.name = world, name
        self.disk = Disk() if disk is None else disk
        self.date_offset = 0.0
        self.synced = True  # whether every sync was honest
        self.dark = False  # while it loses its power: nobody is told of anything
        self.listening: dict[str, Any] = {}  # sockets by name
        self.lost_power: Callable[[], None] = lambda: None

    def lose_power(self) -> None:
        """All processes die, and the disk keeps what it had been told to."""
        world = self.world
        world.note(self.name, "loses power")
        self.dark = True
        for process in [p for p in world.processes if p.host is self]:
            process.die("loses power")
        self.dark = False
        self.disk.lose(self)
        self.lost_power()

    @property
    def files(self) -> dict[str, _File]:
        """Of its disk."""
        return self.disk.files


def _remains(world: World, file: _File) -> bytes:
    """What is on the disk of a file that was being written: some of its pages."""
    new, old = bytes(file.content), file.durable
    if new == old:
        return old
    kind = world.random.random()
    if kind < 0.3:
        return old
    length = world.random.randint(min(len(old), len(new)), max(len(old), len(new)))
    if kind < 0.7:  # in order
        return (new if len(new) >= length else old)[:length]
    found = bytearray(length)  # pages in any order, zeros where none came
    for at in range(0, length, _PAGE):
        source = new if world.random.random() < 0.5 else old
        page = source[at : at + _PAGE][: length - at]
        found[at : at + len(page)] = page
    return bytes(found)


class _Stat(NamedTuple):
    st_mtime: float
    st_size: int


class _Open:
    """An open file."""

    def __init__(self, file: _File, path: str):
        self.file, self.path, self.at = file, path, 0
        self.appends = False


class Files:
    """Stands in for the module `os`; there is one for each process."""

    def __init__(self, process: Process, flip: Callable[[str, _File], None]):
        """Files of the process's host.

        Args:
          process: that calls.
          flip: may damage a file that is opened.
        """
        self._process, self._flip = process, flip
        self._pid = 1000 + process.number

    def urandom(self, length: int) -> bytes:
        return self._process.random.randbytes(length)

    def getpid(self) -> int:
        return self._pid

    def getuid(self) -> int:
        return 1000

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        del mode
        host, name = self._called(), str(path)
        disk = host.disk
        if name in disk.folders:
            return self._process.descriptor(_Open(_File(), name))
        if name not in disk.files:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
            self._require_room()
            disk.files[name] = _File()
            disk.files[name].writer = host
            disk.change(host, name)
        file = disk.files[name]
        if flags & os.O_TRUNC:
            file.content.clear()
            file.writer = host
        self._flip(name, file)
        opened = _Open(file, name)
        opened.appends = bool(flags & os.O_APPEND)
        return self._process.descriptor(opened)

    def read(self, descriptor: int, length: int) -> bytes:
        self._called()
        self._may_fail("read")
        opened = self._process.open[descriptor]
        data = bytes(opened.file.content[opened.at : opened.at + length])
        opened.at += len(data)
        return data

    def write(self, descriptor: int, data: Any) -> int:
        self._called()
        self._may_fail("write")
        opened, data = self._process.open[descriptor], bytes(data)
        if self._full() and data:
            room = self._process.world.random.randint(0, len(data) - 1)
            if not room:
                self._require_room()
            data = data[:room]
        elif len(data) > 1 and self._process.world.dice.falls("short"):
            data = data[: self._process.world.random.randint(1, len(data) - 1)]
        content = opened.file.content
        opened.file.writer = self._process.host
        if opened.appends:
            opened.at = len(content)
        content.extend(bytes(max(0, opened.at - len(content))))
        content[opened.at : opened.at + len(data)] = data
        opened.at += len(data)
        opened.file.modified = self._date()
        return len(data)

    def ftruncate(self, descriptor: int, length: int) -> None:
        host, file = self._called(), self._process.open[descriptor].file
        content, file.writer = file.content, host
        content.extend(bytes(max(0, length - len(content))))
        del content[length:]

    def lseek(self, descriptor: int, position: int, how: int) -> int:
        self._called()
        assert how == os.SEEK_SET
        self._process.open[descriptor].at = position
        return position

    def fstat(self, descriptor: int) -> _Stat:
        self._called()
        file = self._process.open[descriptor].file
        return _Stat(file.modified, len(file.content))

    def fsync(self, descriptor: int) -> None:
        host = self._called()
        self._may_fail("sync")
        opened = self._process.open[descriptor]
        if self._process.world.dice.falls("lying_sync"):
            host.synced = False
            return
        if opened.path in host.disk.folders:
            host.disk.sync(opened.path)
        else:
            host.disk.sync_file(opened.path, opened.file)

    fdatasync = fsync

    def close(self, descriptor: int) -> None:
        if not self._process.alive:
            raise Died
        file = self._process.open.pop(descriptor).file
        if file.lock is self._process:
            file.lock = None

    def replace(self, old: Any, new: Any) -> None:
        host = self._called()
        self._may_fail("rename")
        if str(old) not in host.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(old))
        host.files[str(new)] = host.files.pop(str(old))
        host.disk.change(host, str(old), str(new))

    def unlink(self, path: Any) -> None:
        host = self._called()
        if host.files.pop(str(path), None) is None:
            raise FileNotFoundError(
                errno.ENOENT, "No such file or directory", str(path)
            )
        host.disk.change(host, str(path))

    def listdir(self, path: Any) -> list[str]:
        host = self._called()
        return [
            posixpath.basename(name)
            for name in host.files
            if posixpath.dirname(name) == str(path)
        ]

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        del exist_ok
        self._called().disk.folders.add(str(path))

    # Locks, as in the module `fcntl`.

    LOCK_EX, LOCK_NB = 2, 4

    def flock(self, descriptor: int, how: int) -> None:
        del how
        self._called()
        file = self._process.open[descriptor].file
        if file.lock is not None and file.lock is not self._process:
            if file.lock.alive:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        file.lock = self._process

    def _called(self) -> Host:
        self._process.call()
        world = self._process.world
        if world.dice.falls("slow"):
            seconds = 5 * world.random.random() ** 2
            world.note(self._process.name, f"waits for the disk for {seconds:.3f} s")
            self._process.pass_time(seconds)
        return self._process.host

    def _date(self) -> float:
        return 1.7e9 + self._process.world.now + self._process.host.date_offset

    def _may_fail(self, what: str) -> None:
        world = self._process.world
        if world.dice.falls("disk_error"):
            world.note(self._process.name, f"has an error at a {what}")
            raise OSError(errno.EIO, "Input/output error")

    def _full(self) -> bool:
        world, host = self._process.world, self._process.host
        if world.dice.falls("full"):
            seconds = 20 * world.random.random()
            world.note(host.name, f"has a full disk for {seconds:.3f} s")
            host.disk.full_until = world.now + seconds
        return host.disk.full_until > world.now

    def _require_room(self) -> None:
        if self._full():
            raise OSError(errno.ENOSPC, "No space left on device")
