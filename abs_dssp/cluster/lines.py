"""How a line that a process says looks: as it is, or as one object of JSON."""

import datetime
import json

FORMATS = ("text", "json")


class Warned(str):
    """A line that somebody may have to act on."""

    __slots__ = ()


def as_json(
    line: str, process: int | str, now: float, run_seconds: float | None = None
) -> str:
    """A line as JSON; as it is, if it is such an object already.

    Args:
      line: what is said.
      process: index of the process, or the name of what is none of the run's.
      now: seconds since 1970.
      run_seconds: of the run, where they are known.
    """
    if line.startswith('{"time": '):
        return line
    level = "warning" if isinstance(line, Warned) else "info"
    if line.startswith("error: "):
        level = "error"
    time = datetime.datetime.fromtimestamp(now, datetime.UTC)
    said = {
        "time": time.isoformat(timespec="milliseconds"),
        "process": process,
        "run_seconds": None if run_seconds is None else round(run_seconds, 3),
        "level": level,
        "message": line,
    }
    return json.dumps(said)
