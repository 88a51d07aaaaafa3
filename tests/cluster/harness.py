"""A whole cluster inside the test: server and workers as threads, real transports."""

import functools
from pathlib import Path

import numpy as np

from abs_dssp import checkpoints, flat, optimizers, policies, tasks
from abs_dssp.cluster import run
from abs_dssp.cluster.settings import Settings
from abs_dssp.replay import Result

OPTIMIZER = optimizers.sgd(0.1, momentum=0.5)
LOCAL = optimizers.sgd(0.1)
QUICK = Settings(
    beat=0.2, lease=2.0, resend=0.2, empty=3.0, checkpoint=0.3, evaluate=0.5
)


@functools.cache
def task(num_workers: int = 4) -> tasks.Task:
    """A small problem: logistic regression."""
    return tasks.logistic(num_workers, samples=200, dim=20, batch_size=8)


def train(
    out: Path,
    text: str,
    *,
    num_workers: int = 4,
    transport: str = "shm",
    pushes: int = 200,
    local_steps: int = 1,
    aggregate: str = "mean",
    settings: Settings = QUICK,
    key_file: str | None = None,
    formats: tuple[str, str] = ("float32", "float32"),
    **more,
) -> Result:
    """Trains on `num_workers` threads over a real transport."""
    cluster = run.Cluster(
        run.Options(
            transport=transport, key_file=key_file,
            push_format=formats[0], pull_format=formats[1],
        ),
        alone=num_workers,
    )  # fmt: skip
    result = run.train(
        cluster, task(num_workers), policies.parse(text, num_workers), OPTIMIZER, 7,
        out=out, num_pushes=pushes, local_steps=local_steps, aggregate=aggregate,
        local_optimizer=LOCAL, settings=settings, say=lambda line: None, **more,
    )  # fmt: skip
    assert result is not None
    return result


def saved(out: Path) -> np.ndarray:
    """The parameters of the newest checkpoint."""
    found = checkpoints.Store(out / "checkpoints", None).latest()
    assert found is not None
    return found.leaves[0]


def vector(result: Result) -> np.ndarray:
    """The parameters of a result."""
    return np.asarray(flat.flatten(result.variables))
