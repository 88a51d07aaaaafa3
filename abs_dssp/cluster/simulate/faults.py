"""What goes wrong, how often, and the record of it."""

import dataclasses
import random
from collections import Counter


@dataclasses.dataclass(frozen=True)
class Faults:
    """Chances; of a process per call of its system, of a message, or of a write.

    With `lying_sync`, a disk says that it has written what it has not. A loss of power
    may then take pushes that were acknowledged, and leave a log that looks damaged in
    its midst, though every push was to be written before anybody is told of it.
    Everything else is promised as without: what is left of the history is gone on
    with, the run ends, and its parameters are those of its log in every bit.
    """

    kill: float = 1e-3  # the process dies within this call
    power: float = 1e-4  # its whole host loses power
    pause: float = 2e-3  # the process stops for up to 30 s
    preempt: float = 0.05  # its other threads go first; no fault
    wall_jump: float = 5e-4  # the host's date moves by up to a day
    signal: float = 5e-5  # SIGTERM
    late: float = 0.3  # a worker's process first starts up to 18 s late
    lose: float = 0.03  # a message between hosts
    double: float = 0.03
    delay: float = 0.05  # past others, by up to 5 s
    truncate: float = 0.02  # and the connection ends, or brings nonsense from there on
    reset: float = 5e-3  # the connection ends with what is on its way
    refuse: float = 0.02  # a connection is refused, or its making takes too long
    half_open: float = 0.1  # the other side is not told of a connection's end
    stall: float = 3e-3  # bytes take up to 5 s, and so do those behind them
    no_descriptor: float = 0.01  # a connection cannot be accepted now
    partition: float = 1e-3  # two hosts do not reach each other for up to 30 s
    short: float = 0.1  # a write writes less than it was given
    full: float = 1e-3  # the disk is full for up to 20 s
    slow: float = 1e-3  # an access to the disk takes up to 5 s
    disk_error: float = 5e-4  # of a read, a write or a sync
    lying_sync: float = 0.0  # a sync returns without having written, see above
    flip_log: float = 0.05  # a bit, at an open of the log
    flip_checkpoint: float = 0.2  # a bit, at an open of a checkpoint
    flip_vectors: float = 0.02  # a bit, at an open of the pushes of a fragment,
    flip_turns: float = 0.02  # and of what came before each
    nan: float = 5e-3  # a computation's push, or its loss
    stranger: float = 0.02  # per event: somebody sends nonsense

    def __post_init__(self):
        for field in dataclasses.fields(self):
            chance = getattr(self, field.name)
            if not 0 <= chance <= 1:
                raise ValueError(
                    f"--faults: {field.name} must be a chance from 0 to 1, "
                    f"got {chance}."
                )


NONE = Faults(**{field.name: 0.0 for field in dataclasses.fields(Faults)})


def parse(text: str) -> Faults:
    """Faults by name, such as `kill=0.01,lose=0`; the others as they are.

    `none` is none of them, and `none,kill=0.01` one only.

    Raises:
      ValueError: if a name is unknown or a chance no number from 0 to 1.
    """
    names = [field.name for field in dataclasses.fields(Faults)]
    made = Faults()
    for part in filter(None, text.split(",")):
        if part == "none":
            made = NONE
            continue
        name, _, value = part.partition("=")
        if name not in names:
            raise ValueError(f"--faults: {name!r} is none of {', '.join(names)}, none.")
        try:
            made = dataclasses.replace(made, **{name: float(value)})
        except ValueError as error:
            if "--faults" in str(error):
                raise
            raise ValueError(
                f"--faults: {name} must be a chance from 0 to 1, got {value!r}."
            ) from None
    return made


class Dice:
    """Decides which faults happen; the same ones for the same seed.

    Every chance has a number; `only` allows those with the given numbers, so that a
    history can be made again with fewer faults.
    """

    def __init__(self, seed: int, faults: Faults, only: frozenset[int] | None = None):
        self._random = random.Random(f"faults {seed}")
        self._chances = {
            field.name: getattr(faults, field.name)
            for field in dataclasses.fields(faults)
        }
        self._only = only
        self.calm = False  # no faults any more
        self.thrown = 0
        self.fired: list[tuple[int, str]] = []
        self.counts: Counter[str] = Counter()

    def falls(self, name: str) -> bool:
        """Whether the fault of this name happens now."""
        chance = self._chances[name]
        if chance == 0:
            return False
        self.thrown += 1
        if self._random.random() >= chance or self.calm:
            return False
        if name == "preempt":
            return True
        if self._only is not None and self.thrown not in self._only:
            return False
        self.fired.append((self.thrown, name))
        self.counts[name] += 1
        return True
