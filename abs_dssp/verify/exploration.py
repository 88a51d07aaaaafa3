"""Breadth-first search over all orders of events, from one alphabet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from abs_dssp.verify import invariants, postponement, progress
from abs_dssp.verify.abstraction import BESIDE, NAMES, NEAR, VERSION, Abstraction
from abs_dssp.verify.seen import Seen
from abs_dssp.verify.step import CHUNK, PLAIN, Action, Alphabet, Steps

# By default, states that are compared with themselves under all small shifts, after the
# search.
PROBED = 64


class Extent(NamedTuple):
    """What one search covered."""

    reduced: bool
    gaps: tuple[float, ...]  # seconds between events; empty if the rule reads no time
    losses: tuple[float, ...]  # empty if the rule reads none
    states: int  # distinct, after reduction
    transitions: int
    depth: int  # events in the longest of the shortest ways to a state
    frontier: int  # states whose successors were not looked at
    undecided: int  # states, those included, from which progress was not shown
    first_undecided: int  # events after which the first of these comes; -1: none
    compared: int  # states under a small shift, with those that they should be like
    kept: tuple[str, ...]  # what the rule tells apart although it might not have
    wakes: bool = False  # whether the rule sets deadlines, which were tried too

    @property
    def complete(self) -> bool:
        """Whether nothing new was left: the fixed point."""
        return self.frontier == 0


class Exploration:
    """One search with given reductions."""

    def __init__(
        self,
        steps: Steps,
        chosen: Abstraction,
        depth: int,
        most: int,
        alphabet: Alphabet = PLAIN,
        probed: int = PROBED,
    ):
        self.steps, self.chosen, self._alphabet = steps, chosen, alphabet
        self._depth, self._most, self._probed = depth, most, probed
        self.rows = steps.first(chosen)[None, :]
        self._seen = Seen(self.rows)
        self._parents = np.array([[-1, -1]], np.int32)  # state, move
        # Successors by pushes and timers; -1: no such event.
        self._links: list[np.ndarray] = []
        self._reached: list[np.ndarray] = []
        self._expanded = 0
        self.level = self.transitions = 0
        self._compared = 0
        self._undecided = np.empty(0, np.int64)
        self._lasting: progress.Finding | None = None
        self.path: Sequence[Action] = ()  # to what broke a property
        self.kind = ""

    def run(self) -> Abstraction | None:
        """Searches; other reductions to begin anew with, if a hypothesis was wrong."""
        while self.level < self._depth and not self.kind:
            low, high = self._expanded, len(self.rows)
            if low == high or high >= self._most:
                break
            wrong = self._next_level(low, high)
            if wrong is not None:
                return wrong
        if not self.kind:
            wrong = self._compare_more()
            if wrong is not None:
                return wrong
            self._examine()
        # A cycle of pushes that put a deadline off has been tried without reductions.
        if self.kind and self.kind != "postponed" and not self._confirmed():
            return self.steps.reduction.none()
        return None

    @property
    def extent(self) -> Extent:
        """What was covered."""
        steps, use = self.steps, self.chosen.hypotheses
        kept = [NAMES[i] for i in np.flatnonzero(~use)] if use.any() else []
        if use[VERSION] and self.chosen.floor:
            kept.append(f"versions up to {self.chosen.floor}")
        return Extent(
            reduced=bool(use.any() or self.chosen.left_out),
            gaps=self._alphabet.gaps if steps.timed else (),
            losses=self._alphabet.losses if steps.loss else (),
            states=len(self.rows),
            transitions=self.transitions,
            depth=self.level,
            frontier=len(self.rows) - self._expanded,
            undecided=len(self._undecided),
            first_undecided=(
                len(self._way(int(self._undecided[0]))) if len(self._undecided) else -1
            ),
            compared=self._compared if use.any() else 0,
            kept=tuple(kept),
            wakes=steps.wakes,
        )

    def _next_level(self, low: int, high: int) -> Abstraction | None:
        fresh, origin = [], []
        pushes = self.steps.pushes
        links = np.full((high - low, pushes), -1, np.int32)
        for begin in range(low, high, CHUNK):
            rows = self.rows[begin : min(begin + CHUNK, high)]
            out = self._ask(rows, self.chosen, begin)
            if out.unequal.any():
                return self._weaker(rows[out.unequal.any(1)], begin)
            broken = np.argwhere(out.valid & (out.broken != 0))
            if len(broken):
                at, move = broken[0]
                self.kind = invariants.first_kind(int(out.broken[at, move]))
                self.path = self._actions([*self._way(int(begin + at)), int(move)])
                return None
            at, move = np.nonzero(out.valid)
            self.transitions += len(at)
            places, new = self._seen.add(out.rows[at, move])
            fresh.append(out.rows[at[new], move[new]])
            origin.append(np.stack([begin + at[new], move[new]], axis=1))
            push = move < pushes
            links[begin - low + at[push], move[push]] = places[push]
            self._reached.append(out.reached[:, :pushes])
        self._links.append(links)
        self.rows = np.concatenate([self.rows, *fresh])
        self._parents = np.concatenate([self._parents, *origin]).astype(np.int32)
        self._expanded = high
        if len(self.rows) > high:
            self.level += 1
        return None

    def _ask(self, rows: np.ndarray, probed: Abstraction, offset: int):
        self._compared += min(CHUNK, NEAR * len(rows))
        return self.steps(rows, self.chosen, probed, self._alphabet, offset)

    def _compare_more(self) -> Abstraction | None:
        """Compares some states, spread over all, under every small shift."""
        if not self.chosen.hypotheses.any():
            return None
        count = min(self._probed, len(self.rows))
        some = np.unique(np.linspace(0, len(self.rows) - 1, count).astype(int))
        each = max(CHUNK // NEAR, 1)
        for begin in range(0, len(some), each):
            rows = self.rows[some[begin : begin + each]]
            out = self._ask(rows, self.chosen, 0)
            if out.unequal.any():
                return self._weaker(rows[out.unequal.any(1)], 0)
        return None

    def _weaker(self, rows: np.ndarray, offset: int) -> Abstraction:
        """The reductions without those that these states prove wrong."""
        chosen, reduction = self.chosen, self.steps.reduction
        rows = rows[: max(CHUNK // NEAR, 1)]  # so that each has every shift
        weaker, wrong = chosen, set()
        for hypothesis in np.flatnonzero(chosen.hypotheses).tolist():
            if BESIDE.get(hypothesis) in wrong:
                continue
            out = self._ask(rows, reduction.only(chosen, hypothesis), offset)
            if out.unequal.any():
                wrong.add(hypothesis)
                weaker = reduction.without(weaker, hypothesis)
        return reduction.none() if weaker is chosen else weaker

    def _way(self, state: int) -> list[int]:
        """The moves that lead to a state."""
        moves = []
        while state > 0:
            state, move = self._parents[state]
            moves.append(int(move))
        return moves[::-1]

    def _actions(self, moves: Sequence[int]) -> list[Action]:
        return [self.steps.action(move, self._alphabet) for move in moves]

    def _examine(self) -> None:
        """Whether there is progress from every state."""
        if not self._links:
            return
        column = self.steps.layout.column
        alive = column(self.rows, ".clocks.alive") > 0
        graph = progress.Graph(
            links=np.concatenate(self._links),
            reached=np.concatenate(self._reached),
            alive=alive,
            waiting=(column(self.rows, ".clocks.waiting") > 0) & alive,
            moves=self.steps.moves[: self.steps.pushes],
            goals=self.steps.goals,
            starves=self.steps.properties.starves,
            wakes=column(self.rows, ".wake")[:, 0] > 0 if self.steps.wakes else None,
        )
        found, self._undecided = progress.examine(graph)
        if found is not None:
            self.kind = found.kind
            self._lasting = found
            self.path = self._actions([*self._way(found.state), *found.shown])
            return
        for found in progress.postponed(graph):
            before = self._actions(self._way(found.state))
            turn = postponement.confirmed(
                self.steps.policy,
                self.steps.num_workers,
                before,
                self._actions(found.shown),
                found.goal,
            )
            if turn is not None:
                self.kind, self.path = found.kind, [*before, *turn]
                return

    def _confirmed(self) -> bool:
        """Whether the violation is there without any reduction."""
        steps, none = self.steps, self.steps.reduction.none()
        row = steps.first(none)
        way = self.path
        found = self._lasting
        if found is not None:
            before = len(self._way(found.state))
            way = [*self.path[:before], *self._actions(found.lasting)]
        for number, action in enumerate(way):
            place = next(
                i
                for i, move in enumerate(steps.moves)
                if move.kind == action.kind
                and (action.kind == "timer" or move.worker == action.worker)
            )
            gaps = (action.seconds, action.seconds)
            alphabet = Alphabet(gaps, (action.loss, action.loss))
            out = steps(row[None, :], none, none, alphabet)
            row, broken = out.rows[0, place], out.broken[0, place]
            if not out.valid[0, place]:
                return False
            if found is None or number < before:
                continue
            if out.reached[0, place] >> found.goal & 1:
                return False
        if found is not None:
            return True
        return bool(broken >> invariants.KINDS.index(self.kind) & 1)
