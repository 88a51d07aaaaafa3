"""Whether something goes on for ever: properties of the graph of states.

What must be possible, from every state: a commit; an accepted push of each living
worker; a release of each that waits. The order of pushes is ours; the adversary owns
the losses and the intervals, at every event anew. Nobody dies or joins meanwhile:
the states after that are states of their own.

What must come, in every fair order: a commit; a release of each that waits. Here the
adversary owns the order too. An order is fair if every computation ends in a push at
last, unless the rule cancels it. Acceptance is not among these: a rule may discard a
slow worker's pushes as stale for as long as the others are faster.

A deadline is one more that may come, like a push, while there is one: what must be
possible may choose when it comes, and a fair order has it come at last. Unless the rule
puts it off: an order in which pushes do so for ever is fair, too, if it is there at the
times that the rule sets (`postponement`).

A rule that states that it `starves` the "slow" discards what took too long: with it the
intervals are ours too, and nothing must come. One that starves "any" need not accept
everybody.

States of the frontier, whose successors are not known, are never counted as good: a
property is broken if it is even if all of them were good, shown if it holds even if
none of them was, and else undecided.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csgraph, csr_array

# The kinds, and what should hold.
KINDS = {
    "starvation": "A waiting worker can be released by some sequence of pushes, "
    "whatever the losses and intervals.",
    "no commit": "From every state some sequence of pushes leads to a commit, whatever "
    "the losses and intervals.",
    "never accepted": "From every state some sequence of pushes leads to an accepted "
    "push of each living worker, whatever the losses and intervals.",
    "livelock": "While every computation ends in a push at last, there is always "
    "another commit.",
    "left waiting": "While every computation ends in a push at last, whoever waits is "
    "released at last.",
    "postponed": "Pushes do not put off for ever the deadline that alone brings a "
    "commit or releases who waits.",
}

LASTING = 24  # pushes for which a broken property is followed without any reduction


class Graph(NamedTuple):
    """States and what pushes and timers make of them; NumPy. K were expanded, of S."""

    links: np.ndarray  # int32 (K, P), the state afterwards; -1 for no such push
    reached: np.ndarray  # int32 (K, P), bits
    alive: np.ndarray  # bool (S, N)
    waiting: np.ndarray  # bool (S, N), of the living
    # The P pushes and timers: by worker (N at a timer), then interval, then loss.
    moves: Sequence[Any]
    goals: Any  # what the bits mean: `step.Goals`
    starves: str  # one of `policies.base.STARVES`
    wakes: np.ndarray | None = None  # bool (S,), whether there is a deadline


class Finding(NamedTuple):
    """A property that is broken, from a state on."""

    kind: str  # one of KINDS
    state: int
    goal: int  # the bit that is not reached
    shown: list[int]  # moves from there, for readers
    lasting: list[int]  # more of them


def examine(graph: Graph) -> tuple[Finding | None, np.ndarray]:
    """Looks for what is broken.

    Returns:
      `(finding, undecided)`: what breaks in the first state where anything does, or
      None; and the states from which something could not be shown, in their order.
    """
    needed, names = _needed(graph)
    optimistic = _possible(graph, frontier=True)
    complete = len(graph.links) == len(graph.alive)
    shown = optimistic if complete else _possible(graph, frontier=False)
    undecided = np.flatnonzero((needed & ~shown).any(axis=1))
    broken = np.argwhere(needed & ~optimistic)
    if len(broken):
        state = int(broken[0, 0])
        goals = broken[broken[:, 0] == state, 1]
        goal = min(goals.tolist(), key=lambda g: list(KINDS).index(names[g]))
        lasting = _losing_pushes(graph, optimistic[:, goal], state, goal)
        shown_moves = [] if names[goal] == "starvation" else lasting[: _workers(graph)]
        return Finding(names[goal], state, goal, shown_moves, lasting), undecided
    return _avoided(graph), undecided


def _workers(graph: Graph) -> int:
    return graph.alive.shape[1]


def _needed(graph: Graph) -> tuple[np.ndarray, list[str]]:
    """Which goals a state needs, bool (S, G), and the kind of each if it is missed."""
    count = _workers(graph)
    goals = graph.goals
    needed = np.zeros((len(graph.alive), 1 + 2 * count), bool)
    names = [""] * needed.shape[1]
    needed[:, goals.commit] = graph.alive.any(axis=1)
    names[goals.commit] = "no commit"
    for worker in range(count):
        accepted, released = goals.accepted[worker], goals.released[worker]
        needed[:, accepted] = graph.alive[:, worker] & (graph.starves != "any")
        needed[:, released] = graph.waiting[:, worker]
        names[accepted], names[released] = "never accepted", "starvation"
    return needed, names


def _shape(graph: Graph) -> tuple[int, int, int]:
    """Workers, intervals and losses, which number the pushes."""
    last = graph.moves[-1]
    return last.worker + 1, last.gap + 1, last.loss + 1


def _possible(graph: Graph, frontier: bool) -> np.ndarray:
    """From which states each goal can be reached, bool (S, G).

    Args:
      graph: the states.
      frontier: what those count as that were not expanded.
    """
    known, pushes = graph.links.shape
    count = _workers(graph)
    bits = np.arange(1 + 2 * count)
    reached = (graph.reached[:, :, None] >> bits & 1).astype(bool)
    good = np.full((len(graph.alive), len(bits)), frontier)
    good[:known] = False
    possible = (graph.links >= 0).reshape(known, *_shape(graph))[:, :, 0, 0]
    while True:
        after = (reached | good[graph.links]).reshape(known, *_shape(graph), len(bits))
        after = after.all(axis=3)  # the adversary's loss
        after = after.any(axis=2) if graph.starves == "slow" else after.all(axis=2)
        after = (after & possible[:, :, None]).any(axis=1)  # our worker
        if (after == good[:known]).all():
            return good
        good[:known] = after


def _losing_pushes(graph: Graph, good: np.ndarray, state: int, goal: int) -> list[int]:
    """Pushes of one worker after the other by which the adversary keeps a goal away."""
    moves: list[int] = []
    count = _workers(graph)
    of_worker = np.array([move.worker for move in graph.moves])
    turn = (goal - 1) % count if goal else 0  # whom the goal is about comes first
    while len(moves) < LASTING and state < len(graph.links):
        links, missed = graph.links[state], graph.reached[state] >> goal & 1 == 0
        losing = np.flatnonzero((links >= 0) & missed & ~good[links])
        if not len(losing):
            break
        order = (of_worker[losing] - turn) % count
        move = int(losing[np.argmin(order)])
        moves.append(move)
        state, turn = int(links[move]), of_worker[move] + 1
    return moves


def _avoided(graph: Graph) -> Finding | None:
    """The first state from which a fair order keeps a commit or a release away."""
    return next(_cycles(graph, puts_off=False), None)


def postponed(graph: Graph) -> Iterator[Finding]:
    """Cycles that are fair if the deadline is put off, which `Graph` does not tell."""
    if graph.wakes is not None:
        for found in _cycles(graph, puts_off=True):
            yield found._replace(kind="postponed")


def _cycles(graph: Graph, puts_off: bool) -> Iterator[Finding]:
    """Fair cycles that keep a commit or a release away, one for each of these.

    Args:
      graph: the states.
      puts_off: whether a deadline need not come that a push replaces by another.
    """
    if graph.starves == "slow":
        return
    goals = [(graph.goals.commit, "livelock", graph.alive.any(axis=1))]
    goals += [
        (int(released), "left waiting", waits)
        for released, waits in zip(graph.goals.released, graph.waiting.T, strict=True)
    ]
    for goal, kind, among in goals:
        cycle = _fair_cycle(graph, goal, among, puts_off)
        if cycle:
            state, moves = cycle
            turns = -(-LASTING // len(moves))
            yield Finding(kind, state, goal, moves, moves * turns)


def _fair_cycle(graph: Graph, goal: int, among: Any, puts_off: bool):
    """A fair cycle that stays `among` these states and never reaches the goal.

    Returns:
      `(state, moves)`: where it begins, and once around; None if there is none.
    """
    known, count = len(graph.links), _workers(graph)
    inside = (graph.links >= 0) & (graph.links < known) & among[:known, None]
    inside &= (graph.reached >> goal & 1 == 0) & among[graph.links]
    source, move = np.nonzero(inside)
    target = graph.links[source, move]
    if not len(source):
        return None
    ones = np.ones(len(source), bool)
    matrix = csr_array((ones, (source, target)), shape=(known, known))
    _, part = csgraph.connected_components(matrix, connection="strong")
    within = part[source] == part[target]
    source, move, target = source[within], move[within], target[within]
    # Fair to a worker are a push of it, its cancellation, and that it computes nothing.
    worker = np.array([each.worker for each in graph.moves])[move]
    reached = graph.reached[source, move]
    idle = ~graph.alive[:known] | graph.waiting[:known]
    fair_edge = np.stack(
        [
            (worker == i) | (reached >> graph.goals.restarted[i] & 1 == 1)
            for i in range(count)
        ]
    )
    if graph.wakes is not None:  # a deadline is waited for like one more worker
        idle = np.concatenate([idle, ~graph.wakes[:known, None]], axis=1)
        served = worker == count
        if puts_off:
            served = served | (reached >> graph.goals.reset & 1 == 1)
        fair_edge = np.concatenate([fair_edge, served[None]])
        count += 1
    fair = np.zeros((part.max() + 1, count), bool)
    for i in range(count):
        fair[part[source[fair_edge[i]]], i] = True
        fair[part[source[idle[source, i]]], i] = True
    fair_parts = np.flatnonzero(fair.all(axis=1))
    mine = np.isin(part[source], fair_parts)
    if not mine.any():
        return None
    first = int(source[mine].min())
    mine = part[source] == part[first]
    edges = _Edges(source[mine], move[mine], target[mine])
    return first, _round(edges, first, fair_edge[:, mine], idle.T)


class _Edges(NamedTuple):
    source: np.ndarray
    move: np.ndarray
    target: np.ndarray


def _round(edges: _Edges, start: int, fair_edge: np.ndarray, idle: np.ndarray):
    """Moves around from `start` and back, fair to everybody on the way."""
    leaving: dict[int, list[int]] = {}
    for number, source in enumerate(edges.source.tolist()):
        leaving.setdefault(source, []).append(number)
    walk: list[int] = []
    at = start
    for worker in range(len(fair_edge)):
        visited = [start, *edges.target[walk].tolist()]
        if fair_edge[worker, walk].any() or idle[worker, visited].any():
            continue
        ends = fair_edge[worker] | idle[worker, edges.target]
        walk += _shortest(edges, leaving, at, ends)
        at = int(edges.target[walk[-1]])
    if at != start or not walk:
        walk += _shortest(edges, leaving, at, edges.target == start)
    return edges.move[walk].tolist()


def _shortest(edges: _Edges, leaving, start: int, ends: np.ndarray) -> list[int]:
    """The fewest edges from a state whose last one is among `ends`."""
    ways: dict[int, list[int]] = {start: []}
    level = [start]
    while level:
        following = []
        for state in level:
            for edge in leaving[state]:
                if ends[edge]:
                    return [*ways[state], edge]
                target = int(edges.target[edge])
                if target not in ways:
                    ways[target] = [*ways[state], edge]
                    following.append(target)
        level = following
    raise AssertionError("the states are strongly connected")
