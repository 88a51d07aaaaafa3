"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(
    path: str | os.PathLike[str], *, private: bool = False, new: bool = False
) -> Iterator[Path]:
    """Gives a path to write to, which becomes `path` if the block ends without error.

    The name has the process's number, since several processes may write one file.

    Args:
      path: of the file.
      private: only the owner can read it, mode 600.
      new: there must be no such file yet.

    Raises:
      OSError: if it cannot be written, and names `path`; FileExistsError with `new`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if private:
            partial.unlink(missing_ok=True)  # whatever mode it has
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))
        yield partial
        if new:
            os.link(partial, path)  # a rename would replace what is there
        else:
            partial.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(partial)):
            raise
        # A full disk names no file.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], text: str, **how: bool) -> Path:
    """Writes a text file in UTF-8, whole or not at all; `how` as `whole` takes it."""
    with whole(path, **how) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)
