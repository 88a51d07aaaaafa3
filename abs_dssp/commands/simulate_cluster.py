"""Looks for a seed that breaks the cluster, and shows its shortest history.

    abs-dssp simulate-cluster --seed=7 --faults=none,kill=0.01
    abs-dssp simulate-cluster --seed=1 --minutes=30 --jobs=2
    abs-dssp simulate-cluster --seeds=100 --faults=lying_sync=0.1,power=0.001
    abs-dssp simulate-cluster --seed=1 --minutes=30 --kind=fragments

A run is of one server that has all parameters (`whole`), of fragments with a server
each (`fragments`), or of workers with two devices each (`divided`); `all` takes turns.

A history gets shorter as faults are left out of it. Without lying_sync, a push that
was acknowledged is never lost, if the log is synchronised. With it, a loss of power may
take such pushes, and nothing else is promised less: the run goes on with what is left
of its history, ends, and has the parameters of its log in every bit.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster.simulate import faults, seeds, shrink

_BATCH = 12  # seeds per task of a process
_ATTEMPTS = 150  # runs to make a history shorter


def main(argv: Sequence[str]) -> int:
    """Runs seeds; 1 if one of them broke."""
    options = _options(argv)
    try:
        chances = faults.parse(options.faults)
    except ValueError as error:
        sys.exit(f"error: {error}")
    begun = time.monotonic()
    counts: Counter[str] = Counter()
    done = starts = events = 0
    broken = None
    for kind, outcomes in _batches(options, begun):
        for outcome in outcomes:
            done += 1
            starts += outcome.starts
            events += outcome.events
            counts.update(outcome.faults)
            if outcome.violation and broken is None:
                broken, breaks = outcome, kind
        seconds = time.monotonic() - begun
        print(
            f"{seconds:6.0f} s: {done} seeds, {events} events, {starts} starts of "
            f"processes, {counts.total()} faults",
            flush=True,
        )
        if broken is not None:
            break
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if broken is None:
        if options.seeds == 1 and options.minutes is None:
            print(f"seed {options.seed}: digest of the history {outcome.digest:08x}")
        return 0
    which = f"--seed={broken.seed} --kind={breaks}"
    print(f"{which} breaks: {broken.violation}", flush=True)
    _show(broken, chances, seeds.scenario(breaks))
    return 1


def _show(broken: Any, chances: faults.Faults, scenario: Any) -> None:
    """The history of a seed that breaks, with as few faults as possible."""

    def breaks(only: frozenset[int]) -> bool:
        return bool(scenario(broken.seed, chances, only).run().violation)

    numbers = [number for number, _ in broken.fired]
    only = shrink.shrink(numbers, breaks, _ATTEMPTS)
    print(f"its history with {len(only)} of {len(numbers)} faults:")
    outcome = scenario(broken.seed, chances, only, print).run()
    print(f"violation: {outcome.violation or 'none: the faults depend on each other'}")
    print("faults: " + ", ".join(f"{name} ({n})" for n, name in outcome.fired))


def _batches(
    options: argparse.Namespace, begun: float
) -> Iterator[tuple[str, list[Any]]]:
    """Kind and outcomes of a few seeds at a time, until seeds or minutes are over."""
    numbers: Any = itertools.count(options.seed)
    if options.minutes is None:
        numbers = range(options.seed, options.seed + options.seeds)
    numbers = iter(numbers)
    end = None if options.minutes is None else begun + 60 * options.minutes

    kinds = seeds.KINDS if options.kind == "all" else (options.kind,)
    turns = itertools.cycle(kinds)

    def chunks() -> Iterator[tuple[list[int], str, str]]:
        while chunk := list(itertools.islice(numbers, _BATCH)):
            if end is not None and time.monotonic() > end:
                return
            yield chunk, options.faults, next(turns)

    if options.jobs == 1:
        for chunk in chunks():
            yield chunk[-1], seeds.run(*chunk)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, context) as pool:
        waiting = {}  # kinds
        more = chunks()
        for chunk in itertools.islice(more, options.jobs):
            waiting[pool.submit(seeds.run, *chunk)] = chunk[-1]
        while waiting:
            ready, _ = concurrent.futures.wait(
                waiting, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ready:
                yield waiting.pop(future), future.result()
                for chunk in itertools.islice(more, 1):
                    waiting[pool.submit(seeds.run, *chunk)] = chunk[-1]


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=sys.argv[0],
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="The first one.")
    parser.add_argument("--seeds", type=int, default=1, help="How many.")
    parser.add_argument("--minutes", type=float, help="Seeds until then, instead.")
    parser.add_argument(
        "--kind",
        choices=(*seeds.KINDS, "all"),
        default=seeds.KINDS[0],
        help="Of the runs.",
    )
    parser.add_argument("--jobs", type=int, default=1, help="Processes.")
    parser.add_argument(
        "--faults",
        default="",
        help="Chances by name, such as kill=0.01,lose=0; none: no others.",
    )
    options = parser.parse_args(argv)
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            sys.exit(f"error: --{name} must be at least 1.")
    return options


def run() -> None:
    """Runs the command."""
    from abs_dssp import interrupts  # in here, since it acts when it is imported

    interrupts.raise_again()
    try:
        sys.exit(main(sys.argv[1:]))
    except extras.MissingExtraError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
