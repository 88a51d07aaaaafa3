"""Breadth-first search over all orders of events, and what it reports."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from abs_dssp import policies
from abs_dssp.policies import Policy, Properties
from abs_dssp.verify import counterexample, invariants
from abs_dssp.verify._properties import properties as stated_properties
from abs_dssp.verify.abstraction import Abstraction
from abs_dssp.verify.counterexample import Violation
from abs_dssp.verify.step import CHUNK, THOROUGH, Action, Steps


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a search."""

    policy: str  # as policies.parse reads it
    num_workers: int
    properties: Properties
    states: int  # distinct, after reduction
    transitions: int
    depth: int  # events in the longest of the shortest ways to a state
    complete: bool  # every reachable state was seen: the fixed point
    violation: Violation | None
    seconds: float

    @property
    def line(self) -> str:
        """The report in one line."""
        if self.violation is not None:
            steps = len(self.violation.actions)
            verdict = f"VIOLATED ({self.violation.kind}, {steps} events)"
        else:
            verdict = "holds"
        extent = "complete" if self.complete else "bounded"
        extent = "stopped" if self.violation is not None else extent
        return (
            f"{self.policy:<54} N={self.num_workers} states={self.states:<7} "
            f"depth={self.depth:<3} {extent:<8} {self.seconds:5.1f} s  {verdict}"
        )


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
) -> Report:
    """Tries every order of pushes, deaths and joins, shortest first.

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

    Returns:
      A `Report`; its violation, if any, has the fewest events possible.

    Raises:
      ValueError: for an argument out of range or a text that is no policy.
    """
    for name, value, least in (
        ("num_workers", num_workers, 1),
        ("depth", depth, 1),
        ("deaths", deaths, 0),
        ("joins", joins, 0),
        ("max_states", max_states, 1),
    ):
        if value < least:
            raise ValueError(f"verify: {name} must be at least {least}, got {value}.")
    began = time.perf_counter()
    if isinstance(policy, str):
        policy = policies.parse(policy, num_workers)
    text = policies.describe(policy)
    if properties is None:
        joined = joins if deaths else 0
        properties = stated_properties(policy, num_workers, joins=joined)
    start = policy.init()
    for name in {*properties.never_falls, *properties.never_rises} | (
        {properties.commit_field} - {""}
    ):
        if not hasattr(start, name):
            raise ValueError(
                f"verify: the properties of {text} name {name!r}, which is no field of "
                "its state."
            )
    steps = Steps(policy, num_workers, properties, deaths, joins)
    chosen = steps.reduction.all() if reduced else steps.reduction.none()
    while True:
        found = _Search(steps, chosen, depth, max_states)
        wrong = found.run()
        if wrong is None and found.path is not None and not found.confirmed():
            wrong = steps.reduction.none()
        if wrong is None:
            break
        chosen = wrong
    violation = None
    if found.path is not None:
        violation = counterexample.build(
            policy, text, num_workers, found.kind, properties, found.path
        )
    return Report(
        text,
        num_workers,
        properties,
        len(found.rows),
        found.transitions,
        found.level,
        found.complete,
        violation,
        time.perf_counter() - began,
    )


def reachable(
    policy: Policy | str, num_workers: int, *, depth: int, deaths: int, joins: int
) -> list:
    """All states within `depth` events, without any reduction, as `step.State`s.

    For comparison with other programs; far more states than `check` sees.
    """
    if isinstance(policy, str):
        policy = policies.parse(policy, num_workers)
    steps = Steps(policy, num_workers, Properties(), deaths, joins)
    found = _Search(steps, steps.reduction.none(), depth, 2**30)
    found.run()
    return [steps.layout.on_host(row) for row in found.rows]


class _Search:
    """One search with given reductions."""

    def __init__(self, steps: Steps, chosen: Abstraction, depth: int, most: int):
        self._steps, self._chosen = steps, chosen
        self._depth, self._most = depth, most
        self.rows = steps.first(chosen)[None, :]
        self._seen = _Seen(self.rows)
        self._parents = np.array([[-1, -1]], np.int32)  # state, move
        self._links: list[np.ndarray] = []  # successors by pushes; -1: no such push
        self._released: list[np.ndarray] = []
        self.level = self.transitions = 0
        self.complete = False
        self.path: Sequence[Action] | None = None  # to what broke a property
        self.kind = ""

    def run(self) -> Abstraction | None:
        """Searches; other reductions to begin anew with, if a hypothesis was wrong."""
        low = 0
        while self.level < self._depth:
            high = len(self.rows)
            if low == high or high >= self._most:
                break
            fresh, origin = [], []
            links = np.full((high - low, self._steps.pushes), -1, np.int32)
            size = THOROUGH if high - low <= 4 * THOROUGH else CHUNK
            for begin in range(low, high, size):
                rows = self.rows[begin : min(begin + size, high)]
                out = self._steps(rows, self._chosen, self._chosen)
                if out.unequal.any():
                    return self._weaker(rows[out.unequal.any(1)])
                broken = np.argwhere(out.valid & (out.broken != 0))
                if len(broken):
                    at, move = broken[0]
                    self.kind = invariants.KINDS[_lowest(int(out.broken[at, move]))]
                    self.path = [*self._way(int(begin + at)), self._steps.moves[move]]
                    return None
                at, move = np.nonzero(out.valid)
                self.transitions += len(at)
                places, new = self._seen.add(out.rows[at, move])
                fresh.append(out.rows[at[new], move[new]])
                origin.append(np.stack([begin + at[new], move[new]], axis=1))
                push = move < self._steps.pushes
                links[begin - low + at[push], move[push]] = places[push]
                self._released.append(out.released[:, : self._steps.pushes])
            self._links.append(links)
            self.rows = np.concatenate([self.rows, *fresh])
            self._parents = np.concatenate([self._parents, *origin]).astype(np.int32)
            low = high
            if len(self.rows) > high:
                self.level += 1
        self.complete = low == len(self.rows)
        self._answered()
        return None

    def confirmed(self) -> bool:
        """Whether the violation is there without any reduction."""
        assert self.path is not None
        if self.kind == "starvation":
            return True
        none = self._steps.reduction.none()
        row = self._steps.first(none)
        for move in self.path:
            place = next(
                i for i, m in enumerate(self._steps.moves) if repr(m) == repr(move)
            )
            out = self._steps(row[None, :], none, none)
            row, broken = out.rows[0, place], out.broken[0, place]
        return bool(broken >> invariants.KINDS.index(self.kind) & 1)

    def _weaker(self, rows: np.ndarray) -> Abstraction:
        """The reductions without those that these states prove wrong."""
        chosen, reduction = self._chosen, self._steps.reduction
        weaker = chosen
        for hypothesis in np.flatnonzero(chosen.hypotheses).tolist():
            out = self._steps(rows, chosen, reduction.only(chosen, hypothesis))
            if out.unequal.any():
                weaker = reduction.without(weaker, hypothesis)
        return reduction.none() if weaker is chosen else weaker

    def _way(self, state: int) -> list[Action]:
        """The actions that lead to a state."""
        moves = []
        while state > 0:
            state, move = self._parents[state]
            moves.append(self._steps.moves[move])
        return moves[::-1]

    def _answered(self) -> None:
        """Looks for the first state in which somebody waits for ever.

        A state that was not expanded counts as one where everybody may be answered.
        """
        if not self._links:
            return
        links, released = np.concatenate(self._links), np.concatenate(self._released)
        known = len(links)
        answered = np.ones((len(self.rows), self._steps.num_workers), bool)
        answered[:known] = False
        possible = (links >= 0)[:, :, None]
        while True:
            by_push = possible & (released | answered[links])
            after = by_push.any(axis=1)
            if (after == answered[:known]).all():
                break
            answered[:known] = after
        column = self._steps.layout.column
        waits = column(self.rows, ".clocks.waiting") & column(
            self.rows, ".clocks.alive"
        )
        stuck = np.flatnonzero(((waits > 0) & ~answered).any(axis=1))
        if len(stuck):
            self.kind, self.path = "starvation", self._way(int(stuck[0]))


class _Seen:
    """Which rows were seen, by their hashes; equal hashes are compared."""

    def __init__(self, rows: np.ndarray):
        self._generator = np.random.default_rng(0)
        self._rows = np.empty((1024, rows.shape[1]), np.int32)
        self._count = 0
        self._hashes = np.empty(0, np.uint64)  # in order
        self._order = np.empty(0, np.int64)  # numbers of their states
        self._again()
        self.add(rows)

    def add(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes rows in.

        Returns:
          `(places, new)`: the number of each row's state, and the indices in `rows`
          of those that were new, in the order of their numbers.
        """
        while True:
            hashes = self._hash(rows)
            _, first, inverse = np.unique(
                hashes, return_index=True, return_inverse=True
            )
            unique = rows[first]
            at = np.searchsorted(self._hashes, hashes[first])
            at = np.minimum(at, max(len(self._hashes) - 1, 0))
            if self._count:
                known = self._hashes[at] == hashes[first]
                old = self._order[at]
                same = (self._rows[old] == unique).all(axis=1)
            else:
                known = np.zeros(len(first), bool)
                old, same = np.zeros(len(first), np.int64), known
            # Different rows of one hash: seldom, and then with other hashes.
            if (known & ~same).any() or (unique[inverse] != rows).any():
                self._again()
                continue
            break
        new = np.sort(first[~known])  # in the order in which they were found
        place_of = np.empty(len(rows), np.int64)
        place_of[new] = self._count + np.arange(len(new))
        numbers = np.where(known, old, place_of[first])
        self._keep(rows[new], hashes[new])
        return numbers[inverse], new

    def _keep(self, rows: np.ndarray, hashes: np.ndarray) -> None:
        count = self._count + len(rows)
        if count > len(self._rows):
            grown = np.empty((2 * count, self._rows.shape[1]), np.int32)
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        self._rows[self._count : count] = rows
        together = np.concatenate([self._hashes, hashes])
        numbers = np.concatenate([self._order, np.arange(self._count, count)])
        order = np.argsort(together, kind="stable")
        self._hashes, self._order = together[order], numbers[order]
        self._count = count

    def _again(self) -> None:
        """Other hashes."""
        width = self._rows.shape[1]
        self._factors = self._generator.integers(
            2**63, size=width, dtype=np.uint64
        ) * np.uint64(2) + np.uint64(1)
        hashes = self._hash(self._rows[: self._count])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def _hash(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.int64).view(np.uint64) @ self._factors


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
