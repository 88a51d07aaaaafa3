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


def run(
    main: Callable[[Sequence[str]], None], positional: str = "", *, mistake: int = 1
) -> None:
    """`app.run`, with one sentence for a user's mistake, and status 130 for Ctrl-C.

    Args:
      main: called with the arguments that are no flags, the program's name first.
      positional: what the one such argument is, as in `RUN_DIR`; none by default.
      mistake: the status after one, such as a wrong flag; that of all else is 1.
    """

    from abs_dssp import interrupts  # in here, since it acts when it is imported

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # libraries' notes are not for users
        if not positional and len(argv) > 1:
            surplus = " ".join(argv[1:])
            raise app.UsageError(f"Unexpected arguments: {surplus}", mistake)
        if positional and len(argv) != 2:
            raise app.UsageError(f"Expected one argument, {positional}.", mistake)
        try:
            interrupts.raise_again()
            main(argv)
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, OSError) as error:
            transient = isinstance(error, OSError | checks.TransientError)
            if transient or _raised_here(error):
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1 if transient else mistake)
            raise
        except extras.MissingExtraError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept in --out.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)

    def parse(argv: Sequence[str]) -> Sequence[str]:
        try:
            return app.parse_flags_with_usage(list(argv))
        except SystemExit as end:  # a sentence has been said
            sys.exit(mistake if end.code == 1 else end.code)

    app.run(guarded, flags_parser=parse)


def _raised_here(error: BaseException) -> bool:
    """Whether this project raised an error, rather than a library that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("abs_dssp", "__main__")
