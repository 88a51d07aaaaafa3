"""Everything that is tried of one rule, and what is reported of it."""

import dataclasses
import math
import time
from typing import NamedTuple

from abs_dssp import policies
from abs_dssp.policies import Policy, Properties
from abs_dssp.policies.base import STARVES
from abs_dssp.verify import counterexample, progress, schedules
from abs_dssp.verify._properties import properties as stated_properties
from abs_dssp.verify.abstraction import NEAR
from abs_dssp.verify.counterexample import Violation
from abs_dssp.verify.exploration import PROBED, Exploration, Extent
from abs_dssp.verify.schedules import Runs
from abs_dssp.verify.step import ODD, PLAIN, Alphabet, Steps

MOST_WORKERS = 10  # whose goals fit into one number
# Of `max_states`, for the second alphabet of rules that read times or losses.
_SHARE = 4


# Of `Properties`: no promises, or part of one.
_UNCHECKED = {"aggregate", "reads_loss", "staleness_per_join", "commit_per_join"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was tried, and how it ended."""

    policy: str  # as policies.parse reads it
    num_workers: int
    properties: Properties
    deaths: int
    joins: int
    searches: tuple[Extent, ...]  # of all orders; by alphabet
    runs: Runs | None  # of thin schedules; None after a violation, or without any
    violation: Violation | None
    seconds: float

    @property
    def states(self) -> int:
        """Distinct states of all searches, after reduction."""
        return sum(search.states for search in self.searches)

    @property
    def transitions(self) -> int:
        """Transitions of all searches and schedules."""
        found = sum(search.transitions for search in self.searches)
        return found + (self.runs.transitions if self.runs else 0)

    @property
    def depth(self) -> int:
        """Of the first search, the events on the longest of its shortest ways."""
        return self.searches[0].depth

    @property
    def complete(self) -> bool:
        """Whether the first search saw every state that its reductions leave."""
        return self.violation is None and self.searches[0].complete

    @property
    def undecided(self) -> int:
        """States from which progress was neither shown nor refuted."""
        return sum(search.undecided for search in self.searches)

    @property
    def verdict(self) -> str:
        """In one line, no more than was tried."""
        if self.violation is not None:
            steps = len(self.violation.actions)
            found = "" if self.violation.shortest else ", perhaps not the fewest"
            return f"VIOLATED ({self.violation.kind}, {steps} events{found})"
        if self.undecided:
            return f"holds where tried; progress undecided in {self.undecided} states"
        return "holds where tried"

    @property
    def text(self) -> str:
        """The verdict, and exactly what was tried, in some lines."""
        lines = [
            f"{self.policy:<54} N={self.num_workers} {self.seconds:5.1f} s  "
            f"{self.verdict}"
        ]
        lines.append(f"checked of every order: {self._promises}")
        for extent in self.searches:
            lines += self._search_lines(extent)
        if self.runs is not None:
            lines.append(
                f"unreduced: {self.runs.schedules} schedules of {self.runs.depth} "
                "events, each event tried at each of their states; at most "
                f"{self.runs.longest} rounds in a row without a commit, somebody "
                f"waiting through at most {self.runs.waited}"
            )
        return "\n    ".join(lines)

    @property
    def _promises(self) -> str:
        """What the rule guarantees, beside what every rule must keep."""
        unstated = Properties()
        told = [
            f"{name}={value!r}"
            for name, value in self.properties._asdict().items()
            if value != getattr(unstated, name) and name not in _UNCHECKED
        ]
        kept = "that somebody can always go on, and what every rule must keep"
        return f"{', '.join(told) or 'no property of its own'}; {kept}"

    def _search_lines(self, extent: Extent) -> list[str]:
        kind = "reduced" if extent.reduced else "unreduced"
        if self.violation is not None:
            ended = "stopped"
        elif extent.complete:
            ended = "complete" + (" if the reductions are right" * extent.reduced)
        else:
            ended = f"bounded, {extent.frontier} states at the frontier not expanded"
        lines = [
            f"{kind}: {extent.states} states, depth {extent.depth}, {ended}; orders of "
            f"pushes{' and deadlines' * extent.wakes} with up to {self.deaths} deaths "
            f"and {self.joins} joins"
            f"{_adversary(extent)}"
        ]
        if extent.reduced:
            apart = ", ".join(extent.kept) or "nothing"
            lines.append(
                f"  {extent.compared} comparisons of states shifted by 1 to {NEAR} "
                f"and far away; the rule tells apart: {apart}"
            )
        if self.violation is None:
            shown = extent.states - extent.undecided
            line = f"  progress shown from {shown} states"
            if extent.undecided:
                line += (
                    f", undecided from {extent.undecided}, the first of them after "
                    f"{extent.first_undecided} events"
                )
            lines.append(line)
        return lines


def _adversary(extent: Extent) -> str:
    """What the adversary chose from."""
    parts = []
    if extent.gaps:
        gaps = " and ".join(f"{gap:g}" for gap in extent.gaps)
        parts.append(f", for gaps of {gaps} s only")
    if extent.losses:
        losses = " and ".join(
            "none yet" if math.isnan(loss) else f"{loss:g}" for loss in extent.losses
        )
        parts.append(f", for losses {losses} only")
    return "".join(parts)


def check(
    policy: Policy | str,
    num_workers: int,
    *,
    depth: int = 40,
    deaths: int = 1,
    joins: int = 1,
    max_states: int = 50_000,
    properties: Properties | None = None,
    reduced: bool = True,
    schedule_depth: int = 40,
    probed: int = PROBED,
) -> Report:
    """Tries every order of pushes, deaths and joins, shortest first, then schedules.

    Args:
      policy: a policy, or its text.
      num_workers: N, 1..4 in reasonable time.
      depth: most events in a row; the search ends before where no new state is found.
      deaths: workers that may die.
      joins: dead workers that may join.
      max_states: where the search stops between two levels.
      properties: what to check beside what every policy must keep; by default what
        the policy states.
      reduced: whether states that a rule does not tell apart are taken for one; without
        it there are far more of them, and seldom a fixed point.
      schedule_depth: events in each of the thin schedules, which are followed without
        any reduction; 0 for none of them.
      probed: states, spread over those found, that are compared with themselves under
        every small shift; each state is under one at least.

    Returns:
      A `Report`. Its violation, if any, has the fewest events possible, unless it is
      about progress, or was found by a schedule (`Violation.shortest`).

    Raises:
      ValueError: for an argument out of range or a text that is no policy.
    """
    for name, value, least in (
        ("num_workers", num_workers, 1),
        ("depth", depth, 1),
        ("deaths", deaths, 0),
        ("joins", joins, 0),
        ("max_states", max_states, 1),
        ("schedule_depth", schedule_depth, 0),
        ("probed", probed, 0),
    ):
        if value < least:
            raise ValueError(f"verify: {name} must be at least {least}, got {value}.")
    if num_workers > MOST_WORKERS:
        raise ValueError(
            f"verify: num_workers must be at most {MOST_WORKERS}, got {num_workers}."
        )
    began = time.perf_counter()
    if isinstance(policy, str):
        policy = policies.parse(policy, num_workers)
    text = policies.describe(policy)
    joins = joins if deaths else 0
    if properties is None:
        properties = stated_properties(policy, num_workers, joins=joins)
    _check_properties(properties, policy, text)
    steps = Steps(policy, num_workers, properties, deaths, joins)
    limits = _Limits(depth, max_states, probed, reduced)
    searches = [_explore(steps, limits, PLAIN)]
    if not searches[0].kind and (steps.timed or steps.loss):
        fewer = limits._replace(max_states=max(max_states // _SHARE, 1))
        searches.append(_explore(steps, fewer, ODD))
    kind, path, runs = searches[-1].kind, searches[-1].path, None
    shortest = kind not in progress.KINDS
    if not kind and schedule_depth:
        runs = schedules.run(steps, schedule_depth)
        kind, path, shortest = runs.kind, runs.path, False
    violation = None
    if kind:
        violation = counterexample.build(
            policy, text, num_workers, kind, properties, path, shortest
        )
    extents = tuple(search.extent for search in searches)
    seconds = time.perf_counter() - began
    return Report(
        text, num_workers, properties, deaths, joins, extents, runs, violation, seconds
    )


def _check_properties(properties: Properties, policy: Policy, text: str) -> None:
    """Refuses what a rule cannot state."""
    start = policy.init()
    for name in {*properties.never_falls, *properties.never_rises} | (
        {properties.commit_field} - {""}
    ):
        if not hasattr(start, name):
            raise ValueError(
                f"verify: the properties of {text} name {name!r}, which is no field of "
                "its state."
            )
    if properties.starves not in STARVES:
        known = ", ".join(map(repr, STARVES))
        raise ValueError(
            f"verify: the properties of {text} must state that it starves one of "
            f"{known}, got {properties.starves!r}."
        )


class _Limits(NamedTuple):
    depth: int
    max_states: int
    probed: int
    reduced: bool


def _explore(steps: Steps, limits: _Limits, alphabet: Alphabet) -> Exploration:
    """A search with as many reductions as the rule allows."""
    depth, most, probed, reduced = limits
    chosen = steps.reduction.all() if reduced else steps.reduction.none()
    while True:
        found = Exploration(steps, chosen, depth, most, alphabet, probed)
        wrong = found.run()
        if wrong is None:
            return found
        chosen = wrong


def reachable(
    policy: Policy | str, num_workers: int, *, depth: int, deaths: int, joins: int
) -> list:
    """All states within `depth` events, each a `step.State`, without any reduction.

    For comparison with other programs; far more states than `check` sees.
    """
    if isinstance(policy, str):
        policy = policies.parse(policy, num_workers)
    steps = Steps(policy, num_workers, Properties(), deaths, joins)
    found = Exploration(steps, steps.reduction.none(), depth, 2**30)
    found.run()
    return [steps.layout.on_host(row) for row in found.rows]
