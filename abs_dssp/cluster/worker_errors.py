"""What ends a worker's part in a run."""

from abs_dssp import checks


class WorkerError(ValueError):
    """The server refused this worker, or cannot be found."""


class EndedError(WorkerError, checks.TransientError):
    """This process, or the run, was ended before the run's end; it may go on later."""

    def __init__(self, who: str, reason: str):
        super().__init__(f"{who}: {reason}; the same command takes part again.")
        self.reason = reason


class OverError(Exception):
    """The run is over, for the reason that the message gives."""


class LostError(WorkerError, checks.TransientError):
    """The server cannot be found."""
