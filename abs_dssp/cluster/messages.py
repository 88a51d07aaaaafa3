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
    """A header; unused fields are 0.

    The first ten fields after the kind are the header's, in its order.
    """

    kind: Kind
    worker: int = 0  # 0..N-1
    clock: int = 0  # of the push, or the next one; 1-based
    grant_id: int = 0  # number of the grant that this is about; 1-based
    version: int = 0  # the granted version
    buffer: int = -1  # where a vector lies in shared memory; -1 if not there
    nbytes: int = 0  # length of the vector, bytes
    mark: int = 0  # of the history at the grant, see `Core`
    seconds: float = 0.0  # duration of the computation
    epoch: float = 0.0  # of the granted version
    loss: float = 0.0  # mean training loss of the push
    text: Any = None  # JSON
    payload: Any = None  # the vector; travels beside the header


# What follows magic, version and kind in the header.
_FIELDS = [field.name for field in dataclasses.fields(Message)][1:11]
_values = operator.attrgetter(*_FIELDS)
_KINDS = {int(kind): kind for kind in Kind}


def push_for(grant: Message, **fields: Any) -> Message:
    """The header of the push that answers a grant; `fields` are set besides."""
    asked = (grant.worker, grant.clock, grant.grant_id, grant.version)
    push = Message(Kind.PUSH, *asked, mark=grant.mark)
    for name, value in fields.items():
        setattr(push, name, value)
    return push


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
    return HEADER_BYTES + _header(data, 0)[-1]


def decode(data: bytes | memoryview) -> Message:
    """The message in `data`, which holds nothing else.

    Raises:
      MessageError: if it is not one.
    """
    found = first(data, 0, len(data))
    if found is None or found[1] != len(data):
        raise MessageError(f"{len(data)} bytes, {announced(data)} announced.")
    return found[0]


def first(data: bytes | memoryview, start: int, end: int) -> tuple[Message, int] | None:
    """The message that begins at `start`, and where it ends, without its vector.

    Args:
      data: what has come, up to `end`.
      start: where the message begins.
      end: behind what has come.

    Returns:
      None if it is not here as a whole.

    Raises:
      MessageError: if it is none.
    """
    if end - start < HEADER_BYTES:
        return None
    number, *values, length = _header(data, start)
    stop = start + HEADER_BYTES + length
    if stop > end:
        return None
    kind = _KINDS.get(number)
    if kind is None:
        raise MessageError(f"unknown kind {number}.")
    message = Message(kind, *values)
    worker, clock, grant_id, version, _, nbytes, *_ = values
    if min(worker, clock, grant_id, version, nbytes) < 0:
        raise MessageError("a negative number in the header.")
    if not message.seconds >= 0:
        raise MessageError(f"{message.seconds} is no duration.")
    if length:
        try:
            message.text = json.loads(bytes(data[start + HEADER_BYTES : stop]))
        except (ValueError, RecursionError) as error:
            raise MessageError("its text is not JSON.") from error
    return message, stop


def _header(data: bytes | memoryview, start: int) -> list[Any]:
    """What a header says: the number of its kind, its fields, the text's length."""
    if len(data) - start < HEADER_BYTES:
        raise MessageError(f"{len(data) - start} bytes are less than a header.")
    magic, version, *found = _HEADER.unpack_from(data, start)
    if magic != MAGIC:
        raise MessageError("no message of abs_dssp.")
    if version != VERSION:
        raise MessageError(f"wire format {version}, expected {VERSION}.")
    if found[-1] > MAX_TEXT:
        raise MessageError(f"a text of {found[-1]} bytes, at most {MAX_TEXT} allowed.")
    return found


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
