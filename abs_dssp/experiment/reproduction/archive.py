"""Finished runs as one compressed file, so that they travel with a report."""

import json
import lzma
from pathlib import Path
from typing import Any

from abs_dssp import files
from abs_dssp.experiment import outputs

_SHARED = ("records", "between", "stopped")  # equal for equal trainings


def pack(runs: Path, path: Path) -> int:
    """Writes all finished runs of a folder to a file; gives their number.

    Args:
      runs: folder of `KEY.json`, as `Runner` keeps them.
      path: of the file, JSON lines under xz.
    """
    lines, seen = [], set()
    for file in sorted(runs.glob("*.json")):
        record = outputs.load_json(file)
        if record is None or file.name.endswith(".trained.json"):
            continue
        line: dict[str, Any] = {"key": file.stem} | record
        if record["trained"] in seen:
            line = {k: v for k, v in line.items() if k not in _SHARED}
        seen.add(record["trained"])
        lines.append(json.dumps(line, separators=(",", ":")))
    with files.whole(path) as partial:
        partial.write_bytes(lzma.compress("\n".join(lines).encode()))
    return len(lines)


def unpack(path: Path, runs: Path) -> int:
    """Puts the runs of such a file where `Runner` finds them; gives their number.

    Runs that are there already stay as they are.

    Raises:
      ValueError: for a file that `pack` did not write.
    """
    runs.mkdir(parents=True, exist_ok=True)
    shared: dict[str, dict[str, Any]] = {}
    try:
        lines = lzma.decompress(path.read_bytes()).decode().splitlines()
        for text in lines:
            record = json.loads(text)
            key, trained = record.pop("key"), record["trained"]
            if "records" in record:
                shared[trained] = {name: record[name] for name in _SHARED}
            whole = json.dumps(record | shared[trained])
            names = [key]
            if trained != key:  # others with this trace need no training either
                names.append(f"{trained}.trained")
            for name in names:
                if not (file := runs / f"{name}.json").exists():
                    files.write(file, whole)
    except OSError as error:
        raise ValueError(f"--kept: cannot read {path}: {error.strerror}.") from None
    except (lzma.LZMAError, ValueError, KeyError):
        raise ValueError(f"--kept: {path} is no file of kept runs.") from None
    return len(lines)
