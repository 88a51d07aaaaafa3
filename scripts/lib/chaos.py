"""Real processes under fire: what a fault every so often costs, and whether it replays.

Trains twice for the same time, first in peace; the second time one process is killed
by SIGKILL at every multiple of --every: a worker's by chance, and at every
--server_every-th fault process 0, which is the server and a worker. The launcher starts
it again. Writes result.json to --out and prints it: accepted pushes per second of both
runs, and their ratio. Ends with 1 if a replay is not equal in every bit.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from abs_dssp.traces import Trace

_ROOT = Path(__file__).parents[2]
_BEGUN = 600.0  # seconds that processes have to begin


def main(words: list[str] | None = None) -> int:
    """Runs both, compares them; the exit status."""
    options = _options().parse_args(words)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    calm = _measured(out / "calm", options, faults=False)
    fire = _measured(out / "fire", options, faults=True)
    result = {
        "settings": vars(options),
        "calm": calm,
        "fire": fire,
        "ratio": fire["accepted_per_second"] / calm["accepted_per_second"],
    }
    text = json.dumps(result, indent=1)
    (out / "result.json").write_text(text + "\n")
    print(text)
    return 0 if calm["replay_equal"] and fire["replay_equal"] else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", required=True, help="folder for both runs and result.json")
    add("--seconds", type=float, default=600.0, help="length of each run")
    add("--every", type=float, default=30.0, help="seconds between faults")
    add("--server_every", type=int, default=10, help="faults; 0: never the server")
    add("--processes", type=int, default=8, help="one worker each")
    add("--policy", default="quorum(k=6)")
    add("--task", default="quadratic(dim=100)")
    add("--delays", default="shifted_exponential(shift=0.8,mean=0.2)")
    add("--seed", type=int, default=0, help="of the run, and of who is killed")
    return parser


def _measured(folder: Path, options: argparse.Namespace, faults: bool):
    """One run in numbers."""
    command = [
        *(sys.executable, _ROOT / "experiments" / "train.py", "--cluster=local"),
        *(f"--processes={options.processes}", "--max_restarts=100000"),
        *(f"--task={options.task}", f"--delays={options.delays}"),
        *(f"--policy={options.policy}", f"--seed={options.seed}"),
        *(f"--until={options.seconds}", "--notensorboard", f"--out={folder}"),
        "--times=lease=5,beat=0.5,checkpoint=10,evaluate=30",
    ]
    with open(f"{folder}.log", "wb") as log:
        running = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
        try:
            wall, faulty = _watch(running, folder, options, faults)
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait(60)
    # 3: over, but without workers that were killed just before the end.
    if running.returncode not in (0, 3):
        raise SystemExit(
            f"chaos: the run ended with {running.returncode}; look at {folder}.log."
        )
    trace = Trace.load(folder / "trace.npz")
    # The run's own clock stands still while it has no server: hence that of the wall,
    # from the first entry of the log, which may be a deadline at time 0.
    first = min([float(trace.time[0]), *(event.seconds for event in trace.events)])
    seconds = first + wall
    return _numbers(trace, seconds) | {
        "faults": faulty,
        "replay_equal": _replays(folder),
    }


def _watch(running, folder: Path, options: argparse.Namespace, faults: bool):
    """Waits for the end of a run, and kills meanwhile.

    Returns:
      Seconds from the first entry of the log to the last, and of every fault its time
      since then and the index of the process.
    """
    log, choose = folder / "pushes.log", random.Random(options.seed)
    begun = grown = _first_push(running, log)
    size, done, number = 0, [], 1
    while running.poll() is None:
        now = time.monotonic()
        if log.exists() and log.stat().st_size > size:
            size, grown = log.stat().st_size, now
        if now - begun > 3 * options.seconds + _BEGUN:
            raise SystemExit(f"chaos: the run does not end; look at {folder}.log.")
        if faults and now >= begun + number * options.every:
            server = options.server_every and number % options.server_every == 0
            index = _kill(running, choose, bool(server))
            if index is not None:
                done.append({"seconds": now - begun, "process": index})
            number += 1
        time.sleep(0.05)
    return grown - begun, done


def _first_push(running, path: Path) -> float:
    """Waits until the log has more than its header; when that was."""
    end, header = time.monotonic() + _BEGUN, 0
    while time.monotonic() < end and running.poll() is None:
        size = path.stat().st_size if path.exists() else 0
        if header and size > header:
            return time.monotonic()
        header = header or size
        time.sleep(0.05)
    raise SystemExit(f"chaos: no push within {_BEGUN:g} s; look at {path.parent}.log.")


def _kill(running, choose: random.Random, server: bool) -> int | None:
    """Kills process 0, or one of the others; which, if there is one to kill."""
    processes = _indexed(running)
    able = [index for index in sorted(processes) if (index == 0) == server]
    if not able:
        return None
    index = choose.choice(able)
    try:
        processes[index].kill()
    except psutil.NoSuchProcess:
        return None
    return index


def _indexed(running) -> dict[int, psutil.Process]:
    """The processes of the run by their index."""
    found: dict[int, psutil.Process] = {}
    try:
        children = psutil.Process(running.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return found
    for child in children:
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        for word in words:
            if word.startswith("--process_id="):
                found[int(word.partition("=")[2])] = child
    return found


def _numbers(trace: Trace, seconds: float) -> dict[str, Any]:
    """What the trace tells of a run that took so many seconds."""
    leaves = [event for event in trace.events if event.kind == "leave"]
    # Who leaves at the end has not died.
    away = [_until_back(trace, e) for e in leaves if e.seconds < trace.seconds]
    return {
        "seconds": seconds,
        "seconds_of_its_clock": trace.seconds,
        "pushes": len(trace),
        "accepted_per_second": int(trace.accepted.sum()) / seconds,
        "commits": trace.commits,
        "departures": len(away),
        "mean_seconds_away": sum(away) / len(away) if away else 0.0,
        "away_share": sum(away) / trace.seconds / trace.num_workers,
    }


def _until_back(trace: Trace, left) -> float:
    """Seconds from a departure to the return, or to the end."""
    back = (
        event.seconds
        for event in trace.events
        if event.kind == "join"
        and event.worker == left.worker
        and event.seconds >= left.seconds
    )
    return next(back, trace.seconds) - left.seconds


def _replays(folder: Path) -> bool:
    """Whether a replay of the run's log gives its parameters, bit for bit."""
    script = _ROOT / "experiments" / "replay.py"
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True
    )
    return done.returncode == 0 and "equal in every bit" in done.stdout


if __name__ == "__main__":
    sys.exit(main())
