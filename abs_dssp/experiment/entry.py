"""Runs a script: checks its arguments and reports mistakes in one sentence."""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, logging


def run(main: Callable[[Sequence[str]], None], positional: str = "") -> None:
    """`app.run`, with one sentence and status 1 for a user's mistake, 130 for Ctrl-C.

    Args:
      main: called with the arguments that are no flags, the program's name first.
      positional: what the one such argument is, as in `RUN_DIR`; none by default.
    """

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries' notes are not for users
        if not positional and len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
        if positional and len(argv) != 2:
            raise app.UsageError(f"Expected one argument, {positional}.")
        try:
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # see `interrupts`
                signal.signal(signal.SIGINT, signal.default_int_handler)
            main(argv)
        except (ValueError, TypeError, OSError) as error:
            if isinstance(error, OSError) or _raised_here(error):
                sys.exit(f"error: {error}")
            raise
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept in --out.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)

    app.run(guarded)


def _raised_here(error: BaseException) -> bool:
    """Whether this project raised an error, rather than a library that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("abs_dssp", "__main__")
