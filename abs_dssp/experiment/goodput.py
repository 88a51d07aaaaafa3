"""Goodput: what of the work enters the parameters while workers die and return.

Virtual time, since no machine here has a thousand workers. All rules meet the same
deaths (`simulation.absences`), and the same durations.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abs_dssp import absences, delays, files, policies
from abs_dssp.communication import none
from abs_dssp.experiment import outputs
from abs_dssp.history import attendance
from abs_dssp.report import style
from abs_dssp.report.document import Section, Table
from abs_dssp.simulation.running import Source
from abs_dssp.traces import Trace

STEP = "shifted_exponential(shift=0.8,mean=0.2)"  # of mean 1 s
_MEAN = 1.0  # seconds; of STEP
_SPARE = 1.1  # pushes at most over those of N workers that never stop
_TOGETHER = 1 << 14  # pushes computed at a time


@dataclasses.dataclass(frozen=True)
class Failures:
    """How workers die: `absences.exponential`."""

    mean_up: float  # seconds
    mean_down: float  # seconds
    detection: float  # seconds

    @property
    def text(self) -> str:
        """For `absences.parse`."""
        return f"exponential({self.mean_up:g},{self.mean_down:g},{self.detection:g})"

    @property
    def there(self) -> float:
        """Share of the time that a worker is alive."""
        return self.mean_up / (self.mean_up + self.mean_down)

    def faults_apart(self, num_workers: int) -> float:
        """Mean seconds between two deaths somewhere."""
        return (self.mean_up + self.mean_down) / num_workers


@dataclasses.dataclass(frozen=True)
class Goodput:
    """One rule with one number of workers under failures; means over seeds.

    Shares are of all N workers' seconds.
    """

    free: float  # goodput of the same rule without failures, over N / mean step time
    relative: float  # goodput over the same rule's without failures
    absolute: float  # goodput over N / mean step time
    waiting: float  # share
    lost: float  # share; in computations that a death ended
    away: float  # share; departed and not returned
    thrown: float  # share; in computations cancelled, or pushes discarded


def rules(num_workers: int) -> list[str]:
    """The rules that are compared, for any number of workers from 2 on.

    Example:
      >>> rules(8)[:3], rules(100)[5]
      (['bsp()', 'ssp(s=3)', 'dssp()'], 'k_sync(k=88)')
    """
    n = num_workers
    spare = -(-n // 8)  # backup workers
    return [
        "bsp()",
        "ssp(s=3)",
        "dssp()",
        "asp()",
        f"k_async(k={max(1, n // 2)})",
        f"k_sync(k={n - spare})",
        f"abs(k0={max(1, n // 2)})",
        f"quorum(k={n - 2 * spare if n > 2 else 1})",
        "deadline()",
        "mindflayer(trials=1,seconds=2.0)",
        f"rennala(batch_size={n})",
        f"ringmaster(threshold={n})",
    ]


def used(trace: Trace) -> int:
    """Pushes that entered a commit; what is pending at the end has not.

    Example:
      >>> from abs_dssp import simulate
      >>> trace = simulate.schedule("k_sync(k=2)", "constant([1, 1, 9])", 5)
      >>> len(trace), used(trace)
      (5, 4)
    """
    commits = np.flatnonzero(trace.committed)
    last = int(commits[-1]) + 1 if commits.size else 0
    return int(trace.accepted[:last].sum())


def measure(
    rule: str,
    num_workers: int,
    failures: Failures,
    seconds: float,
    seeds: Sequence[int],
) -> Goodput:
    """One rule, with and without failures.

    Args:
      rule: text of the policy.
      num_workers: N.
      failures: how workers die.
      seconds: length of each run.
      seeds: of the runs, whose results are averaged.
    """
    calm, fire = [], []
    for seed in seeds:
        calm.append(_run(rule, num_workers, None, seconds, seed))
        fire.append(_run(rule, num_workers, failures.text, seconds, seed))
    most = num_workers / _MEAN * seconds
    both = [np.mean([used(trace) for trace in runs]) / most for runs in (calm, fire)]

    def share(of: Callable[[Trace], float]) -> float:
        return float(np.mean([of(trace) for trace in fire]) / (num_workers * seconds))

    return Goodput(
        free=float(both[0]),
        relative=float(both[1] / both[0]),
        absolute=float(both[1]),
        waiting=share(lambda trace: trace.waiting_seconds),
        lost=share(attendance.lost_seconds),
        away=share(attendance.away_seconds),
        thrown=share(_thrown),
    )


class Kept:
    """What was measured before, by its settings, one JSON object per line.

    Args:
      path: of the file, to which what is measured is added.
    """

    def __init__(self, path: Path):
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        self._known = {record["key"]: Goodput(**record["found"]) for record in records}

    def measured(
        self,
        rule: str,
        num_workers: int,
        failures: Failures,
        seconds: float,
        seeds: Sequence[int],
    ) -> Goodput:
        """What `measure` gives, or gave before."""
        given = (rule, num_workers, failures, seconds, seeds)
        settings = [STEP, rule, num_workers, failures.text, seconds, list(seeds)]
        key = outputs.digest(settings)
        if key not in self._known:
            found = self._known[key] = measure(*given)
            kept = {"key": key, "settings": settings}
            outputs.append(self._path, kept | {"found": dataclasses.asdict(found)})
        return self._known[key]


def _run(rule: str, count: int, gone: str | None, seconds: float, seed: int) -> Trace:
    """A trace of so many seconds."""
    model = delays.parse(STEP, count)
    dying = None if gone is None else absences.parse(gone, count)
    pushes = int(_SPARE * count * seconds / _MEAN) + 64
    settings: tuple[Any, ...] = (pushes, seconds, seed, 1, "", dying)
    source = Source(policies.parse(rule, count), model, none(), *settings)
    while not source.ended:
        source.more(_TOGETHER)
    return source.trace().validate()


def _thrown(trace: Trace) -> float:
    return trace.cancelled_seconds + float(trace.duration[~trace.accepted].sum())


def table(num_workers: int, failures: Failures, found: Mapping[str, Goodput]) -> Table:
    """One row per rule.

    Args:
      num_workers: N.
      failures: how workers died.
      found: by the rule's text.
    """
    rows = [
        [f"`{rule}`", *(f"{100 * value:.1f}" for value in dataclasses.astuple(each))]
        for rule, each in found.items()
    ]
    return Table(
        f"N = {num_workers}: a worker dies {failures.mean_up:g} s after its return and "
        f"is away {failures.mean_down:g} s on average, which is noticed "
        f"{failures.detection:g} s after the death; a fault somewhere every "
        f"{failures.faults_apart(num_workers):.3g} s. Workers are alive "
        f"{100 * failures.there:.1f} % of the time. All numbers in %.",
        [
            "rule",
            "without faults, of N / mean step",
            "goodput, of that",
            "goodput, of N / mean step",
            "waiting",
            "lost",
            "away",
            "thrown away",
        ],
        rows,
    )


def real(result: Mapping[str, Any]) -> Section:
    """What `scripts/chaos` measured on real processes.

    Args:
      result: as its result.json has it.
    """
    settings, calm, fire = (result[name] for name in ("settings", "calm", "fire"))
    server = sum(each["process"] == 0 for each in fire["faults"])
    rows = [
        [
            label,
            f"{run['accepted_per_second']:.3f}",
            str(len(run["faults"])),
            f"{run['mean_seconds_away']:.1f}",
            f"{100 * run['away_share']:.1f}",
            "yes" if run["replay_equal"] else "no",
        ]
        for label, run in (("without faults", calm), ("with faults", fire))
    ]
    caption = (
        f"`{settings['policy']}`, {settings['processes']} processes with a worker "
        f"each, {settings['seconds']:g} s per run; every {settings['every']:g} s one "
        f"was killed, {server} times process 0 with the server. Steps: "
        f"`{settings['delays']}`, on `{settings['task']}`. Away: from when the server "
        "noticed it to the return."
    )
    header = ["run", "pushes that counted per s", "faults", "s away, mean"]
    header += ["away, % of worker seconds", "replay equal in every bit"]
    told = f"With faults {100 * result['ratio']:.1f} % of the rate without."
    notes = [result[name] for name in ("note",) if name in result]
    return Section("Real processes", [Table(caption, header, rows), told, *notes])


def save_picture(
    found: Mapping[int, Mapping[str, Goodput]],
    failures: Failures,
    path: str | os.PathLike[str],
) -> Path:
    """Goodput over that without faults: a panel for each number of workers.

    Args:
      found: by the number of workers, then by the rule's text.
      failures: how workers died.
      path: of the PNG.
    """
    path = Path(path)
    with style.figure() as canvas:
        most = max(len(each) for each in found.values())
        size = (2.4 * len(found) + 0.8, 0.22 * most + 0.9)
        picture, every = canvas.subplots(1, len(found), figsize=size, squeeze=False)
        for axes, (count, rows) in zip(every[0], found.items(), strict=True):
            place = np.arange(len(rows))[::-1]
            values = [100 * each.relative for each in rows.values()]
            axes.barh(place, values, color=style.COLORS["pale blue"])
            for at, value in zip(place, values, strict=True):
                axes.text(2, at, f"{value:.0f}", va="center", fontsize=7)
            axes.axvline(
                100 * failures.there, color=style.COLORS["vermilion"], linewidth=1
            )
            axes.set_yticks(place, [rule.partition("(")[0] for rule in rows])
            axes.set_xlim(0, 105)
            axes.set_title(f"{count} workers")
            axes.set_xlabel("goodput (% of that without faults)")
        with files.whole(path) as partial:
            picture.savefig(partial, format="png")
    return path
