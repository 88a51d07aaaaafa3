"""The wire format: one fixed header, sometimes a short text, sometimes a vector.

Everything is little-endian and checked before it is used; nothing is ever unpickled.
"""

import dataclasses
import enum
import json
import operator
import struct
from typing import Any

MAGIC = b"ADSP"
VERSION = 2
MAX_TEXT = 64 * 1024

_HEADER = struct.Struct("<4sBB2xiiqiiqIdffI")
HEADER_BYTES = _HEADER.size


class Kind(enum.IntEnum):
    """What a message is."""

    HELLO = 1  # worker: settings and identity (text)
    WELCOME = 2  # server: accepted; compile, then say READY
    READY = 3  # worker: compiled
    GRANT = 4  # server: parameters to compute from (vector)
    PUSH = 5  # worker: a result (vector)
    WAIT = 6  # server: the push is logged; parameters will come
    HEARTBEAT = 7  # a process: alive; steps that its workers have made (text)
    HEARTBEAT_ACK = 8  # server: alive
    STOP = 9  # server: the run is over (text: why)
    REFUSED = 10  # server: this worker may not take part (text: why)
    BYE = 11  # worker: leaves


class MessageError(ValueError):
    """Bytes that are no message of ours, or one out of range."""


@dataclasses.dataclass(slots=True)
class Message:
    """A header; unused fields are 0."""

    kind: Kind
    worker: int = 0  # 0..N-1
    clock: int = 0  # of the push, or the next one; 1-based
    grant_id: int = 0  # number of the grant that this is about; 1-based
    version: int = 0  # the granted version
    buffer: int = -1  # where a vector lies in shared memory; -1 if not there
    nbytes: int = 0  # length of the vector, bytes
    seconds: float = 0.0  # duration of the computation
    epoch: float = 0.0  # of the granted version
    loss: float = 0.0  # mean training loss of the push
    mark: int = 0  # of the history at the grant, see `Core`
    text: Any = None  # JSON
    payload: Any = None  # the vector; travels beside the header


# What follows magic, version and kind in the header, in this order.
_FIELDS = (
    *("worker", "clock", "grant_id", "version", "buffer", "nbytes", "mark"),
    *("seconds", "epoch", "loss"),
)
_COUNTS = ("worker", "clock", "grant_id", "version", "nbytes")  # never negative
_values = operator.attrgetter(*_FIELDS)


def push_for(grant: Message, **fields: Any) -> Message:
    """The header of the push that answers a grant; `fields` are set besides."""
    known = {name: getattr(grant, name) for name in _ANSWERED}
    return Message(Kind.PUSH, **(known | fields))


_ANSWERED = ("worker", "clock", "grant_id", "version", "mark")


def encode(message: Message) -> bytes:
    """Header and text."""
    text = b"" if message.text is None else json.dumps(message.text).encode()
    values = _values(message)
    return _HEADER.pack(MAGIC, VERSION, message.kind, *values, len(text)) + text


def announced(data: bytes | memoryview) -> int:
    """Bytes of header and text of the message that begins with `data`.

    Raises:
      MessageError: if none does.
    """
    if len(data) < HEADER_BYTES:
        raise MessageError(f"{len(data)} bytes are less than a header.")
    magic, version, *_, length = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MessageError("no message of abs_dssp.")
    if version != VERSION:
        raise MessageError(f"wire format {version}, expected {VERSION}.")
    if length > MAX_TEXT:
        raise MessageError(f"a text of {length} bytes, at most {MAX_TEXT} allowed.")
    return HEADER_BYTES + length


def decode(data: bytes | memoryview) -> Message:
    """The message in `data`, which holds nothing else.

    Raises:
      MessageError: if it is not one.
    """
    if len(data) != (expected := announced(data)):
        raise MessageError(f"{len(data)} bytes, {expected} announced.")
    _, _, number, *values, length = _HEADER.unpack_from(data)
    try:
        kind = Kind(number)
    except ValueError:
        raise MessageError(f"unknown kind {number}.") from None
    message = Message(kind, **dict(zip(_FIELDS, values, strict=True)))
    if any(getattr(message, name) < 0 for name in _COUNTS):
        raise MessageError("a negative number in the header.")
    if not message.seconds >= 0:
        raise MessageError(f"{message.seconds} is no duration.")
    if length:
        try:
            message.text = json.loads(bytes(data[HEADER_BYTES:]))
        except (ValueError, RecursionError) as error:
            raise MessageError("its text is not JSON.") from error
    return message


def heartbeats(text: Any, num_workers: int) -> tuple[str, list[tuple]] | None:
    """What the text of a heartbeat says; None if it is not one.

    Args:
      text: as it arrived, whatever it holds.
      num_workers: N; what is said of other workers is left out.

    Returns:
      `(nonce, [(worker, finished steps, whether it waits), ...])`.
    """
    if not (isinstance(text, list) and len(text) == 2 and isinstance(text[1], list)):
        return None
    found = []
    for life in text[1]:
        if not (isinstance(life, list) and len(life) == 4):
            return None
        worker, _, steps, waits = life
        if type(worker) is not int or type(steps) is not int:
            return None
        if 0 <= worker < num_workers:
            found.append((worker, steps, bool(waits)))
    return str(text[0]), found
