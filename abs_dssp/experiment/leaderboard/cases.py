"""The fixed cases: a task, worker times, a network, and what counts as done.

A published row is comparable with later ones only while these stay as they are.
"""

import dataclasses
import functools
from typing import Any

from abs_dssp import communication, delays, tasks

NUM_WORKERS = 8

# Seconds of a gradient, by name, and whether every seed draws its own.
_TIMES = {
    "equal": ("constant(seconds=1.0)", False),
    "straggler": ("constant(seconds=[1,1,1,1,1,1,1,20])", False),
    "heavy-tailed": ("pareto(minimum=0.2,shape=1.2)", True),
    "slow, then fast": (
        "markov(fast=1.0,slow=10.0,slows=0.02,recovers=0.04)",
        True,
    ),
    "Alibaba, job 4": ('measured("alibaba-job4",mean=1.0)', True),
}
_SLOW = "link(bandwidth=1,latency=0.5,shared=True)"  # half a second of the one link


@dataclasses.dataclass(frozen=True)
class Case:
    """One race."""

    name: str
    problem: str  # for tasks.parse
    times: str  # a name of _TIMES
    measure: str  # of the task; its mean over the last fifth of the commits decides
    target: float
    ratio: float  # R = sigma^2 / eps, from which methods take their batches
    pushes: int  # at most
    unit: float | None = None  # usual step of a commit; None: 1 / L
    slow_link: bool = False

    @property
    def chance(self) -> bool:
        """Whether the schedule depends on the seed."""
        return _TIMES[self.times][1]

    @property
    def times_text(self) -> str:
        """Of the delay model."""
        return _TIMES[self.times][0]

    @property
    def task(self) -> tasks.Task:
        """What is trained."""
        return _task(self.problem)

    @property
    def delays(self) -> delays.Delays:
        """Seconds of a gradient."""
        return delays.parse(self.times_text, NUM_WORKERS)

    @property
    def communication(self) -> communication.Communication:
        """Seconds of a push on its way."""
        if not self.slow_link:
            return communication.none()
        return communication.parse(_SLOW, num_bytes=0.0)


@functools.cache
def _task(text: str) -> tasks.Task:
    return tasks.parse(text, NUM_WORKERS)


_QUADRATIC: dict[str, Any] = {
    "problem": "quadratic(dim=50,condition=30.0,noise=4e-3)",
    "measure": "gradient_norm_squared",
    "target": 1e-3,
    "ratio": 4.0,
    "pushes": 8000,
}
_LOGISTIC: dict[str, Any] = {
    "problem": 'logistic(samples=2000,l2=0.01,batch_size=64,partition="shared")',
    "measure": "gradient_norm_squared",
    "target": 3e-3,
    "ratio": 16.0,
    "pushes": 6000,
}
_DIGITS: dict[str, Any] = {
    "problem": 'digits(model="mlp(hidden=16)",batch_size=16)',
    "measure": "loss",
    "target": 0.15,
    "ratio": 8.0,
    "pushes": 3000,
    "unit": 0.5,
}
_MODEL = (
    'text(model="transformer(width=16,depth=1,heads=2)",context=16,batch_size=8,'
    "limit_test=64)"
)
_TEXT: dict[str, Any] = {
    "problem": _MODEL,
    "measure": "loss",
    "target": 3.1,
    "ratio": 8.0,
    "pushes": 1500,
    "unit": 0.5,
}


def _cases() -> tuple[Case, ...]:
    chosen = [
        ("quadratic", _QUADRATIC, "equal", False),
        ("quadratic", _QUADRATIC, "straggler", True),
        ("quadratic", _QUADRATIC, "heavy-tailed", False),
        ("quadratic", _QUADRATIC, "Alibaba, job 4", False),
        ("logistic", _LOGISTIC, "straggler", False),
        ("logistic", _LOGISTIC, "slow, then fast", False),
        ("logistic", _LOGISTIC, "heavy-tailed", True),
        ("digits", _DIGITS, "equal", True),
        ("digits", _DIGITS, "slow, then fast", False),
        ("digits", _DIGITS, "Alibaba, job 4", True),
        ("text", _TEXT, "straggler", False),
        ("text", _TEXT, "heavy-tailed", True),
    ]
    return tuple(
        Case(
            name=f"{name}, {times}" + (", slow link" if slow else ""),
            times=times,
            slow_link=slow,
            **settings,
        )
        for name, settings, times, slow in chosen
    )


CASES = _cases()
