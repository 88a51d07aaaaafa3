"""The file of a trace: an `.npz` of its columns, with a JSON header.

The columns and events that it consists of are defined here, too; `Trace` has the same.
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from abs_dssp import files, policies
from abs_dssp.policies import Policy

FORMAT = "abs_dssp.trace"
FORMAT_VERSION = 1
FRAGMENTS_VERSION = 2  # of traces of fragments, which readers of 1 would misread
OVERLAP_VERSION = 3  # of those whose workers go on before they take a fragment

COLUMNS: dict[str, np.dtype] = {
    "time": np.dtype(np.float64),
    "worker": np.dtype(np.int32),
    "clock": np.dtype(np.int32),
    "pulled": np.dtype(np.int32),
    "version": np.dtype(np.int32),
    "weight": np.dtype(np.float32),
    "committed": np.dtype(bool),
    "wait": np.dtype(np.float64),
    "duration": np.dtype(np.float64),
    "restarts": np.dtype(np.int32),
}
# Of a trace of fragments, beside these; see `fragments.FragmentedTrace`.
OF_FRAGMENTS = {"fragment": np.dtype(np.int32), "taken": np.dtype(np.int32)}


class Event(NamedTuple):
    """What was done beside taking pushes."""

    rows: int  # pushes before it
    seconds: float
    # "join", "leave", "refuse" (a push that was not finite), or "timer" (a deadline of
    # the policy).
    kind: str
    worker: int  # events.NOBODY for a timer
    commit: bool = False  # whether a timer committed; of a departure it is not told
    restarts: int = 0  # of a departure: cancelled since the worker's latest push


class TraceError(ValueError):
    """A trace that breaks its rules, or a file that holds none."""


def write(
    path: str | os.PathLike[str],
    header: dict[str, Any],
    columns: dict[str, Any],
) -> Path:
    """Writes a file, which appears whole or not at all.

    Args:
      path: of the file; its folder is made.
      header: settings, for JSON.
      columns: arrays by the names of `COLUMNS`.

    Returns:
      The path.
    """
    path = Path(path)
    written = np.frombuffer(json.dumps(header).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, header=written, **columns)
    return path


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The columns and settings of a file, by name.

    Raises:
      TraceError: if the file is missing, damaged, or not a trace of this format.

    Example:
      >>> read("nowhere.npz")
      Traceback (most recent call last):
      abs_dssp.history.trace_format.TraceError: nowhere.npz does not exist.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if "header" not in file.files:
                raise TraceError(f"{path} is not a trace: it has no header.")
            header = json.loads(file["header"].tobytes())
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise TraceError(f"{path} is not a trace: its header says so.")
            divided = "fragments" in header
            version = FORMAT_VERSION
            if divided:
                ahead = header["fragments"].get("overlap", 0)
                version = OVERLAP_VERSION if ahead else FRAGMENTS_VERSION
            if header.get("format_version") != version:
                raise TraceError(
                    f"{path} has trace format {header.get('format_version')}; "
                    f"this version reads {version}."
                )
            names = [*COLUMNS, *(OF_FRAGMENTS if divided else ())]
            missing = [name for name in names if name not in file.files]
            if missing:
                raise TraceError(f"{path} lacks the column {missing[0]}.")
            columns = {name: file[name] for name in names}
    except FileNotFoundError:
        raise TraceError(f"{path} does not exist.") from None
    except TraceError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        # Of a file of another kind NumPy says how to read it unsafely.
        why = f": {error}" if zipfile.is_zipfile(path) else ""
        raise TraceError(f"{path} is damaged or not a trace{why}.") from error
    except Exception as error:  # zlib and others, on damaged bytes
        raise TraceError(f"{path} is damaged: {error}.") from error
    try:
        settings: dict[str, Any] = {
            "num_workers": int(header["num_workers"]),
            "policy": str(header["policy"]),
            "local_steps": int(header["local_steps"]),
            "seed": int(header["seed"]),
            "task": str(header["task"]),
            "versions": dict(header["versions"]),
            "open_restarts": tuple(int(n) for n in header["open_restarts"]),
            "recorded": bool(header.get("recorded", False)),
            "events": tuple(
                Event(int(rows), float(seconds), str(kind), int(worker), *commit)
                for rows, seconds, kind, worker, *commit in header.get("events", [])
            ),
            "split": dict(header.get("split", {})),
        }
        if divided:
            settings["num_fragments"] = int(header["fragments"]["count"])
            settings["names"] = tuple(map(tuple, header["fragments"]["names"]))
            settings["sizes"] = tuple(map(int, header["fragments"]["sizes"]))
            settings["overlap"] = int(header["fragments"].get("overlap", 0))
            settings["takes"] = header["fragments"].get("takes", [])
            settings["beside"] = tuple(
                tuple(Event(*event) for event in events)
                for events in header["fragments"].get("beside", [])
            )
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path} has a damaged header: {error}.") from error
    return columns | settings


def settings_of(
    policy: Policy, num_workers: int, local_steps: int, task: str
) -> dict[str, Any]:
    """What the trace of a run says of it, but for the seed."""
    return {
        "num_workers": num_workers,
        "policy": policies.describe(policy),
        "local_steps": local_steps,
        "task": task,
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return dict(_versions())


@functools.cache  # reading metadata takes longer than a short schedule
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in ("abs_dssp", "jax", "jaxlib", "flax", "optax", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((name, importlib.metadata.version(name)))
    return tuple(found)
