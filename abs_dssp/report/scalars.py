"""TensorBoard scalars of a running cluster."""

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster.status import Status

_FLUSH = 5.0  # seconds between two waits for the disk


class Scalars:
    """Writes event files into a folder. A folder that fails, or a
    missing library, costs a warning only.

    Called from one thread. Starts none: TensorBoard writers with a thread of their own
    block their callers for ever when it meets a full disk.
    """

    def __init__(self, folder: Path):
        self._events: Any = None
        self._measured: dict[str, float] = {}
        self._flushed = time.monotonic()
        try:
            with extras.needed("tensorboard/"):
                from tensorboardX.event_file_writer import EventsWriter

            folder.mkdir(parents=True, exist_ok=True)
            # The name counts whole seconds: a quick restart must not overwrite.
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            self._events.flush()
        except (OSError, extras.MissingExtraError) as error:
            self._give_up(error)

    def write(self, status: Status) -> None:
        """Adds a point of every curve, at the present version."""
        if self._events is None:
            return
        points: dict[str, float] = {
            "run/pushes_per_second": status.pushes_per_second,
            "run/epoch": status.epoch,
            "run/train_loss": status.train_loss,
        }
        measures = dict(status.measures)
        if measures != self._measured:  # a new evaluation
            self._measured = measures
            points |= {f"evaluation/{name}": v for name, v in measures.items()}
        for worker in status.workers:
            points |= {
                f"clock/worker{worker.index}": worker.clock,
                f"staleness/worker{worker.index}": worker.mean_staleness,
                f"waiting/worker{worker.index}": worker.waiting_share,
            }
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        finite = {name: value for name, value in points.items() if math.isfinite(value)}
        values = [Summary.Value(tag=k, simple_value=v) for k, v in finite.items()]
        summary = Summary(value=values)
        event = Event(wall_time=time.time(), step=status.version, summary=summary)
        try:
            self._events.write_event(event)
            if time.monotonic() - self._flushed >= _FLUSH:
                self._flushed = time.monotonic()
                self._events.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Writes what is left."""
        if self._events is not None:
            try:
                self._events.close()
            except OSError as error:
                self._give_up(error)
            self._events = None

    def _give_up(self, error: Exception) -> None:
        self._events = None
        logging.getLogger(__name__).warning("no TensorBoard scalars: %s", error)
