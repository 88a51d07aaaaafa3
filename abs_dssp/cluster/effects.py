"""What the server's core wants done. The shell does it, in order.

The order is a guarantee: `Append` comes first, so nobody is told of anything that a
crash could undo.
"""

from typing import Any, NamedTuple

from abs_dssp.cluster.lines import Warned
from abs_dssp.history.events import Entry


class Append(NamedTuple):
    """Write entries to the log; what follows waits until they are there."""

    entries: tuple[Entry, ...]


class Accumulate(NamedTuple):
    """Add a push to the next commit, and keep the local optimiser behind it.

    One of weight 0 is not added.
    """

    worker: int
    vector: Any  # the push; None: compute it from the version that the worker holds
    weight: float  # the policy's
    commit: bool  # whether this push causes a commit
    clock: int  # pushes of the worker, this one included
    pulled: int  # the version that it was computed from
    epoch: float  # samples processed when that version was made, in epochs


class Commit(NamedTuple):
    """Make the next version of the parameters."""

    version: int  # the present one
    epoch: float  # samples processed when the present one was made, in epochs


class Advance(NamedTuple):
    """Make several versions one after the other, each of a single push.

    Until the next version is made, all of them can be held.
    """

    pushes: tuple[tuple[Accumulate, Commit], ...]


class Hold(NamedTuple):
    """Keep a version for a worker, instead of the one that it held."""

    worker: int
    version: int  # the present one, or one of the latest `Advance`


class Drop(NamedTuple):
    """The worker needs the version that it held no more."""

    worker: int
    left: bool = False  # nor the state of its local optimiser


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


Effect = Append | Accumulate | Commit | Advance | Hold | Drop | Tell | Send | Say
