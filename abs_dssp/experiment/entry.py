"""Runs a command: checks its arguments and reports mistakes in one sentence."""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from abs_dssp import checks, extras

program: list[str] = []  # what starts this program again, where no script does


def again() -> list[str]:
    """The words that start this program again; its flags come after them."""
    return program or [sys.executable, sys.argv[0]]


def accuracy(value: float | None) -> bool:
    """A flag's validator: a share in 0..1, or none.

    Raises:
      flags.ValidationError: for anything else.
    """
    try:
        if value is not None:
            checks.share("flags", "an accuracy", value)
    except ValueError as error:
        raise flags.ValidationError(str(error)) from None
    return True


def run(main: Callable[[Sequence[str]], None], positional: str = "") -> None:
    """`app.run`, with one sentence and status 1 for a user's mistake, 130 for Ctrl-C.

    Args:
      main: called with the arguments that are no flags, the program's name first.
      positional: what the one such argument is, as in `RUN_DIR`; none by default.
    """

    from abs_dssp import interrupts  # in here, since it acts when it is imported

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries' notes are not for users
        if not positional and len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
        if positional and len(argv) != 2:
            raise app.UsageError(f"Expected one argument, {positional}.")
        try:
            interrupts.raise_again()
            main(argv)
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, OSError) as error:
            if isinstance(error, OSError) or _raised_here(error):
                sys.exit(f"error: {error}")
            raise
        except extras.MissingExtraError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept in --out.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)

    app.run(guarded)


def _raised_here(error: BaseException) -> bool:
    """Whether this project raised an error, rather than a library that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("abs_dssp", "__main__")
