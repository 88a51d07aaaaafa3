"""What the server's core wants done. The shell does it, in order.

The order is a guarantee: `Append` comes first, so nobody is told of anything that a
crash could undo.
"""

from typing import Any, NamedTuple

from abs_dssp.cluster.lines import Warned
from abs_dssp.history.events import Entry


class Append(NamedTuple):
    """Write an entry to the log; what follows waits until it is there."""

    entry: Entry


class Accumulate(NamedTuple):
    """Add a push to the next commit."""

    worker: int
    vector: Any  # the push; None: compute it from the version that the worker holds
    weight: float  # above 0
    commit: bool  # whether this push causes a commit
    clock: int  # pushes of the worker, this one included
    pulled: int  # the version that it was computed from
    epoch: float  # samples processed when that version was made, in epochs


class Commit(NamedTuple):
    """Make the next version of the parameters."""

    version: int  # the present one
    epoch: float  # samples processed when the present one was made, in epochs


class Hold(NamedTuple):
    """Keep the present version for a worker, instead of the one that it held."""

    worker: int
    version: int  # number of the present version


class Drop(NamedTuple):
    """The worker needs the version that it held no more."""

    worker: int


class Tell(NamedTuple):
    """Say to a worker what to compute from, or that it must wait."""

    worker: int


class Send(NamedTuple):
    """Send a message; a grant goes with the version that its worker holds."""

    peer: Any  # transport.Peer
    message: Any  # messages.Message


class Say(NamedTuple):
    """Show a line to the user."""

    line: str


def warning(line: str) -> Say:
    """Show a line that somebody may have to act on."""
    return Say(Warned(line))


Effect = Append | Accumulate | Commit | Hold | Drop | Tell | Send | Say
