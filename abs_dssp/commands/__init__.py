"""The commands of `abs-dssp`, a module each, and how one of them is started.

A command is imported when it is asked for: each defines absl flags, of which many have
the same name, and most of them import JAX. A new one is a line in `COMMANDS` and a
module of that name, `-` written as `_`, whose docstring is its help and which has a
function `run()`. The files of `experiments/` start these from the source tree.
"""

import importlib
import os
import sys

import abs_dssp
from abs_dssp import literals

COMMANDS = {
    "compare": "policies side by side: who reaches the target first",
    "train": "one policy, one run: in virtual time, or on real processes",
    "replay": "recomputes a run from its trace and compares every bit",
    "whatif": "what other policies would have done with a run's times",
    "advise": "ranks policies for given worker times",
    "fit-times": "models of published worker times, fitted and compared",
    "verify": "checks what rules guarantee, in every order of events",
    "optimality": "time to a target beside the best that any method can do",
    "lower-bound": "methods on a chain whose lower bound has no constant",
    "goodput": "what of the work is of use while workers die and return",
    "leaderboard": "every rule on twelve fixed cases, scored",
    "reproduce": "every figure and table of the DSSP and ABS papers",
    "dssp-fig3": "DSSP's Figure 3 alone",
    "dssp-fig4-table1": "DSSP's Figure 4 and Table I alone",
    "abs-fig1": "ABS's Figure 1 alone",
    "abs-fig2": "ABS's Figure 2 alone",
    "abs-fig3": "ABS's Figure 3 alone",
    "abs-fig4": "ABS's Figure 4 alone",
    "launch": "runs a command or a script in several processes here",
    "simulate-cluster": "the cluster on a machine that fails, seed by seed",
}
_PROGRAM = "abs-dssp"


def main() -> None:
    """The console script: starts the command that the first argument names."""
    from abs_dssp import interrupts  # noqa: F401  # first: Ctrl-C during the others

    try:
        _start()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read what is printed has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _start() -> None:
    path, *words = sys.argv
    first, *rest = words or [""]
    if first in ("--help", "-help", "-h", "help"):
        _show(_usage())
        return
    if first == "--version":
        print(f"{_PROGRAM} {abs_dssp.__version__}")
        return
    name = first.replace("_", "-")
    if name not in COMMANDS:
        print(f"error: {_unknown(first)}", file=sys.stderr)
        sys.exit(2)
    from abs_dssp.experiment import entry

    if os.path.basename(path) == "__main__.py":  # python -m abs_dssp
        start = [sys.executable, "-m", "abs_dssp"]
    else:
        start = [sys.executable, path]
    entry.program[:] = [*start, name]
    sys.argv = [f"{_PROGRAM} {name}", *rest]
    # Rules and tasks of one's own are looked for here, after everything else.
    sys.path.append(os.getcwd())
    run(name)


def run(name: str) -> None:
    """Starts one command with the arguments in `sys.argv`.

    Args:
      name: one of `COMMANDS`.
    """
    from abs_dssp import interrupts  # noqa: F401  # first: Ctrl-C during the others

    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    from absl import flags

    # What absl shows as the help of the program is the command's.
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    module.run()


def _show(text: str) -> None:
    """Prints, for a reader that may have read enough, such as `head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # and Python must not meet it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {_PROGRAM} COMMAND [its flags]",
            "",
            (abs_dssp.__doc__ or "").partition("\n")[0],
            "",
            *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
            "",
            f"Flags of a command: {_PROGRAM} COMMAND --help",
        ]
    )


def _unknown(name: str) -> str:
    """What is wrong with the first argument, in one sentence."""
    known = ", ".join(COMMANDS)
    if not name or name.startswith("-"):
        given = f", got {name}" if name else ""
        return f"{_PROGRAM}: expected a command first{given}; known: {known}."
    guess = literals.guess(name.replace("_", "-"), COMMANDS)
    return f"{_PROGRAM}: unknown command {name!r}{guess}; known: {known}."
