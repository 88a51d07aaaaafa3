"""Libraries that not every use needs: where one is missing, which extra has it.

Import such a library where it is used, within `needed`; ask `available` first where the
rest of the work is worth having without it.

Example:
  >>> from abs_dssp import extras
  >>> print(extras.sentence("sklearn", "the data set digits"))
  the data set digits needs scikit-learn: pip install "abs_dssp[examples]"
"""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import NamedTuple


class Library(NamedTuple):
    """Where a library comes from.

    Attributes:
      distribution: what is installed.
      extra: the extra of this package that names it.
    """

    distribution: str
    extra: str


LIBRARIES = {  # by the name that is imported
    "PIL": Library("pillow", "examples"),
    "cryptography": Library("cryptography", "cluster"),
    "greenlet": Library("greenlet", "cluster"),
    "matplotlib": Library("matplotlib", "plot"),
    "pandas": Library("pandas", "examples"),
    "prometheus_client": Library("prometheus-client", "cluster"),
    "rich": Library("rich", "cluster"),
    "sklearn": Library("scikit-learn", "examples"),
    "tensorboardX": Library("tensorboardX", "cluster"),
}


class MissingExtraError(ImportError):
    """A library is not installed; the message is one sentence with the remedy."""


def sentence(library: str, purpose: str) -> str:
    """What to tell somebody who does not have a library.

    Args:
      library: a key of `LIBRARIES`.
      purpose: what needs it, as a noun.
    """
    distribution, extra = LIBRARIES[library]
    return f'{purpose} needs {distribution}: pip install "abs_dssp[{extra}]"'


@contextlib.contextmanager
def needed(purpose: str) -> Iterator[None]:
    """For imports of libraries in `LIBRARIES`.

    Args:
      purpose: what needs them, as a noun.

    Raises:
      MissingExtraError: if one of them is not installed.

    Example:
      >>> from abs_dssp import extras
      >>> with extras.needed("a picture"):
      ...     import matplotlib
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in LIBRARIES:
            raise
        raise MissingExtraError(sentence(library, purpose)) from None


def require(library: str, purpose: str) -> None:
    """Refuses before long work what would fail at its end.

    Args:
      library: a key of `LIBRARIES`.
      purpose: what needs it, as a noun.

    Raises:
      MissingExtraError: if it is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(sentence(library, purpose))


def available(library: str, purpose: str) -> bool:
    """Whether a library is installed; says on standard error what is left out if not.

    Args:
      library: a key of `LIBRARIES`.
      purpose: what is left out, as a noun.
    """
    try:
        require(library, purpose)
    except MissingExtraError as error:
        print(f"note: left out, since {error}", file=sys.stderr, flush=True)
        return False
    return True
