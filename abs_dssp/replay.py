"""Replay: a trace and a seed determine the parameters."""

from abs_dssp.training.replayer import Progress, Result, replay, trajectory

__all__ = ["Progress", "Result", "replay", "trajectory"]
