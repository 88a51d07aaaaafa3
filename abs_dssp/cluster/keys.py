"""The key file of a cluster: who has it may push and pull.

    python -m abs_dssp.cluster.keys cluster.key

makes one, readable by its owner only. It holds the CURVE key pairs of the server and of
the workers (ZeroMQ RFC 26, Curve25519) as JSON with the fields of `Keys`, each 40 Z85
characters. Every process of a run is given the same file.
"""

import json
import os
import stat
import sys
from collections.abc import Sequence
from typing import NamedTuple

from abs_dssp import files

_MOST_BYTES = 4096  # a key file has some 240


class KeyFileError(ValueError):
    """A key file cannot be made or used; the message names it and the remedy."""


class KeyExistsError(KeyFileError):
    """A key file is there already."""


class Keys(NamedTuple):
    """CURVE key pairs, as ZeroMQ takes them: 40 Z85 characters each."""

    server_public: bytes
    server_secret: bytes
    client_public: bytes
    client_secret: bytes

    def __repr__(self) -> str:  # secrets stay out of logs and of error messages
        return f"Keys(server_public={self.server_public!r}, ...)"


def make(path: str | os.PathLike) -> Keys:
    """Writes new keys to a new file that only its owner can read (mode 600).

    Raises:
      KeyFileError: if the file exists, cannot be written, or this ZeroMQ has no CURVE.
    """
    import zmq

    if not zmq.has("curve"):
        raise KeyFileError(
            f"keys.make: this libzmq ({zmq.zmq_version()}) is built without CURVE; "
            "install pyzmq from its wheel."
        )
    keys = Keys(*zmq.curve_keypair(), *zmq.curve_keypair())
    text = json.dumps({name: key.decode() for name, key in keys._asdict().items()})
    try:
        if os.path.lexists(path):  # whatever it is; and nobody else may come between
            raise FileExistsError
        files.write(path, text + "\n", private=True, new=True)
    except FileExistsError:
        raise KeyExistsError(
            f"key file {os.fspath(path)!r} exists already; use it, or remove it first."
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"key file {os.fspath(path)!r} cannot be made: {error.strerror}; make "
            "room, or choose another place."
        ) from None
    return keys


def load(path: str | os.PathLike) -> Keys:
    """Reads the keys that `make` wrote.

    Raises:
      KeyFileError: if the file is missing, can be read or changed by others (more than
        mode 600), belongs to another user than this one or root, or holds no keys.
    """
    import zmq

    name = os.fspath(path)
    try:
        # Non-blocking, so that a named pipe in its place is refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(
            f"key file {name!r} does not exist; make it with "
            f"python -m abs_dssp.cluster.keys {name} and give it to every process."
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"key file {name!r} cannot be read: {error.strerror}."
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"key file {name!r} is not a file.")
        if status.st_uid not in (0, os.geteuid()):
            raise KeyFileError(
                f"key file {name!r} belongs to user {status.st_uid}, expected to user "
                f"{os.geteuid()} or to root; make one of your own."
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyFileError(
                f"key file {name!r} has mode {mode:03o}, which lets others at it; "
                f"expected 600 or 400: chmod 600 {name}, or make a new one if others "
                "may have read it."
            )
        text = os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)
    try:
        fields = json.loads(text) if len(text) < _MOST_BYTES else {}
        keys = Keys(**{key: value.encode() for key, value in fields.items()})
        halves = [
            (keys.server_public, keys.server_secret),
            (keys.client_public, keys.client_secret),
        ]
        fits = all(zmq.curve_public(secret) == public for public, secret in halves)
    except (ValueError, TypeError, AttributeError, zmq.ZMQError):
        fits = False
    if not fits:
        raise KeyFileError(
            f"key file {name!r} does not hold the keys of a cluster, as if it had been "
            "cut off; remove it, make a new one with python -m abs_dssp.cluster.keys, "
            "and give that to every process."
        )
    return keys


def main(argv: Sequence[str]) -> None:
    """Makes the key file named on the command line."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m abs_dssp.cluster.keys PATH", file=sys.stderr)
        sys.exit(0 if argv in (["-h"], ["--help"]) else 2)
    try:
        make(argv[0])
    except KeyFileError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
