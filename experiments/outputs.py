"""What experiments write: runs that are kept, tables, and progress."""

import csv
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abs_dssp import traces
from abs_dssp.replay import Result
from abs_dssp.report import document, summary
from abs_dssp.report.document import Picture, Section
from abs_dssp.training import evaluation as history_lib


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


def key(settings: Mapping[str, Any]) -> str:
    """A digest of settings: a finished run is found again by it."""
    text = json.dumps(
        [settings, traces.package_versions()], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def slug(text: str) -> str:
    """A file name for a policy's text."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")


def write(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def load_settings(place: Path) -> dict[str, Any]:
    """What `settings.json` of a run says.

    Raises:
      ValueError: if there is none.
    """
    path = place / "settings.json"
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(
            f"{place} is no run of train.py: {path.name}: {error.strerror}."
        ) from None
    except ValueError:
        raise ValueError(f"{path} is damaged.") from None


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line of JSON, so that an interrupted run leaves what it had."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def save_run(place: Path, result: Result, identity: str, target: float | None) -> None:
    """The trace, the history and the summary of one run; `run.json` comes last."""
    place.mkdir(parents=True, exist_ok=True)
    result.trace.save(place / "trace.npz")
    record = {
        "key": identity,
        "stopped": result.stopped,
        "records": result.history.records,
        "summary": summary.summarise(result, target),
    }
    write(place / "run.json", json.dumps(record, indent=1))


def load_run(place: Path, identity: str) -> dict[str, Any] | None:
    """A finished run of the same settings, with its trace; else None."""
    try:
        record = json.loads((place / "run.json").read_text())
        if record["key"] != identity:
            return None
        return record | {"trace": traces.Trace.load(place / "trace.npz")}
    except (OSError, ValueError, KeyError):
        return None


def save_history(
    path: Path, runs: Mapping[tuple[str, int], history_lib.History]
) -> None:
    """All evaluations of all runs, one row each."""
    names = list(dict.fromkeys(n for h in runs.values() for n in h.names))
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["policy", "seed", *names])
        for (policy, seed), history in runs.items():
            _, rows = history_lib.to_rows(history, names)
            writer.writerows([policy, seed, *row] for row in rows)
    partial.replace(path)


class Reporter:
    """Progress of one run: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, label: str):
        self.label = label
        self._begun = self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(
                desc=label, unit=" pushes", leave=False, dynamic_ncols=True
            )

    def __call__(self, done: int, total: int, record: Mapping[str, float]) -> None:
        shown = f"accuracy {record['accuracy']:.4f}" if "accuracy" in record else ""
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            rate = done / (self._told - self._begun)
            left = (total - done) / rate if rate > 0 else float("nan")
            print(
                f"{self.label}: {done}/{total} pushes, {rate:.0f}/s, "
                f"{left:.0f} s left {shown}",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def close(self, line: str) -> None:
        """Ends the bar and says how the run went."""
        if self._bar is not None:
            self._bar.close()
        print(line, file=sys.stderr, flush=True)


def today() -> str:
    """The date, as reports write it."""
    return datetime.date.today().isoformat()


def machine(device) -> str:
    """Hardware and versions, as reports write them."""
    kind = "CPU" if device.platform == "cpu" else device.device_kind
    versions = ", ".join(f"{k} {v}" for k, v in traces.package_versions().items())
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {kind}; "
        f"Python {platform.python_version()}, {versions}"
    )


def publish(title: str, sections: Sequence[Section], path: Path) -> None:
    """A report as documentation: one Markdown file and a folder of its pictures."""
    from PIL import Image

    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)

    def moved(part):
        if not isinstance(part, Picture):
            return part
        copy = folder / f"{part.path.parent.name}_{part.path.name}"
        with Image.open(part.path) as picture:
            # Few colours make small files; this method keeps those of thin lines.
            few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
            few.save(copy, optimize=True)
        return dataclasses.replace(part, path=copy)

    copied = [
        dataclasses.replace(section, parts=[moved(part) for part in section.parts])
        for section in sections
    ]
    document.save_markdown(title, copied, path)
