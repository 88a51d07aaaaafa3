"""What somebody sends who is no worker of the run."""

from random import Random
from typing import Any

from abs_dssp.cluster.messages import Kind, Message, encode

_TEXTS: tuple[Any, ...] = (
    *(None, [], {}, "no", ["x", []]),
    *(["x", [[each, 0, 0, True]]] for each in (1e400, None, "a", 0.5)),
)


def nonsense(random: Random, size: int) -> bytes:
    """Bytes that look like a message more or less.

    Args:
      random: decides.
      size: of a push, bytes.
    """
    if random.random() < 0.3:
        return random.randbytes(random.randrange(200))
    kind = random.choice(list(Kind))
    big = random.choice([0, 1, 2, 7, 2**31 - 1])
    message = Message(
        kind,
        big,
        big,
        grant_id=big,
        buffer=random.choice([-1, 0, 1, 9]),
        nbytes=random.choice([0, big, size]),
        text=random.choice(_TEXTS),
    )
    data = bytearray(encode(message))
    if random.random() < 0.5:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)
