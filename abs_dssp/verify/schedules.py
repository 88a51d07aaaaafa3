"""Thin schedules: from the start, without any reduction, and long.

Beside the search, which takes states for one: what hides from its reductions shows here
if it comes within so many events. Of each schedule every state is asked about every
event, so that what breaks may be one event off all of them.
"""

from typing import NamedTuple

import numpy as np

from abs_dssp.verify import invariants
from abs_dssp.verify.step import CHUNK, ODD, PLAIN, Action, Alphabet, Steps

GAPS = np.array([*PLAIN.gaps, *ODD.gaps], np.float32)
LOSSES = np.array(
    [*PLAIN.losses, *ODD.losses, -1.0, 1e-3, 1e6, np.inf], np.float32
)  # beside the searches' estimates some that none of them has


class Runs(NamedTuple):
    """What the schedules showed."""

    schedules: int
    depth: int  # events in each
    transitions: int  # asked about
    longest: int  # rounds in a row without a commit, see `_Rounds`
    waited: int  # rounds in a row through which somebody waited
    kind: str  # what is broken; "" if nothing
    path: tuple[Action, ...]


class _Plan(NamedTuple):
    """Who pushes, and when; of each schedule and event."""

    order: np.ndarray  # (S, D, N), who pushes: the first that computes
    leaves: np.ndarray  # (S, D), who dies; -1: nobody
    joins: np.ndarray  # (S, D), who joins; -1: nobody
    gaps: np.ndarray  # float32 (S, D, 2); the first one passes
    losses: np.ndarray  # float32 (S, D, 2); the first one is shown
    timers: np.ndarray  # bool (S, D), whether a deadline comes, if there is one


def run(steps: Steps, depth: int) -> Runs:
    """Follows CHUNK schedules for `depth` events each."""
    none = steps.reduction.none()
    plan = _plan(steps, depth)
    schedules = np.arange(CHUNK)
    rows = np.repeat(steps.first(none)[None, :], CHUNK, axis=0)
    column = steps.layout.column
    taken = np.full((CHUNK, depth), -1)
    rounds = _Rounds(steps)
    transitions = 0
    place = _places(steps)
    for event in range(depth):
        alphabets = Alphabet(plan.gaps[:, event], plan.losses[:, event])
        out = steps(rows, none, none, alphabets)
        transitions += int(out.valid.sum())
        broken = np.argwhere(out.valid & (out.broken != 0))
        if len(broken):
            at, last = (int(each) for each in broken[0])
            kind = invariants.first_kind(int(out.broken[at, last]))
            path = _actions(steps, plan, at, [*taken[at, :event].tolist(), last])
            return Runs(CHUNK, event + 1, transitions, *rounds.longest, kind, path)
        alive = column(rows, ".clocks.alive") > 0
        waits = alive & (column(rows, ".clocks.waiting") > 0)
        computes = alive & ~waits
        rounds.begin(computes, waits)
        order = plan.order[:, event]
        able = np.take_along_axis(computes, order, axis=1)
        pusher = order[schedules, np.argmax(able, axis=1)]
        move = np.where(able.any(axis=1), place["push"][pusher], -1)
        for kind, wanted in (("leave", plan.leaves), ("join", plan.joins)):
            if kind in place:
                who = wanted[:, event]
                chosen = place[kind][who]
                move = np.where((who >= 0) & out.valid[schedules, chosen], chosen, move)
        if "timer" in place:
            chosen = place["timer"][-1]
            comes = (plan.timers[:, event] | (move < 0)) & out.valid[:, chosen]
            move = np.where(comes, chosen, move)
        goes = move >= 0
        rows = np.where(goes[:, None], out.rows[schedules, move], rows)
        taken[:, event] = move
        rounds.end(np.where(goes, move, -1), out.reached[schedules, move])
    return Runs(CHUNK, depth, transitions, *rounds.longest, "", ())


class _Rounds:
    """Counts rounds without a commit, and rounds that somebody waits; by schedule.

    A round ends when whoever computed at its beginning has pushed, was cancelled or has
    died: so a schedule that is not fair to somebody has no second one.
    """

    def __init__(self, steps: Steps):
        self._steps = steps
        self._owed = np.zeros((CHUNK, steps.num_workers), bool)
        # Without a commit, and of each worker without a release.
        self._count = np.zeros((CHUNK, 1 + steps.num_workers), int)
        self._most = np.zeros(1 + steps.num_workers, int)

    @property
    def longest(self) -> tuple[int, int]:
        """Most rounds in a row without a commit, and that somebody waited."""
        return int(self._most[0]), int(self._most[1:].max())

    def begin(self, computes: np.ndarray, waits: np.ndarray) -> None:
        """Before an event; who computes and who waits, bool (S, N)."""
        self._waits = waits
        self._count[:, 1:] *= waits
        self._owed &= computes
        ended = ~self._owed.any(axis=1)
        self._owed[ended] = computes[ended]

    def end(self, moves: np.ndarray, reached: np.ndarray) -> None:
        """After it: moves (S,), -1 for no event, and what they brought about, (S,)."""
        goals, pushes = self._steps.goals, self._steps.pushes
        pushed = (moves >= 0) & (moves < pushes)
        worker = np.array([move.worker for move in self._steps.moves])[moves]
        cancelled = reached[:, None] >> goals.restarted & 1 == 1
        pusher = worker[:, None] == np.arange(self._steps.num_workers)
        self._owed &= ~(pushed[:, None] & (cancelled | pusher))
        ended = pushed & ~self._owed.any(axis=1)
        self._count[:, 0] += ended
        self._count[:, 1:] += ended[:, None] & self._waits
        commit = pushed & (reached >> goals.commit & 1 == 1)
        released = pushed[:, None] & (reached[:, None] >> goals.released & 1 == 1)
        self._count[commit, 0] = 0
        self._count[:, 1:] *= ~released
        self._most = np.maximum(self._most, self._count.max(axis=0))


def _places(steps: Steps) -> dict[str, np.ndarray]:
    """The first move of each kind and worker."""
    places: dict[str, np.ndarray] = {}
    for number, move in enumerate(steps.moves):
        if move.gap == move.loss == 0:
            empty = np.zeros(steps.num_workers + 1, int)  # the last one: of a timer
            places.setdefault(move.kind, empty)[move.worker] = number
    return places


def _actions(steps, plan, schedule, moves) -> tuple[Action, ...]:
    """The moves of a schedule as actions; -1 is an event at which nothing came."""
    return tuple(
        steps.action(
            move, Alphabet(plan.gaps[schedule, event], plan.losses[schedule, event])
        )
        for event, move in enumerate(moves)
        if move >= 0
    )


def _plan(steps: Steps, depth: int) -> _Plan:
    """Some regular, some random; the same ones every time."""
    random = np.random.default_rng(0)
    count = steps.num_workers
    number, event = np.arange(CHUNK)[:, None], np.arange(depth)[None, :]
    turn = number // 16
    first = np.select(
        [number % 8 == kind for kind in range(5)],
        [
            turn + 0 * event,  # one alone, the others where it waits
            turn + event,  # in turns
            event // (2 + turn % 9),  # bursts
            np.where(event % (3 + turn % 5) == 0, turn + 1, turn),  # one seldom
            np.where(event < depth // 2, turn, turn + 1),  # one after the other
        ],
        random.integers(count, size=(CHUNK, depth)),
    )
    order = (first[:, :, None] + np.arange(count)) % count
    # Half of them with a death, most of these with a join some time later.
    dies = np.where(number[:, 0] // 8 % 2, random.integers(depth, size=CHUNK), -1)
    back = dies + 1 + random.integers(depth // 2 + 1, size=CHUNK)
    who = random.integers(count, size=CHUNK)[:, None]
    leaves = np.where(event == dies[:, None], who, -1)
    joins = np.where((event == back[:, None]) & (dies >= 0)[:, None], who, -1)
    return _Plan(
        order,
        leaves,
        joins,
        _pairs(random, GAPS, depth),
        _pairs(random, LOSSES, depth),
        random.random((CHUNK, depth)) < 0.25,
    )


def _pairs(random, values: np.ndarray, depth: int) -> np.ndarray:
    """Two of the values for each event; in half of the schedules always the same."""
    drawn = random.integers(len(values), size=(CHUNK, depth, 2))
    constant = np.arange(CHUNK) % 2 == 0
    drawn[constant] = drawn[constant, :1]
    return values[drawn].astype(np.float32)
