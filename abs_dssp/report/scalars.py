"""TensorBoard scalars of a running cluster."""

import logging
import math
from pathlib import Path
from typing import Any

from abs_dssp.report.status import Status


class Scalars:
    """Writes event files into a folder. A folder that fails costs a warning only."""

    def __init__(self, folder: Path):
        self._writer: Any = None
        self._measured: dict[str, float] = {}
        try:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder), flush_secs=5)
        except OSError as error:
            self._give_up(error)

    def write(self, status: Status) -> None:
        """Adds a point of every curve, at the present version."""
        points = {
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
        if self._writer is None:
            return
        try:
            for name, value in points.items():
                if math.isfinite(value):
                    self._writer.add_scalar(name, value, status.version)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        logging.getLogger(__name__).warning("no TensorBoard scalars: %s", error)
