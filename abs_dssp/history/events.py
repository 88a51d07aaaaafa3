"""Events, and an event together with what was decided on it.

A history is a list of entries. A cluster's log holds them as bytes, a trace as columns.
"""

from typing import NamedTuple

KINDS = ("push", "leave", "join", "refuse", "timer")
REASONS = ("died", "finished", "silent", "stuck", "expelled", "absent", "replaced")


NOBODY = -1  # the worker of a "timer"


class Event(NamedTuple):
    """Something that happened to one worker of a run, or a deadline that came."""

    kind: str  # one of KINDS; "refuse": a push that was not finite
    worker: int  # 0..N-1, or NOBODY
    time: float  # seconds since the start of the run
    duration: float = 0.0  # seconds of computation; of a push
    loss: float = 0.0  # mean training loss of the batches; of a push
    reason: str = ""  # one of REASONS; of a leave


class Entry(NamedTuple):
    """An event and the decision that it got, as carried out."""

    event: Event
    pulled: int = 0  # version that a push was computed from
    version: int = 0  # parameter updates made before the event
    weight: float = 0.0  # of a push in the next commit; 0 if it was discarded
    commit: bool = False
    release: tuple[int, ...] = ()  # workers
    restart: tuple[int, ...] = ()  # workers
