"""Replay: a trace and a seed determine the parameters."""

from abs_dssp.training.driver import Progress, Result
from abs_dssp.training.replayer import replay, trajectory
from abs_dssp.training.sweep import Sweep, sweep

__all__ = ["Progress", "Result", "Sweep", "replay", "sweep", "trajectory"]
