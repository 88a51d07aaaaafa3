"""The key file of a cluster: who has it may push and pull.

    python -m abs_dssp.cluster.keys cluster.key

makes one, readable by its owner only. It holds a private key and a certificate that the
key has signed itself, as PEM. Every process of a run is given the same file, shows the
certificate and accepts no other: TLS 1.3, Ed25519.
"""

import contextlib
import dataclasses
import datetime
import os
import ssl
import stat
import sys
from collections.abc import Sequence

from abs_dssp import extras, files

_MOST_BYTES = 4096  # a key file has some 600


class KeyFileError(ValueError):
    """A key file cannot be made or used; the message names it and the remedy."""


class KeyExistsError(KeyFileError):
    """A key file is there already."""


@dataclasses.dataclass(frozen=True)
class Keys:
    """What a key file holds."""

    pem: str = dataclasses.field(repr=False)  # secret: not for logs and messages

    def context(self, *, server: bool) -> ssl.SSLContext:
        """How one side of a connection proves itself, and checks the other.

        Raises:
          ssl.SSLError: if this is no key with its certificate.
        """
        kind = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
        made = ssl.SSLContext(kind)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False  # whoever has the key is the right one, anywhere
        made.verify_mode = ssl.CERT_REQUIRED
        if server:
            made.num_tickets = 0  # nobody resumes a session
        made.load_verify_locations(cadata=self.pem)
        with self.file() as path:
            made.load_cert_chain(path, password=_no_password)
        return made

    @contextlib.contextmanager
    def file(self):
        """A file in memory that only this process has: `ssl` takes nothing else."""
        with open(os.memfd_create("abs_dssp"), "w") as file:
            file.write(self.pem)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"


def _no_password() -> str:
    """Instead of a question on the terminal."""
    return ""


def make(path: str | os.PathLike) -> Keys:
    """Writes a new key to a new file that only its owner can read (mode 600).

    Raises:
      KeyFileError: if the file exists or cannot be written.
      MissingExtraError: if cryptography is not installed.
    """
    keys = Keys(_new())
    try:
        if os.path.lexists(path):  # whatever it is; and nobody else may come between
            raise FileExistsError
        files.write(path, keys.pem, private=True, new=True)
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


def _new() -> str:
    """A private key and its certificate, which does not expire (RFC 5280, 4.1.2.5)."""
    with extras.needed("the key of a cluster"):
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name.from_rfc4514_string("CN=abs_dssp")
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .sign(key, None)
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (secret + certificate.public_bytes(pem)).decode()


def load(path: str | os.PathLike) -> Keys:
    """Reads the key that `make` wrote.

    Raises:
      KeyFileError: if the file is missing, can be read or changed by others (more than
        mode 600), belongs to another user than this one or root, or holds no keys.
    """
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
        if len(text) == _MOST_BYTES:
            raise ValueError
        keys = Keys(text.decode())
        keys.context(server=True)
    except (ValueError, ssl.SSLError):
        raise KeyFileError(
            f"key file {name!r} does not hold the key of a cluster: it was cut off, or "
            "made by another version; remove it, make a new one with python -m "
            "abs_dssp.cluster.keys, and give that to every process."
        ) from None
    return keys


def main(argv: Sequence[str]) -> None:
    """Makes the key file named on the command line."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m abs_dssp.cluster.keys PATH", file=sys.stderr)
        sys.exit(0 if argv in (["-h"], ["--help"]) else 2)
    try:
        make(argv[0])
    except (KeyFileError, extras.MissingExtraError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
