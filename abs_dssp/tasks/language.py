"""The task of a language model: the next byte of a text."""

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, UInt8

from abs_dssp.tasks import models
from abs_dssp.tasks.base import Task
from abs_dssp.tasks.custom import from_flax

_VOCABULARY = 256  # bytes
_TESTED = 10  # one in so many bytes, at the end

Windows = tuple[Int32[np.ndarray, "_ L"], Int32[np.ndarray, "_ L"]]  # as many


class Text(NamedTuple):
    """Bytes, in the order in which they are read."""

    content: UInt8[np.ndarray, " bytes"]
    sha256: str  # of the content, in hexadecimal


def text(
    num_workers: int,
    *,
    path: str | None = None,
    context: int = 64,
    stride: int | None = None,
    model: str = "transformer",
    batch_size: int = 32,
    partition: str = "equal",
    seed: int = 0,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Task:
    """The next byte of a text, by any model of tokens. No network is needed.

    The last tenth of the text is for testing. A sample is a window of `context` bytes
    together with the same window one byte further; batches are windows at random, in
    an order of their own for every worker. The task's name begins with that of the
    text, which holds the first digits of its SHA-256, so that a run on other bytes is
    known for another run.

    Args:
      num_workers: number of workers N.
      path: a file, whose bytes are taken as they are; see `read` for the default.
      context: bytes of a window.
      stride: bytes from one training window to the next, a quarter of `context` by
        default; windows that are tested do not overlap.
      model: see `models.parse`; one that gives (B, L, 256) logits for (B, L) bytes.
      batch_size: windows per gradient.
      partition: which worker has which windows; see `partition.make`. With
        `"contiguous"` every worker has a part of the text, with `"shared"` all of it.
      seed: of the partition.
      limit_train: use so many training windows only, the first ones.
      limit_test: use so many test windows only, the first ones.

    Returns:
      A `Task` that evaluates `"loss"` in nats per byte, `"bits_per_byte"` and
      `"accuracy"`, the share of bytes that were foretold, on the test split.

    Raises:
      ValueError: for a file that cannot be read or is too short, an unknown model or
        partition, or a number out of range.

    Example:
      >>> from abs_dssp import tasks
      >>> task = tasks.text(2, model="transformer(width=8,depth=1,heads=2)", context=16)
      >>> task.data["train"].dtype, task.data["train"].shape[1:]
      (dtype('int32'), (16,))
    """
    stride = max(1, context // 4) if stride is None else stride
    numbers = {"num_workers": num_workers, "context": context, "stride": stride}
    limits = {"limit_train": limit_train, "limit_test": limit_test}
    for name, value in (numbers | limits).items():
        if value is not None and value < 1:
            raise ValueError(f"text: {name} must be at least 1, got {value}.")
    source = read(path)
    cut = len(source.content) - len(source.content) // _TESTED
    train = windows(source.content[:cut], context, stride)
    test = windows(source.content[cut:], context, context)
    return from_flax(
        models.parse(model, _VOCABULARY),
        _first(train, limit_train),
        _first(test, limit_test),
        num_workers,
        loss=nats,
        metrics={"bits_per_byte": bits, "accuracy": right},
        name=f"text-{source.sha256[:12]}/{model}",
        batch_size=batch_size,
        partition=partition,
        seed=seed,
    )


def _first(split: Windows, limit: int | None) -> Windows:
    return split[0][:limit], split[1][:limit]


def read(path: str | None = None) -> Text:
    """The bytes of a file; without one, the reference texts that come with Python.

    Those are the topics of Python's own `help()`, the chapters of its language
    reference, in alphabetical order: half a million bytes. They differ from one version
    of Python to the next, and so does their digest.

    Args:
      path: of a file; None for Python's texts.

    Raises:
      ValueError: if the file cannot be read.

    Example:
      >>> from abs_dssp.tasks import language
      >>> language.read().content.dtype
      dtype('uint8')
    """
    if path is None:
        return _reference()
    try:
        return _text(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"text: cannot read {path}: {error.strerror}.") from None


@functools.cache
def _reference() -> Text:
    from pydoc_data import topics

    chapters = [topics.topics[name] for name in sorted(topics.topics)]
    return _text("\n".join(chapters).encode())


def _text(content: bytes) -> Text:
    digest = hashlib.sha256(content).hexdigest()
    return Text(np.frombuffer(content, np.uint8), digest)


def windows(content: UInt8[np.ndarray, " bytes"], context: int, stride: int) -> Windows:
    """Inputs and targets: windows of a text, and the same one byte further.

    Args:
      content: bytes.
      context: L, bytes that a window holds.
      stride: bytes from the beginning of a window to that of the next.

    Returns:
      Inputs and targets, in the order of the text; its last bytes are left out where no
      whole window fits.

    Raises:
      ValueError: if the text is too short for a window.

    Example:
      >>> import numpy as np
      >>> from abs_dssp.tasks import language
      >>> inputs, targets = language.windows(np.frombuffer(b"abcde", np.uint8), 2, 2)
      >>> [bytes(row.tolist()) for row in inputs], bytes(targets[1].tolist())
      ([b'ab', b'cd'], b'de')
    """
    starts = np.arange(0, len(content) - context, stride)
    if not starts.size:
        raise ValueError(
            f"text: {len(content)} bytes are too few for a window of context={context} "
            "and the byte after it; give a longer text or a smaller context."
        )
    places = starts[:, None] + np.arange(context)
    return content[places].astype(np.int32), content[places + 1].astype(np.int32)


def nats(
    logits: Float[Array, "B L K"], targets: Int32[Array, "B L"]
) -> Float[Array, " B"]:
    """Mean cross entropy of the next byte over a window, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses.mean(axis=-1)


def bits(
    logits: Float[Array, "B L K"], targets: Int32[Array, "B L"]
) -> Float[Array, " B"]:
    """The same in bits per byte.

    Example:
      >>> import jax.numpy as jnp
      >>> from abs_dssp.tasks import language
      >>> language.bits(jnp.zeros((1, 3, 256)), jnp.zeros((1, 3), jnp.int32)).tolist()
      [8.0]
    """
    return nats(logits, targets) / jnp.float32(np.log(2.0))


def right(
    logits: Float[Array, "B L K"], targets: Int32[Array, "B L"]
) -> Float[Array, " B"]:
    """The share of bytes whose logit is the largest."""
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return (best == targets).astype(jnp.float32).mean(axis=-1)
