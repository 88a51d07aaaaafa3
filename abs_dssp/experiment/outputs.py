"""What experiments write: the folders of runs, tables and published reports."""

import csv
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp import extras, files, traces
from abs_dssp.replay import Result
from abs_dssp.report import document, summary
from abs_dssp.report.document import Picture, Section
from abs_dssp.training import evaluation
from abs_dssp.training.evaluation import History


def folder(path: str) -> Path:
    """Makes the output folder, so that a bad path is found before any work."""
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot make {path}: {error.strerror}.") from None
    if not os.access(out, os.W_OK):
        raise ValueError(f"--out: {path} is not writable.")
    return out


def digest(settings: Any, length: int = 16) -> str:
    """Hexadecimal digits that name settings together with the packages' versions.

    A finished run is found again by the digest of its settings.
    """
    known = [settings, traces.package_versions()]
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def slug(text: str) -> str:
    """A file name for a policy's text."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")


def load_json(path: Path) -> dict[str, Any] | None:
    """The object that a file holds; None if it is missing, cut off or no object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def load_list(path: Path) -> list[Any]:
    """The list that a file holds; empty if it is missing, cut off or no list."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return content if isinstance(content, list) else []


def load_settings(run_dir: Path) -> dict[str, Any]:
    """What `settings.json` of a run says.

    Raises:
      ValueError: if there is none.
    """
    path = run_dir / "settings.json"
    if not path.exists():
        raise ValueError(f"{run_dir} is no run of train: it has no {path.name}.")
    settings = load_json(path)
    if settings is None:
        raise ValueError(f"{path} is damaged.")
    return settings


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line of JSON, so that an interrupted run leaves what it had."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def save_run(
    run_dir: Path, result: Result, key: str, target: float | None, **more: Any
) -> None:
    """The trace, the evaluations and the summary of one run; `run.json` comes last.

    Args:
      run_dir: where to.
      result: of the run.
      key: that the run is found by.
      target: accuracy.
      **more: what else `run.json` says, for JSON.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    result.trace.save(run_dir / "trace.npz")
    row, records = summary.summarise(result, target), result.history.records
    record = {"key": key, "stopped": result.stopped, "records": records, "summary": row}
    record |= more
    files.write(run_dir / "run.json", json.dumps(record, indent=1))


def load_run(run_dir: Path, key: str) -> dict[str, Any] | None:
    """What `save_run` wrote, with its trace, if the key is the same; else None."""
    record = load_json(run_dir / "run.json")
    if record is None or record.get("key") != key:
        return None
    try:
        return record | {"trace": traces.Trace.load(run_dir / "trace.npz")}
    except (OSError, ValueError):
        return None


def kept_history(record: Mapping[str, Any]) -> History:
    """The evaluations in a record of a run; it holds no losses of single pushes."""
    return History(tuple(record["records"]), np.empty(0))


def measure(histories: Iterable[History]) -> str:
    """What curves show: `"accuracy"` if any run has it, else `"loss"`."""
    known = any("accuracy" in history.names for history in histories)
    return "accuracy" if known else "loss"


def save_history(path: Path, runs: Mapping[tuple[str, int], History]) -> None:
    """All evaluations of all runs, by policy and seed, one row each."""
    names = list(dict.fromkeys(n for h in runs.values() for n in h.names))
    with files.whole(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "seed", *names])
        for (policy, seed), history in runs.items():
            _, rows = evaluation.to_rows(history, names)
            writer.writerows([policy, seed, *row] for row in rows)


def today() -> str:
    """The date, as reports write it."""
    return datetime.date.today().isoformat()


def machine(device) -> str:
    """Hardware and versions, as reports write them."""
    kind = _processor() if device.platform == "cpu" else device.device_kind
    versions = ", ".join(f"{k} {v}" for k, v in traces.package_versions().items())
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {kind}; "
        f"Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    """The CPU, for which XLA has compiled."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return "CPU"
    known: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        known[name.strip()] = value.strip()
    names = ("model name", "cpu family", "model")
    if not all(name in known for name in names):
        return "CPU"
    return "{} (family {}, model {})".format(*(known[name] for name in names))


def save_report(
    title: str,
    sections: Sequence[Section],
    out: Path,
    publish: str | None = None,
    notice: str = "",
) -> None:
    """A report as `report.md` and `report.html`.

    Args:
      title: of the report.
      sections: of the report.
      out: folder to write to.
      publish: also writes this Markdown file, with copies of the pictures beside it.
      notice: what must be known first.
    """
    document.save_markdown(title, sections, out / "report.md", notice)
    document.save_html(title, sections, out / "report.html", notice)
    if publish is not None:
        _publish(title, sections, Path(publish), notice)


def _publish(title: str, sections: Sequence[Section], path: Path, notice: str) -> None:
    """A report as documentation: one Markdown file and a folder of its pictures."""
    pictures = path.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)

    def copied(part):
        if not isinstance(part, Picture):
            return part
        with extras.needed("a published picture"):
            from PIL import Image
        copy = pictures / f"{part.path.parent.name}_{part.path.name}"
        with Image.open(part.path) as picture:
            # 256 colours make small files. This method keeps those of thin lines, and
            # the means after it those of pale bands.
            method = Image.Quantize.MAXCOVERAGE
            few = picture.convert("RGB").quantize(256, method, kmeans=3)
            few.save(copy, optimize=True)
        return dataclasses.replace(part, path=copy)

    published = [
        dataclasses.replace(section, parts=[*map(copied, section.parts)])
        for section in sections
    ]
    document.save_markdown(title, published, path, notice)
