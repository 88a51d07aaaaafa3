"""Worker times of real clusters that others published; their files are not ours.

`alibaba-job1` to `-job4`: times of the mini-batches of ten workers, of which every
tenth or so was recorded, scaled so that the longest of a job is 1000.

`bytedance-ar`, `-se` and `-st`: the operations of some steps of three large models. Of
a data-parallel rank we take the seconds that it computes: forward and backward, summed
over micro-batches, of the pipeline stage that computes longest.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from abs_dssp.simulation import delay_files, time_files
from abs_dssp.simulation.delay_base import Delays


class Source(NamedTuple):
    """Who published a job's times."""

    title: str
    where: str  # to have the files from
    licence: str


class Job(NamedTuple):
    """One job's file."""

    path: str  # in the folder of all of them
    sha256: str
    source: Source
    in_seconds: bool


_ALIBABA = Source(
    "Alibaba cluster trace gpu-v2020",
    "github.com/alibaba/clusterdata, cluster-trace-gpu-v2020/mini-batch-time",
    "CC BY 4.0",
)
_BYTEDANCE = Source(
    "StragglerAnalysis (NSDI 2025)",
    "github.com/ByteDance-Seed/StragglerAnalysis",
    "Apache-2.0",
)


def _alibaba(job: int, sha256: str) -> Job:
    return Job(f"alibaba_gpu_2020/job_{job}_norm.csv", sha256, _ALIBABA, False)


def _bytedance(job: str, sha256: str) -> Job:
    return Job(f"straggler_analysis/trace-{job}.parquet", sha256, _BYTEDANCE, True)


JOBS = {
    "alibaba-job1": _alibaba(
        1, "6f555e44ababa68c25659f911eb28fa7658f7ff0b3c08161a57b3bce0bf0d2dd"
    ),
    "alibaba-job2": _alibaba(
        2, "c1945786e809ec0c204aa3f0e30d7dd3111234ef873707cb8304bdd290d433b2"
    ),
    "alibaba-job3": _alibaba(
        3, "47057a62829a1fbea6c90e43aeba53d4a9c2804c38ce31fd618d2426ef2b530b"
    ),
    "alibaba-job4": _alibaba(
        4, "eccd5b23e4480e585082ba4affecbcc240150a9dcfc69b237d4dcb28ad146bc6"
    ),
    "bytedance-ar": _bytedance(
        "AR", "1806e53f3ce6b1857f945d34b07ff2b257b3cea1fe216466e006e040def9cc20"
    ),
    "bytedance-se": _bytedance(
        "SE", "f7da01edebb2227e51d0fb0c28d8b141f61743e5ac1633e0a3b227d48edf1e50"
    ),
    "bytedance-st": _bytedance(
        "ST", "85a995b32699992319e19fa2248cf43d2965bbb6b51440e8a6147d9abc511461"
    ),
}


def find(name: str) -> Job:
    """The job of this name.

    Raises:
      ValueError: if there is none.

    Example:
      >>> from abs_dssp.simulation import public_times
      >>> public_times.find("bytedance-ar").source.licence
      'Apache-2.0'
    """
    if name not in JOBS:
        raise ValueError(f"unknown times {name!r}; known: {', '.join(JOBS)}.")
    return JOBS[name]


def read(name: str, folder: str | os.PathLike[str]) -> list[np.ndarray]:
    """The times of every worker of a job, from its file.

    Args:
      name: of `JOBS`.
      folder: with `alibaba_gpu_2020/` and `straggler_analysis/` in it, which hold the
        files under their published names.

    Returns:
      A float array (M_i,) for every worker, in the order of its steps; seconds, or
      without a unit for Alibaba's.

    Raises:
      ValueError: if there is no such job, its file is missing or another than the one
        that was published, or it is a Parquet file and pyarrow is missing.
    """
    job = find(name)
    path = Path(folder, job.path)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(
            f"{name}: cannot read {str(path)!r} ({error.strerror}); {_from(job)}."
        ) from error
    if digest != job.sha256:
        raise ValueError(
            f"{name}: {str(path)!r} is not the file that was published: its SHA-256 is "
            f"{digest[:8]}... and not {job.sha256[:8]}...; {_from(job)}."
        )
    if job.source is _ALIBABA:
        columns = time_files.Columns("worker", "batch_time_norm", "time")
        return time_files.by_worker(path, columns)
    return _computing(path)


def replayed(
    name: str,
    folder: str | os.PathLike[str],
    mean: float | None = None,
    num_workers: int | None = None,
) -> Delays:
    """The times of a job as a model of worker speed, in order; as `delays.csv`.

    Args:
      name: as for `read`.
      folder: as for `read`.
      mean: seconds that the mean over all times becomes.
      num_workers: number of workers N; those of the job by default.

    Raises:
      ValueError: as for `read` and `delays.csv`.
    """
    return delay_files.of_workers(read(name, folder), mean, num_workers, name)


def _from(job: Job) -> str:
    return f"it is from {job.source.where} ({job.source.licence})"


def _computing(path: Path) -> list[np.ndarray]:
    """Seconds that each data-parallel rank computes in each step."""
    names = ("dp_rank", "stage", "step", "optype", "duration")
    table = time_files.parquet(path, names)
    found = {}
    for name in names[:3]:
        found[name] = np.unique(np.array(table[name]), return_inverse=True)
    (ranks, rank), (stages, stage), (steps, step) = found.values()
    computes = np.array([kind.endswith("-compute") for kind in table["optype"]])
    total = np.zeros((len(ranks), len(steps), len(stages)))
    seconds = np.array(table["duration"])
    np.add.at(
        total, (rank[computes], step[computes], stage[computes]), seconds[computes]
    )
    return list(total.max(axis=2))
